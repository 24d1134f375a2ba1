"""Locks for journal files.

Optuna's own locks are files that outlive a killed process, so that every other process waits for a grace period. On a
local disk the kernel's lock is used, which is released when its holder dies. On a network file system Optuna's lock is
used, because kernel locks cannot be relied on there. All processes that share a journal must see it through the same
kind of file system.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

from rankray.store.deadlines import LOCK_SECONDS
from rankray.store.optuna_private import BaseJournalFileLock
from rankray.store.urls import network_file_system


def journal_lock(path: Path) -> BaseJournalFileLock:
    """Return the lock that suits the file system under `path`; by a link it is that of the file it leads to."""
    path = Path(os.path.realpath(path))
    return JournalFileSymlinkLock(str(path)) if network_file_system(path) else KernelLock(path)


def is_foreign(path: Path) -> bool:
    """Return whether a file has something in it, and that is no journal of Optuna's, however damaged."""
    with open(path, "rb") as file:
        beginning = file.read(1 << 16)
    return bool(beginning) and MARK not in beginning and not MARK.startswith(beginning.lstrip(b"{ "))


def _wait_for(descriptor: int) -> None:
    limit, pause = time.monotonic() + LOCK_SECONDS, 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > limit:
                raise TimeoutError(f"another process has held the journal's lock for {LOCK_SECONDS} s") from None
        time.sleep(pause)
        pause = min(2 * pause, 0.01)


MARK = b'"op_code"'
"""What every line of a journal contains."""


class KernelLock(BaseJournalFileLock):
    """An exclusive `flock` on `<journal>.flock`, released by the kernel when its holder dies.

    A process holds it once at a time: Optuna calls it under a lock of its own. When it is acquired, a torn last line,
    left by a full disk or a crashed machine, is cut off: it was never acknowledged, and any line after it would make
    the journal unreadable.
    """

    def __init__(self, path: Path) -> None:
        self._journal = path
        self._file = path.with_name(path.name + ".flock")
        self._descriptor = -1

    def acquire(self) -> bool:
        """Wait for the lock.

        Raises:
            TimeoutError: another process has held it for `LOCK_SECONDS`; it may be frozen.
        """
        descriptor = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            _wait_for(descriptor)
            self._cut_torn_line()
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)
        self._descriptor = -1

    def _cut_torn_line(self) -> None:
        with open(self._journal, "rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end == 0:
                return
            file.seek(end - 1)
            if file.read(1) == b"\n" or is_foreign(self._journal):
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
