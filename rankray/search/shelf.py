"""Where checkpoints lie, and which are kept.

A trial writes below `<storage>/<study>/trial-00007/<launch>/`; the launch's own directory means that a process which
outlived its driver can never write into what its successor reads. Only checkpoints whose location the store has
committed are ever resumed, so deleting is safe in one order only: commit the new one, then delete the one before.
A running trial keeps its last checkpoint, a complete trial the one it ended with, and a pruned one none.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path


class Shelf:
    """The checkpoint directory of one study, seen from one launch of its driver.

    Args:
        storage: the configured storage directory.
        study: the study's name.
    """

    def __init__(self, storage: str, study: str) -> None:
        self.root = Path(storage).absolute() / study
        self._launch = uuid.uuid4().hex[:8]
        self._last: dict[int, str] = {}

    def directory(self, number: int) -> str:
        """Return where trial `number` writes in this launch."""
        return str(self._trial(number) / self._launch)

    def begin(self, number: int, checkpoint: str | None) -> None:
        """A trial starts; `checkpoint` is the committed one that it goes on from."""
        if checkpoint:
            self._last[number] = checkpoint

    def committed(self, number: int, checkpoint: str) -> None:
        """The store holds `checkpoint` now: the one before it is of no use any more."""
        before = self._last.get(number)
        self._last[number] = checkpoint
        if before and before != checkpoint:
            self._delete(Path(before))

    def ended(self, number: int, state: str) -> None:
        """A trial ended; tidy up what it leaves."""
        self._last.pop(number, None)
        if state == "pruned":
            self._delete(self._trial(number))

    def _trial(self, number: int) -> Path:
        return self.root / f"trial-{number:05d}"

    def _delete(self, path: Path) -> None:
        """Delete a directory of this study; a path elsewhere is left alone."""
        if self.root in path.parents and os.path.lexists(path):
            shutil.rmtree(path, ignore_errors=True)
