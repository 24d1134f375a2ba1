"""Points that a study takes from earlier ones: `study.warm_start` with names of studies.

What an earlier study gives is decided once, by the first driver that opens the new study, and is a claim of the new
study (`claims`): one write, of which the first counts. So every driver, and every later start, tries the same points,
whatever becomes of the earlier study, and a kill before or after that write changes nothing.
"""

from __future__ import annotations

import math
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rankray.config import Distribution, distributions
from rankray.config.lenient import readable
from rankray.config.params import get_path
from rankray.config.schema import Config
from rankray.config.study import PUBLISHED
from rankray.errors import StoreError, StoreUnavailable, nearest
from rankray.store.backend import RetryingStorage, connect
from rankray.store.claims import Claims
from rankray.store.migrate import migrated_config
from rankray.store.names import study_names
from rankray.store.records import is_void, point_key
from rankray.store.stored import reading

GOOD_SHARE = 0.25
"""Which part of an earlier study's complete trials counts as good."""
MOST_POINTS = 5
"""How many points an earlier study gives at most."""
WARM = "warm_start:"
"""How the claim's key and the points' origin start; the earlier study's name follows."""
Points = list[tuple[str, dict[str, Any]]]


def earlier_points(storage: RetryingStorage, claims: Claims, config: Config) -> Points:
    """Return the points of the earlier studies that a study names, as (origin, params), best first within each.

    Args:
        storage: the store of all of them.
        claims: the new study's claims, freshly read.
        config: the new study's configuration.

    Raises:
        StoreError: there is no such study, it has no complete trial, or none of its good points lies in the new space.
        StoreUnavailable: the store does not answer.
    """
    points: Points = []
    for name in _earlier_names(config):
        found = claims.first(WARM + name)
        if found is None:
            found = claims.enter(WARM + name, good_points(storage, name, config))
        points.extend((WARM + name, dict(params)) for params in found)
    return points


def check_earlier(storage: RetryingStorage, config: Config) -> None:
    """Check that the earlier studies have something to give, before anything of a new study is written.

    Raises:
        StoreError, StoreUnavailable: see `earlier_points`.
    """
    for name in _earlier_names(config):
        good_points(storage, name, config)


def check_before(config: Config) -> None:
    """Check the earlier studies that a study names where it is not in its store yet; nothing is written.

    Raises:
        StoreError, StoreUnavailable: see `earlier_points`; or there is no store.
    """
    if _earlier_names(config):
        storage = connect(config.store, create=False)
        if config.name not in study_names(storage):
            check_earlier(storage, config)


def rehearsed(config: Config) -> tuple[Config, list[str]]:
    """Return a configuration for a rehearsal, with points in place of the earlier studies that would give them.

    A rehearsal's study is not in the store of those. What cannot be read there is left out.

    Returns:
        the configuration, and a line for each study that was left out.
    """
    names, said = _earlier_names(config), list[str]()
    if not names:
        return config, said
    points: dict[str, list[dict[str, Any]]] = {}
    try:
        storage = connect(config.store, create=False)
        for name in names:
            try:
                points[name] = good_points(storage, name, config)
            except StoreError as error:
                said.append(f"left out of the rehearsal: {error}")
    except (StoreError, StoreUnavailable) as error:
        said.append(f"left out of the rehearsal: {', '.join(names)}: {error}")
    kept: list[str | dict[str, Any]] = []
    for each in config.study.warm_start:
        kept += points.pop(each, []) if isinstance(each, str) and each in names else [each]
    return config.model_copy(update={"study": config.study.model_copy(update={"warm_start": kept})}), said


def _earlier_names(config: Config) -> list[str]:
    """Return the names of the earlier studies, each once."""
    names = [each for each in config.study.warm_start if isinstance(each, str) and each != PUBLISHED]
    return list(dict.fromkeys(names))


def good_points(storage: RetryingStorage, name: str, config: Config) -> list[dict[str, Any]]:
    """Return the good points of one earlier study that a new space contains, best first, without repetitions.

    Good are the best quarter of its complete trials by its own metric, at least one and at most five. A field that
    the earlier study had fixed counts with its fixed value.

    Raises:
        StoreError, StoreUnavailable: see `earlier_points`.
    """
    where = f"study.warm_start: {name}"
    others = [each for each in study_names(storage) if each != config.name]
    if name not in others:
        raise StoreError(
            f"{where}: there is no other study of this name in the store{nearest(name, others)}; "
            f"allowed: {', '.join(sorted(others)) or 'none yet'}; give one of these, or a mapping of paths to values"
        )
    with reading(name):
        study_id = storage.get_study_id_from_name(name)
        earlier, _ = readable(migrated_config(name, storage.get_study_user_attrs(study_id)), "sqlite:///unused.db")
        complete = [
            trial
            for trial in storage.get_all_trials(study_id, deepcopy=False)
            if trial.state == TrialState.COMPLETE and not is_void(trial)
        ]
    if not complete:
        raise StoreError(f"{where}: no trial of it is complete; needed: one or more; finish one, or leave it out")
    sign = -1.0 if earlier.direction == "maximize" else 1.0
    ranked = sorted(complete, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))
    good = ranked[: min(MOST_POINTS, math.ceil(GOOD_SHARE * len(ranked)))]
    points = {point_key(point): point for trial in good if (point := _translated(trial, earlier, config)) is not None}
    if not points:
        raise StoreError(
            f"{where}: none of its {len(good)} best trials lies in this space; allowed: values that space: contains; "
            "widen the space, or leave it out"
        )
    return list(points.values())


def _translated(trial: FrozenTrial, earlier: Config, config: Config) -> dict[str, Any] | None:
    """Return an earlier trial's point in the new space; None where the space cannot express it."""
    space: dict[str, Distribution] = distributions(config)
    params: dict[str, Any] = {}
    for path, dist in space.items():
        if not dist.active(params, config):
            continue
        value = trial.params.get(path, get_path(earlier, path))
        if not dist.contains(value):
            return None
        params[path] = value
    return params
