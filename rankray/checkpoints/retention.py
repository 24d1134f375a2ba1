"""Where checkpoints lie, and which are kept.

A trial writes below `<storage>/<study>/trial-00007/<launch>/`. Each launch has its own directory, so a process that
outlives its driver never writes into what the next driver reads. Only checkpoints that the store has committed are
resumed from, so only one order is safe: commit the new one, then delete the one before. A trial that has not ended
keeps its last checkpoint, the best complete trials keep their final one, and all others keep none
(`rankray.store.views.retention` says which). Several drivers may tidy up at once: what one of them deletes, none needs.

A directory belongs to one study. The first study marks it; another study of the same name, from another store or
created again after the first was deleted, gets a directory beside it. In an object store nothing can be marked
atomically, so every study's prefix contains its identity. A copy of a study shares its checkpoints with the original.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rankray.checkpoints import places

logger = logging.getLogger(__name__)

MARK = "study.id"
"""The file in a study's directory that names the study it belongs to."""


class CheckpointRetention:
    """The checkpoints of one study, for one launch of its driver.

    In an object store, deletions run in the background, as each takes a few round trips and the driver has trials to
    serve; the end of the `with` block waits for them.

    Args:
        place: the configured storage.
        study: the study's name.
        identity: distinguishes studies of the same name; empty to use the directory unmarked.
    """

    def __init__(self, place: str, study: str, identity: str = "") -> None:
        self.root = places.join(places.absolute(place), study)
        if identity and (places.is_remote(place) or _mark(Path(self.root), identity) != identity):
            self.root = places.join(places.absolute(place), f"{study}-{identity[:8]}")
        self._launch = uuid.uuid4().hex[:8]
        self._last: dict[int, str] = {}
        self._background = ThreadPoolExecutor(1, "retention") if places.is_remote(place) else None

    def __enter__(self) -> CheckpointRetention:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._background is not None:
            self._background.shutdown(wait=True)

    def directory(self, number: int) -> str:
        """Return where trial `number` writes in this launch."""
        return places.join(self._trial(number), self._launch)

    def begin(self, number: int, checkpoint: str | None) -> None:
        """A trial starts; `checkpoint` is the committed one that it resumes from, if any."""
        if checkpoint:
            self._last[number] = checkpoint

    def committed(self, number: int, checkpoint: str) -> None:
        """The store has committed `checkpoint`: delete the one before it."""
        before = self._last.get(number)
        self._last[number] = checkpoint
        if before and before != checkpoint:
            self._do(lambda: self._delete(before))

    def ended(self, number: int) -> None:
        """A trial ended, or is resumed elsewhere."""
        self._last.pop(number, None)

    def tidy(self, ended: Collection[int], kept: Collection[int]) -> None:
        """Delete the directories of the trials in `ended`, except those in `kept`; unknown names are left alone."""

        def sweep() -> None:
            for name in places.names(self.root):
                digits = name.removeprefix("trial-")
                if name != digits and digits.isdecimal() and int(digits) in ended and int(digits) not in kept:
                    self._delete(places.join(self.root, name))

        self._do(sweep)

    def _trial(self, number: int) -> str:
        return places.join(self.root, f"trial-{number:05d}")

    def _do(self, act: Callable[[], None]) -> None:
        if self._background is None:
            act()
        else:
            self._background.submit(act)

    def _delete(self, place: str) -> None:
        """Delete a place of this study; one outside it, by `..` or a link, is left alone."""
        if places.is_parent(self.root, place):
            places.delete(place)


def _mark(root: Path, identity: str) -> str:
    """Mark a directory that has no mark yet, atomically; return the identity of the study it belongs to."""
    root.mkdir(parents=True, exist_ok=True)
    draft = root / f".{MARK}-{uuid.uuid4().hex}"
    draft.write_text(identity, encoding="utf-8")
    try:
        os.link(draft, root / MARK)
    except FileExistsError:
        logger.debug("%s is marked already", root)
    except OSError:  # a file system without hard links
        logger.debug("%s has no hard links; its mark is written in place", root, exc_info=True)
        with suppress(FileExistsError), open(root / MARK, "x", encoding="utf-8") as file:
            file.write(identity)
    finally:
        draft.unlink()
    return (root / MARK).read_text(encoding="utf-8")
