"""Where checkpoints lie, and which are kept.

A trial writes below `<storage>/<study>/trial-00007/<launch>/`; the launch's own directory means that a process which
outlived its driver can never write into what its successor reads. Only checkpoints whose location the store has
committed are ever resumed, so deleting is safe in one order only: commit the new one, then delete the one before.
A trial that has not ended keeps its last checkpoint, the best complete trials the one they ended with, and all others
none (`rankray.store.views.retention` says which). Several drivers may tidy up at once: what one deletes, none wants.

One directory belongs to one study: the first one marks it as its own, and another study of the same name, from another
store or begun anew after the first was deleted, gets a directory beside it. A copy of a study shares its checkpoints
with the original.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARK = "study.id"
"""The file in a study's directory that says whose it is."""


class Shelf:
    """The checkpoint directory of one study, seen from one launch of its driver.

    Args:
        storage: the configured storage directory.
        study: the study's name.
        identity: what tells this study from others of its name; empty to take the directory as it is.
    """

    def __init__(self, storage: str, study: str, identity: str = "") -> None:
        self.root = Path(storage).absolute() / study
        if identity and _mark(self.root, identity) != identity:
            self.root = self.root.with_name(f"{self.root.name}-{identity[:8]}")
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

    def ended(self, number: int) -> None:
        """A trial ended, or goes on elsewhere."""
        self._last.pop(number, None)

    def tidy(self, ended: Collection[int], kept: Collection[int]) -> None:
        """Delete what ended trials left, but for those that keep their checkpoints; unknown names are left alone."""
        for path in self.root.glob("trial-*"):
            digits = path.name.removeprefix("trial-")
            if digits.isdecimal() and int(digits) in ended and int(digits) not in kept:
                self._delete(path)

    def _trial(self, number: int) -> Path:
        return self.root / f"trial-{number:05d}"

    def _delete(self, path: Path) -> None:
        """Delete a directory of this study; a path that leads elsewhere, by `..` or a link, is left alone."""
        if Path(os.path.realpath(self.root)) in Path(os.path.realpath(path)).parents:
            shutil.rmtree(path, ignore_errors=True)


def _mark(root: Path, identity: str) -> str:
    """Mark a directory that has no mark yet, whole or not at all; return whose it is."""
    root.mkdir(parents=True, exist_ok=True)
    draft = root / f".{MARK}-{uuid.uuid4().hex}"
    draft.write_text(identity, encoding="utf-8")
    try:
        os.link(draft, root / MARK)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with suppress(FileExistsError), open(root / MARK, "x", encoding="utf-8") as file:
            file.write(identity)
    finally:
        draft.unlink()
    return (root / MARK).read_text(encoding="utf-8")
