"""Drivers: who they are, how they show that they are alive, and how others find out that they are dead.

A driver is one process that works on a study. Its record is in the attributes of the claims study and has a counter
that a thread raises several times per lease: one write for the driver, however many trials it owns.

No clock is ever compared between machines, and no date decides who is alive. An observer declares a driver dead after
it has itself watched the counter stand still for a whole lease, on its own monotonic clock. A single look adds at most
a third of a lease, so an outage of the store, or a sleep of the observer, does not count as silence of the driver. A
driver on the same machine, since the same boot and in the same process namespace, is known to be dead as soon as its
process is. Until one of the two is the case, a driver is alive to everybody: to drivers, to those who look, and to
those who delete or copy a study.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.environment import seconds_of
from rankray.errors import LeaseFailed, RankrayError, StudyGone

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

logger = logging.getLogger(__name__)

DRIVER_KEY = "rankray:driver:"
ASKED = "trials"
"""Key of a driver's record: to how many finished trials it brings the study."""
Record = dict[str, Any]


def lease_seconds_default() -> float:
    """Return the lease's length: RANKRAY_LEASE_SECONDS, or a minute.

    Raises:
        ConfigError: the variable is not a number above 0.
    """
    return seconds_of("RANKRAY_LEASE_SECONDS", 60.0)


def this_process() -> Record:
    """Return what distinguishes this process from every other: host, boot, process namespace, pid, start time."""
    return dict(_process(os.getpid()))


@functools.cache
def _process(pid: int) -> Record:
    return {
        "host": socket.gethostname(),
        "boot": _text(lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()),
        "space": _text(lambda: os.readlink("/proc/self/ns/pid")),
        "pid": pid,
        "start": process_start(pid),
    }


def _text(read: Callable[[], str]) -> str:
    try:
        return read()
    except OSError as error:
        logger.debug("leases: no such information on this system: %s", error)
        return ""


def process_start(pid: int) -> str | None:
    """Return a text that stands for when a process started; None if it is dead (a zombie is)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return None if fields[0] in "ZXx" else fields[19]
    except FileNotFoundError:
        if os.path.exists("/proc/self/stat"):
            return None
    except OSError as error:
        logger.debug("leases: /proc cannot be read, so psutil is asked: %s", error)
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else str(round(process.create_time()))
    except psutil.NoSuchProcess:
        logger.debug("leases: there is no process %d", pid)
        return None


def driver_elsewhere(record: Record) -> bool:
    """Return whether a driver's process cannot be seen from here: another machine, boot or process namespace."""
    mine = this_process()
    return not mine["boot"] or any(mine[key] != record.get(key) for key in ("host", "boot", "space"))


def known_dead(record: Record | None) -> bool:
    """Return whether a driver is certainly dead: it has left, or its process on this machine has ended."""
    if record is None:
        return True
    if driver_elsewhere(record):
        return False
    return process_start(int(number_in(record, "pid"))) != record.get("start")


def number_in(record: Record, key: str) -> float:
    """Return a finite number of a record; 0 where it has none. What is stored may be anything."""
    value = record.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return 0.0
    return float(value) if math.isfinite(value) else 0.0


def driver_records(attributes: Mapping[str, Any]) -> dict[str, Record | None]:
    """Return the drivers in the claims study's attributes; None for those that have left, or have no proper record."""
    return {
        key.removeprefix(DRIVER_KEY): value if isinstance(value, dict) else None
        for key, value in attributes.items()
        if key.startswith(DRIVER_KEY)
    }


def asked_trials(attributes: Mapping[str, Any]) -> list[int]:
    """Return to how many trials each driver that is not known to be dead has been asked to bring the study."""
    records = driver_records(attributes).values()
    return [int(number_in(record, ASKED)) for record in records if record is not None and not known_dead(record)]


