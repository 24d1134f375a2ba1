"""Opening studies: create or resume one, look at one, list them."""

from __future__ import annotations

import gc
import logging
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from optuna.storages import BaseStorage, InMemoryStorage
from pydantic import ValidationError

import rankray
from rankray.config.lenient import readable
from rankray.config.schema import Config
from rankray.config.space import baseline_points
from rankray.errors import StoreError, nearest, printable
from rankray.store.ask import Plan
from rankray.store.backend import RetryingStorage, connect
from rankray.store.claims import IDENTITY, SUFFIX, Claims, find_or_create
from rankray.store.identity import as_stored, check_same, snapshot
from rankray.store.leases import asked_trials
from rankray.store.migrate import CONFIG, continued, current, migrate_study, migrated, migrated_config
from rankray.store.names import study_names
from rankray.store.records import PROVENANCE, TRIALS
from rankray.store.stored import reading, whole
from rankray.store.strategies import check, direction
from rankray.store.trials import StudyStore
from rankray.store.urls import masked
from rankray.store.warm import check_earlier, earlier_points

logger = logging.getLogger(__name__)

BUDGET = "rankray:budget"
STORAGE = "rankray:storage"
"""Where the study was last told to write: it may be moved (`FREE_FIELDS`)."""
VERSIONS = "rankray:versions"
PART = "rankray:part"
"""Attribute of a study that is being copied or deleted and must not be opened: which of the two."""


def open_study(
    url: str,
    config: Config,
    *,
    provenance: Mapping[str, Any] | None = None,
    lease_seconds: float | None = None,
    plan: Plan | None = None,
) -> StudyStore:
    """Create a study, or open it again to resume it.

    What the study is (its identity) is the first claim of its claims study, which is one write. It is copied into the
    study's attributes for all readers of those. So drivers that open a new study at the same moment agree on it. A
    study of an earlier version of rankray is brought up to date (`migrate`).

    Args:
        url: where the store is.
        config: the resolved configuration; its name is the study's name.
        provenance: what else to store about its origin, as plain JSON types; `data` and `model` are fingerprints, and
            must stay the same.
        lease_seconds: how long a driver may be silent before it is declared dead; RANKRAY_LEASE_SECONDS, or 60, if
            None.
        plan: says from the study's trials so far which points are to be tried, as (origin, params), and nothing else is
            tried. It is asked often, by every driver, and each must give the same answer. None tries the points that
            the configuration names, then what the sampler proposes.

    Raises:
        StudyMismatch: the study exists and was made from another configuration, data or model.
        StoreError: the URL is wrong, a newer version of rankray wrote the study, or it names an earlier study that has
            nothing to give (`warm`).
        ConfigError: the sampler or the pruner is unknown, or its options are wrong.
        StoreUnavailable: the store does not answer.
    """
    check(config)
    storage = connect(url)
    with reading(config.name):
        return _open(storage, masked(url), config, dict(provenance or {}), lease_seconds, plan)


def open_rehearsal(config: Config) -> StudyStore:
    """Open a new study that is kept in this process's memory, and nowhere else.

    Raises:
        ConfigError: the sampler or the pruner is unknown, or its options are wrong.
    """
    check(config)
    return _open(RetryingStorage(InMemoryStorage(), "memory://"), "memory://", config, {}, None, None)


def _open(
    storage: RetryingStorage,
    shown_url: str,
    config: Config,
    provenance: dict[str, Any],
    lease_seconds: float | None,
    plan: Plan | None,
) -> StudyStore:
    given = {
        "id": uuid.uuid4().hex,
        "schema": current(),
        "config": snapshot(config),
        "provenance": provenance,
        "versions": versions(),
    }
    if config.name not in study_names(storage):
        check_earlier(storage, config)
    _refuse_foreign(storage, shown_url, config.name)
    claims = Claims(storage, find_or_create(storage, config.name + SUFFIX, direction(config)))
    claims.refresh()
    refuse_parts(storage, config.name, claims.study_id)
    identity = claims.first(IDENTITY) or claims.enter(IDENTITY, given)
    stored, config = migrated(config.name, identity), continued(config, identity)
    check_same(config.name, stored, {**given, "config": snapshot(config)})
    config = as_stored(config, stored["config"])
    earlier = earlier_points(storage, claims, config)
    study_id = find_or_create(storage, config.name, direction(config))
    migrate_study(storage, study_id, config.name)
    _describe(storage, study_id, stored, config)
    points = [*baseline_points(config), *earlier] if plan is None else plan
    study = StudyStore(storage, study_id, claims, config, url=shown_url, lease_seconds=lease_seconds, points=points)
    _read(study).note_budget(lower=True)
    return study


def attach(url: str, name: str) -> StudyStore:
    """Open a study to look at it: nothing is created, and what would write is refused.

    Raises:
        StoreError: there is no such store or no such study, or a newer version of rankray wrote the study.
        StoreUnavailable: the store does not answer.
    """
    storage = connect(url, create=False)
    try:
        with reading(name):
            return _attached(storage, url, name)
    except BaseException:
        storage.disconnect()
        raise


