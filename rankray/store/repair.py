"""Repairing a store: what killed processes and full disks leave behind.

A search repairs what it meets by itself; this does the same for a whole store at once, and says what it did. Nothing
is touched that may be alive: a driver on another machine counts as alive until it was silent for its lease.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from rankray.config.lenient import unfit
from rankray.errors import StoreError, UserError
from rankray.store.backend import refuse_foreign, with_retries
from rankray.store.journal import journal_lock
from rankray.store.study import attach, list_studies, open_study
from rankray.store.trials import StudyStore
from rankray.store.urls import masked, parse_url

logger = logging.getLogger(__name__)

STALE_SECONDS = 30.0
"""How long a lock file of Optuna's is watched before it counts as stale: a living holder never keeps it that long."""


def repair(url: str, notice: Callable[[str], None] = lambda line: None) -> list[str]:
    """Repair a store and return what was done, one line each; no trial is run, and no committed work is lost.

    A journal's torn last line is cut off (it was never acknowledged) and a stale lock file of Optuna's is removed; the
    `.flock` file beside a journal is part of it and stays. In every study, dead drivers are removed. Their trials are
    given back; or ended, where all but the last write was done; or made void, where they have no parameters. A driver
    on another machine that seems to be dead is watched for its lease first.

    Args:
        url: where the store is.
        notice: is called with one line where a driver or a lock has to be watched for a while.

    Raises:
        StoreError: the URL is wrong, or there is no such store.
        StoreUnavailable: the store does not answer.
    """
    parts = parse_url(url)
    done: list[str] = []
    if parts.scheme == "journal":
        if not parts.path.is_file():
            raise StoreError(
                f"store: {masked(url)}: there is no such file; allowed: a journal that exists; correct --store"
            )
        refuse_foreign(parts)
        with_retries(lambda: done.extend(_repair_journal(parts.path, notice)), url)
    for name in list_studies(url):
        try:
            held = attach(url, name)
            if line := unfit(name, held.refused):
                raise StoreError(f"study {line}")
            study = open_study(url, held.config)
        except UserError as error:
            logger.debug("repair: study %s cannot be opened: %s", name, error)
            said = str(error)
            done.append(
                f"left as it is: {said}" if said.startswith("study ") else f"study {name}: left as it is: {said}"
            )
            continue
        done += [f"study {name}: {line}" for line in _repair_study(study, notice)]
    return done


def _repair_journal(path: Path, notice: Callable[[str], None]) -> list[str]:
    done: list[str] = []
    real = Path(os.path.realpath(path))
    optunas_lock = real.with_name(real.name + ".lock")
    if _is_stale(optunas_lock, notice):
        optunas_lock.unlink(missing_ok=True)
        done.append(f"journal: removed the stale lock {optunas_lock}")
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


def _is_stale(lock: Path, notice: Callable[[str], None]) -> bool:
    """Return whether a lock file stays the same one while it is watched, on this process's own clock.

    Its date says nothing: the clock of who made it, or of the file server, may be wrong.
    """
    seen = _which(lock)
    if seen is None:
        return False
    notice(f"journal: watching its lock {lock} for up to {STALE_SECONDS:.0f} s: does somebody hold it?")
    end = time.monotonic() + STALE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(0.2, STALE_SECONDS / 4))
        if _which(lock) != seen:
            return False
    return True


def _which(lock: Path) -> tuple[int, int] | None:
    """Return what distinguishes a lock file from the next one of its name; None where there is none."""
    try:
        found = lock.lstat()
    except FileNotFoundError:
        logger.debug("repair: there is no lock %s", lock)
        return None
    return found.st_ino, found.st_mtime_ns


def _repair_study(store: StudyStore, notice: Callable[[str], None]) -> list[str]:
    store.settle_drivers(notice, every=True)
    removed = store.remove_dead_drivers()
    done = [f"removed dead driver {driver}, process {record.get('pid')}" for driver, record in removed.items()]
    with store:
        done += [f"trial {number} {what}" for number, what in store.repair_trials().items()]
    return done