class Watch:
    """The drivers' counters as one observer has seen them, on its own clock; safe to share among threads.

    Args:
        lease_seconds: the lease; a driver that has a longer one is given that long.
        clock: the observer's monotonic clock.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._looked = clock()
        self._still: dict[str, tuple[Any, float]] = {}
        self._records: dict[str, Record | None] = {}

    def look(self, records: Mapping[str, Record | None]) -> None:
        """Take in the drivers' records as they are now."""
        with self._lock:
            now = self._clock()
            passed = min(now - self._looked, self.lease_seconds / 3)
            self._looked = now
            # Two threads may look at once, and one with older records come last: a driver that has just come stays
            # known; one that has left may count as alive until the next look.
            self._records |= records
            for driver, record in records.items():
                beat = record.get("beat") if record else None
                seen, still = self._still.get(driver, (None, 0.0))
                self._still[driver] = (beat, still + passed if beat == seen and driver in self._still else 0.0)

    def is_dead(self, driver: str) -> bool:
        """Return whether a driver is dead: nobody, unknown, left, dead on this machine, or silent for a lease."""
        with self._lock:
            record = self._records.get(driver)
            if record is None or known_dead(record):
                return True
            return self._still[driver][1] >= self._lease_of(record)

    def alive(self) -> list[str]:
        """Return the drivers that are not dead."""
        return [driver for driver in list(self._records) if not self.is_dead(driver)]

    def silent(self) -> list[str]:
        """Return the registered drivers that were watched in silence for a lease; their processes cannot be seen."""
        with self._lock:
            return [
                driver
                for driver, record in self._records.items()
                if record is not None and self._still[driver][1] >= self._lease_of(record)
            ]

    def _lease_of(self, record: Record) -> float:
        return max(self.lease_seconds, number_in(record, "lease"))


class Lease:
    """This driver's own record, renewed by a daemon thread while it is held.

    Args:
        storage: the store.
        study_id: the claims study.
        driver: this driver's id.
        watch: is shown the records of the other drivers at every renewal.
        trials: to how many finished trials this driver brings the study.
    """

    def __init__(self, storage: BaseStorage, study_id: int, driver: str, watch: Watch, trials: int = 0) -> None:
        self._storage, self._study_id, self._driver, self._watch = storage, study_id, driver, watch
        self._record = this_process() | {"beat": 0, "lease": watch.lease_seconds, ASKED: trials}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: RankrayError | None = None

    @property
    def held(self) -> bool:
        """Whether the lease is being renewed."""
        return self.begun and self._failure is None and self._thread is not None and self._thread.is_alive()

    @property
    def begun(self) -> bool:
        """Whether the record was written and not removed: there may be something to give back."""
        return self._thread is not None

    @property
    def failure(self) -> RankrayError | None:
        """Why the lease is no longer renewed, for good; None while it is, and before it is held."""
        return self._failure

    def hold(self) -> None:
        """Write the record and keep renewing it.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._stop.clear()
        self._renew()
        self._thread = threading.Thread(target=self._run, name="rankray-lease", daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Stop renewing and remove the record: from now on every driver declares this one dead."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._storage.set_study_user_attr(self._study_id, DRIVER_KEY + self._driver, None)

    def _renew(self) -> None:
        self._record = self._record | {"beat": self._record["beat"] + 1, "at": time.time()}
        self._storage.set_study_user_attr(self._study_id, DRIVER_KEY + self._driver, self._record)
        self._watch.look(driver_records(self._storage.get_study_user_attrs(self._study_id)))
        for driver in self._watch.silent():
            if driver != self._driver:
                logger.debug("lease: driver %s was silent for its lease, and is removed", driver)
                self._storage.set_study_user_attr(self._study_id, DRIVER_KEY + driver, None)

    def _run(self) -> None:
        try:
            while not self._stop.wait(self._watch.lease_seconds / 6):
                try:
                    self._renew()
                except StudyGone:
                    raise
                except RankrayError as error:
                    logger.debug("lease of driver %s: not renewed, trying again: %s", self._driver, error)
            self._storage.remove_session()
        except StudyGone as error:
            logger.debug("lease of driver %s: its study was deleted", self._driver)
            self._failure = error
        except BaseException as error:
            logger.debug("lease of driver %s: cannot be renewed any more", self._driver, exc_info=True)
            first = (str(error).strip().splitlines() or ["no message"])[0]
            self._failure = LeaseFailed(
                f"the lease of this driver cannot be renewed any more ({type(error).__name__}: {first}), and others "
                "will take over its trials; what was committed is safe; run the same command again to resume"
            )