@contextmanager
def looking(url: str, name: str) -> Iterator[StudyStore]:
    """Attach a study for the block, and leave no connection behind: for who looks at many, or again and again.

    Raises:
        StoreError, StoreUnavailable: as for `attach`.
    """
    study = attach(url, name)
    try:
        yield study
    finally:
        study.storage.disconnect()


def _attached(storage: RetryingStorage, url: str, name: str) -> StudyStore:
    names = study_names(storage)
    if name not in names:
        listed = ", ".join(names) or "none yet"
        raise StoreError(
            f"study {name}: there is none of this name in {masked(url)}{nearest(name, names)}; "
            f"studies there: {listed}; give one of these, or another --store"
        )
    claims_id = _claims_id(storage, name)
    refuse_parts(storage, name, claims_id)
    study_id = storage.get_study_id_from_name(name)
    attributes = storage.get_study_user_attrs(study_id)
    stored = migrated_config(name, attributes)
    trials = max([whole(attributes.get(TRIALS)) or 0, *asked_trials(storage.get_study_user_attrs(claims_id))])
    latest = {"trials": trials or None, "budget": attributes.get(BUDGET)}
    stored["study"] = {**stored["study"], **{key: value for key, value in latest.items() if value is not None}}
    stored["storage"] = attributes.get(STORAGE) or stored["storage"]
    try:
        config, refused = readable(stored, masked(url))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors())
        raise StoreError(
            f"study {name}: stored by another version of rankray, which differs in {fields}; "
            f"allowed: what rankray {rankray.__version__} knows; use the version that made the study"
        ) from None
    if config.name != name:
        raise StoreError(
            f"study {name}: its configuration is stored under another name; allowed: its own; restore a backup of the "
            "store"
        )
    claims = Claims(storage, claims_id)
    claims.refresh()
    study = StudyStore(storage, study_id, claims, config, url=masked(url), read_only=True)
    study.refused = refused
    return study


def _claims_id(storage: RetryingStorage, name: str) -> int:
    try:
        return storage.get_study_id_from_name(name + SUFFIX)
    except KeyError:
        raise StoreError(
            f"study {name}: a part of it is missing ({name}{SUFFIX}); allowed: whole studies; restore a backup of the "
            "store, or delete it with optuna"
        ) from None


def list_studies(url: str) -> list[str]:
    """Return the names of the studies in a store.

    Raises:
        StoreError: there is no such store.
        StoreUnavailable: the store does not answer.
    """
    storage = connect(url, create=False)
    try:
        return [printable(name) for name in study_names(storage)]
    finally:
        storage.disconnect()


def _refuse_foreign(storage: BaseStorage, shown_url: str, name: str) -> None:
    """Refuse a name under which another program keeps a study: of rankray's own, the claims are made first.

    Raises:
        StoreError: there is such a study; its trials would be taken for ours.
    """

    def is_there(each: str) -> bool:
        with suppress(KeyError):
            return storage.get_study_id_from_name(each) is not None
        return False

    if is_there(name) and not is_there(name + SUFFIX):
        raise StoreError(
            f"study {name}: {shown_url} has a study of this name that is not one of rankray's, or has lost a part "
            f"({name}{SUFFIX}); allowed: a name that is free; give another with --name"
        )


def refuse_parts(storage: BaseStorage, name: str, claims_id: int) -> None:
    """Refuse a study of which only a part may be there.

    Raises:
        StoreError: it is being copied or deleted, or that was interrupted.
    """
    part = storage.get_study_user_attrs(claims_id).get(PART)
    if part:
        raise StoreError(
            f"study {name}: it is being {part}, or that was interrupted; wait, or do it again: "
            f"rankray store {'delete' if part == 'deleted' else 'copy'}"
        )


def versions() -> dict[str, str]:
    """Return the versions a result may depend on."""
    found = {"rankray": rankray.__version__, "python": platform.python_version()}
    for package in ("optuna", "ray", "torch", "transformers", "trl"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            logger.debug("versions: %s is not installed", package)
    return found


def _read(study: StudyStore) -> StudyStore:
    """Read a study's history with the garbage collector paused, which would take half of the time.

    A long history is a million objects, none of which is garbage.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        study.trials()
    finally:
        if collects:
            gc.enable()
    return study


def _describe(storage: BaseStorage, study_id: int, stored: Mapping[str, Any], config: Config) -> None:
    """Make the study describe itself. The configuration comes last, because it makes the study visible."""
    have = storage.get_study_user_attrs(study_id)
    wanted = {
        VERSIONS: stored["versions"],
        PROVENANCE: stored["provenance"],
        BUDGET: config.study.budget.model_dump(mode="json"),
        STORAGE: config.storage,
        CONFIG: stored["config"],
    }
    for key, value in wanted.items():
        if have.get(key) != value:
            storage.set_study_user_attr(study_id, key, value)
