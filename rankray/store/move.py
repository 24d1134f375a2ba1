"""Whole studies: copied to another store, deleted.

A study is two Optuna studies, its trials and its claims (`claims`), and neither operation is one write. So the claims
study has a mark while only a part of the study may be there. A study with the mark cannot be opened; to copy or delete
it again finishes what was interrupted.
"""

from __future__ import annotations

import copy
import logging
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rankray.errors import StoreError
from rankray.store.accounts import Stretch
from rankray.store.backend import RetryingStorage, connect
from rankray.store.claims import COPY, NOBODY, SUFFIX, Claims, find_or_create
from rankray.store.ledger import SPENT
from rankray.store.migrate import CONFIG
from rankray.store.names import study_names
from rankray.store.records import DRIVER, KEPT_LOSSES, RAN
from rankray.store.study import PART, attach
from rankray.store.trials import StudyStore
from rankray.store.urls import masked

logger = logging.getLogger(__name__)

COPIED, DELETED = "copied", "deleted"
Notice = Callable[[str], None]


def copy_study(source: str, target: str, name: str, notice: Notice = lambda line: None) -> int:
    """Copy a study with everything in it, and return its number of trials.

    Numbers, parameters, reports, verdicts, the pruner's marks, failures, times and the places of checkpoints are the
    same; the checkpoints themselves stay where they are. Nobody owns the copy's trials: what was unfinished waits there
    to be adopted. The source is only read. An interrupted copy is thrown away and made again.

    Args:
        source: URL of the store to read.
        target: URL of the store to write.
        name: the study's name, in both.
        notice: is called with one line where a driver has to be watched for a while.

    Raises:
        StoreError: there is no such study, drivers work on it, or the target has a study of this name.
        StoreUnavailable: a store does not answer.
    """
    held = attach(source, name)
    refuse_drivers(held, "copied", notice)
    if target == source or masked(target) == masked(source):
        raise StoreError(f"copy: {masked(source)} is given twice; allowed: another store to copy to; correct TO")
    storage = connect(target)
    claims_id = _id(storage, name + SUFFIX)
    if claims_id is None or storage.get_study_user_attrs(claims_id).get(PART) != COPIED:
        if claims_id is not None or _id(storage, name) is not None:
            raise StoreError(
                f"copy: {masked(target)} has a study {name} already, and nothing is overwritten; allowed: a store "
                f"without one; choose another, or delete the study there, in TO, first (rankray store delete {name} "
                "--store TO)"
            )
    else:
        _remove(storage, name)
    direction = held.storage.get_study_directions(held.study_id)[0]
    claims = Claims(storage, find_or_create(storage, name + SUFFIX, direction))
    mine = uuid.uuid4().hex
    storage.set_study_user_attr(claims.study_id, PART, COPIED)
    if claims.enter(COPY, mine) != mine:
        raise StoreError(
            f"copy: another process is copying {name} to {masked(target)}; allowed: one at a time; wait for it"
        )
    study_id = find_or_create(storage, name, direction)
    trials, now = held.storage.get_all_trials(held.study_id, deepcopy=False), datetime.now().astimezone()
    for trial in trials:
        storage.create_new_trial(study_id, _ownerless(trial, held.stretches(trial, now)))
    attributes = held.storage.get_study_user_attrs(held.study_id)
    for key in sorted(attributes, key=lambda key: key == CONFIG):
        storage.set_study_user_attr(study_id, key, attributes[key])
    for key, value in held.storage.get_study_system_attrs(held.study_id).items():
        storage.set_study_system_attr(study_id, key, value)
    source_claims = Claims(held.storage, held.storage.get_study_id_from_name(name + SUFFIX))
    source_claims.refresh()
    for key, record in held.storage.get_study_user_attrs(source_claims.study_id).items():
        if key.startswith(SPENT):
            storage.set_study_user_attr(claims.study_id, key, record)
    for key, body in source_claims.decisions().items():
        claims.enter(key, body)
    storage.set_study_user_attr(claims.study_id, PART, None)
    return len(held.trials())


def is_whole(url: str, name: str) -> bool:
    """Return whether a study is there, and not what an interrupted start, copy or deletion left of it.

    Raises:
        StoreError: there is no such store.
        StoreUnavailable: the store does not answer.
    """
    return not _is_part(connect(url, create=False), name)


def delete_study(url: str, name: str, notice: Notice = lambda line: None) -> None:
    """Delete a study, or what an interrupted start, copy or deletion left of it; its checkpoints stay where they are.

    Args:
        url: where the store is.
        name: the study's name.
        notice: is called with one line where a driver has to be watched for a while.

    Raises:
        StoreError: there is no such study, or drivers work on it.
        StoreUnavailable: the store does not answer.
    """
    storage = connect(url, create=False)
    claims_id = _id(storage, name + SUFFIX)
    if not _is_part(storage, name):
        refuse_drivers(attach(url, name), "deleted", notice)
    if claims_id is not None:
        storage.set_study_user_attr(claims_id, PART, DELETED)
    _remove(storage, name)


def refuse_drivers(study: StudyStore, what: str, notice: Notice = lambda line: None) -> None:
    """Check that no driver works on a study; one elsewhere that may be dead is watched until that is known.

    Raises:
        StoreError: some do; the message names them.
    """
    alive = study.settle_drivers(notice).values()
    drivers = [f"{record.get('host')} (process {record.get('pid')})" for record in alive]
    if drivers:
        raise StoreError(
            f"study {study.name}: it cannot be {what} while drivers work on it, on {', '.join(drivers)}; "
            "stop them first; one that was killed on another machine counts until it was silent for its lease"
        )


def _is_part(storage: RetryingStorage, name: str) -> bool:
    """Return whether only a part of a study is there: it has the mark, or its making was interrupted."""
    claims_id = _id(storage, name + SUFFIX)
    if claims_id is None:
        return False
    return bool(storage.get_study_user_attrs(claims_id).get(PART)) or name not in study_names(storage)


def _ownerless(trial: FrozenTrial, ran: list[Stretch]) -> FrozenTrial:
    """Return a trial as it is written into the copy; one that was running waits there.

    Who ran it is said by claims, of which the copy has none, so that it is owned by nobody.
    """
    made = copy.copy(trial)
    before = [{"driver": by, "from": since.isoformat(), "to": end.isoformat()} for by, since, end in ran if end]
    made.user_attrs = trial.user_attrs | {DRIVER: NOBODY} | ({RAN: before[-KEPT_LOSSES:]} if before else {})
    if trial.state == TrialState.RUNNING:
        made.state = TrialState.WAITING
        made.datetime_start = None
    return made


def _remove(storage: BaseStorage, name: str) -> None:
    """Delete the trials first: the claims study has the mark that says what is happening."""
    for each in (name, name + SUFFIX):
        found = _id(storage, each)
        if found is not None:
            storage.delete_study(found)


def _id(storage: BaseStorage, name: str) -> Any:
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        logger.debug("study %s: not in this store", name)
        return None
