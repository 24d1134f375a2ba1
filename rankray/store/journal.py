"""Locks for journal files.

Optuna's own locks are files that outlive a killed process, so that every other process waits for a grace period. On a
local disk the kernel's lock is used, which is released when its holder dies. On a network file system Optuna's lock is
used, because kernel locks cannot be relied on there. All processes that share a journal must see it through the same
kind of file system.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

from rankray.store.optuna_private import BaseJournalFileLock
from rankray.store.urls import network_file_system


def journal_lock(path: Path) -> BaseJournalFileLock:
    """Return the lock that suits the file system under `path`."""
    return JournalFileSymlinkLock(str(path)) if network_file_system(path) else KernelLock(path)


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
        """Wait for the lock."""
        descriptor = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
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
            if file.read(1) == b"\n":
                return
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
