"""Repairing a store: what killed processes and full disks leave behind.

A search repairs what it meets by itself; this does the same for a whole store at once, and says what it did. Nothing
is touched that may be alive: a driver on another machine counts as alive until it was silent for its lease.
"""

from __future__ import annotations

import time
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from rankray.errors import StoreError
from rankray.store.journal import journal_lock
from rankray.store.leases import DRIVER_KEY, driver_records, known_dead
from rankray.store.records import READY, is_void
from rankray.store.study import attach, list_studies, open_study
from rankray.store.trials import StudyStore
from rankray.store.urls import masked, parse_url

STALE_SECONDS = 60.0
"""Age at which a lock file of optuna's, whose holders never keep it for long, belongs to nobody."""


def repair(url: str) -> list[str]:
    """Repair a store and return what was done, one line each; nothing in it was lost or run before.

    A journal's torn last line is cut off (it was never acknowledged) and a stale lock file of optuna's is removed; the
    `.flock` file beside a journal is part of it and stays. In every study, drivers that are dead are struck off, their
    trials are given back or, where all but the last write was done, ended; trials without parameters are voided.

    Raises:
        StoreError: the URL is wrong, or there is no such store.
        StoreUnavailable: the store does not answer.
    """
    parts = parse_url(url)
    done: list[str] = []
    if parts.scheme == "journal":
        if not parts.path.is_file():
            raise StoreError(f"store: {masked(url)}: there is no such file; correct --store")
        done += _mend_journal(parts.path)
    for name in list_studies(url):
        try:
            held = attach(url, name)
        except StoreError as error:
            done.append(f"left as it is: {error}")
            continue
        store = open_study(url, held.config)
        done += [f"study {name}: {line}" for line in _mend_study(store)]
    return done


def _mend_journal(path: Path) -> list[str]:
    done: list[str] = []
    left = path.with_name(path.name + ".lock")
    try:
        stale = left.is_symlink() and time.time() - left.lstat().st_mtime > STALE_SECONDS
    except OSError:
        stale = False
    if stale:
        left.unlink(missing_ok=True)
        done.append(f"journal: removed the stale lock {left}")
    lock = journal_lock(path)
    before = path.stat().st_size
    lock.acquire()
    try:
        torn = before - path.stat().st_size
    finally:
        lock.release()
    if torn > 0:
        done.append(f"journal: cut off a torn last line of {torn} bytes")
    return done


def _mend_study(store: StudyStore) -> list[str]:
    attributes = store.storage.get_study_user_attrs(store._claims.study_id)
    dead = {
        driver: record
        for driver, record in driver_records(attributes).items()
        if record is not None and known_dead(record)
    }
    for driver in dead:
        store.storage.set_study_user_attr(store._claims.study_id, DRIVER_KEY + driver, None)
    done = [f"struck off driver {driver}, dead process {record['pid']}" for driver, record in dead.items() if record]
    with store:
        store._look()
        for trial in store._unfinished():
            line = _mend_trial(store, trial)
            done += [f"trial {trial.number} {line}"] if line else []
    return done


def _mend_trial(store: StudyStore, trial: FrozenTrial) -> str:
    """Adopt an orphan, which mends it, and give it back; return what became of it, nothing if it needed nothing."""
    waits = trial.state == TrialState.WAITING and READY in trial.user_attrs and not store.owner(trial)
    adopted = store._adopt(trial) if not waits and store._is_orphan(trial) else None
    if adopted is not None:
        store._give_back(adopted)
        return "was given back: the next search goes on with it"
    after = store.storage.get_trial(trial._trial_id)
    if not after.state.is_finished():
        return ""
    return "was voided: it never had its parameters" if is_void(after) else f"was ended as {after.state.name}"
