"""Repairing a store: what killed processes and full disks leave behind.

A search repairs what it meets by itself; this does the same for a whole store at once, and says what it did. Nothing
is touched that may be alive: a driver on another machine counts as alive until it was silent for its lease.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from rankray.errors import StoreError
from rankray.store.journal import journal_lock
from rankray.store.study import attach, list_studies, open_study
from rankray.store.trials import StudyStore
from rankray.store.urls import masked, parse_url

logger = logging.getLogger(__name__)

STALE_SECONDS = 60.0
"""The age from which a lock file of Optuna's is stale: a living holder never keeps it that long."""


def repair(url: str, notice: Callable[[str], None] = lambda line: None) -> list[str]:
    """Repair a store and return what was done, one line each; no trial is run, and no committed work is lost.

    A journal's torn last line is cut off (it was never acknowledged) and a stale lock file of Optuna's is removed; the
    `.flock` file beside a journal is part of it and stays. In every study, dead drivers are removed. Their trials are
    given back; or ended, where all but the last write was done; or made void, where they have no parameters. A driver
    on another machine that seems to be dead is watched for its lease first.

    Args:
        url: where the store is.
        notice: is called with one line where a driver has to be watched for a while.

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
        done += _repair_journal(parts.path)
    for name in list_studies(url):
        try:
            seen = attach(url, name)
        except StoreError as error:
            logger.debug("repair: study %s cannot be opened: %s", name, error)
            done.append(f"left as it is: {error}")
            continue
        done += [f"study {name}: {line}" for line in _repair_study(open_study(url, seen.config), notice)]
    return done


def _repair_journal(path: Path) -> list[str]:
    done: list[str] = []
    stale_lock = path.with_name(path.name + ".lock")
    try:
        stale = stale_lock.is_symlink() and time.time() - stale_lock.lstat().st_mtime > STALE_SECONDS
    except OSError as error:
        logger.debug("repair: %s was removed by another process: %s", stale_lock, error)
        stale = False
    if stale:
        stale_lock.unlink(missing_ok=True)
        done.append(f"journal: removed the stale lock {stale_lock}")
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


def _repair_study(store: StudyStore, notice: Callable[[str], None]) -> list[str]:
    store.settle_drivers(notice, every=True)
    removed = store.remove_dead_drivers()
    done = [f"removed dead driver {driver}, process {record.get('pid')}" for driver, record in removed.items()]
    with store:
        done += [f"trial {number} {what}" for number, what in store.repair_trials().items()]
    return done
