"""Where checkpoints lie, and which are kept.

A trial writes below `<storage>/<study>/trial-00007/<launch>/`. Each launch has its own directory, so a process that
outlives its driver never writes into what the next driver reads. Only checkpoints that the store has committed are
resumed from, so only one order is safe: commit the new one, then delete an older one. A trial that has not ended keeps
its last checkpoint and the one before, which is used where the last one turns out to be damaged. The best complete
trials keep their final one, and all others keep none
(`rankray.store.views.retention` says which). Several drivers may tidy up at once: what one of them deletes, none needs.

A directory belongs to one study. The first study marks it; another study of the same name, from another store or
created again after the first was deleted, gets a directory beside it. In an object store nothing can be marked
atomically, so every study's prefix contains its identity. A copy of a study in another store is a study of its own: it
resumes from the original's checkpoints, and writes and deletes in its own directory only.

Identities and places of checkpoints come from the store, and nothing that a store says leads out of the study's own
directory: neither for reading nor for writing, and above all not for deleting. Below the configured storage no link is
followed.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import uuid
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from rankray.checkpoints import places
from rankray.errors import StorageError

logger = logging.getLogger(__name__)

KEPT = 2
"""Checkpoints that a trial keeps while it runs."""
STUCK_SECONDS = 20.0
"""How long the end of a search waits for one deletion."""
IDENTITY = re.compile(r"[0-9a-f]{32}")
"""What the identity of a study looks like."""
_STEP = re.compile(r"step-(\d{6,})")
_TAIL = re.compile(r"trial-\d{5,}/[0-9a-f]{8}/step-\d{6,}")
"""Where a checkpoint lies below the directory of its study, wherever that is."""
MARK = "study.id"
"""The file in a study's directory that names the study it belongs to."""


class CheckpointRetention:
    """The checkpoints of one study, for one launch of its driver.

    In an object store, deletions run in the background, as each takes a few round trips and the driver has trials to
    serve; the end of the `with` block waits for them, unless one takes longer than `STUCK_SECONDS`. What is left then
    is deleted when its trial ends, or by the next launch.

    Args:
        place: the configured storage.
        study: the study's name.
        identity: distinguishes studies of the same name; empty to use the directory unmarked.
        copied: whether the study is a copy, which may also resume from directories of other studies of its name.

    Raises:
        StorageError: the identity is none, or a directory of the study is a link, or cannot be made or read.
    """

    def __init__(self, place: str, study: str, identity: str = "", *, copied: bool = False) -> None:
        if identity and not IDENTITY.fullmatch(identity):
            raise StorageError(
                f"storage: study {study}: its stored identity {identity[:40]!r} is none; allowed: 32 hexadecimal "
                "digits; its store was changed by something else than rankray: search under another name"
            )
        self._storage = places.absolute(place)
        self.root = self._own(places.join(self._storage, study))
        if identity and (places.is_remote(place) or self._owner(identity) != identity):
            self.root = self._own(places.join(self._storage, beside(study, identity)))
        self._originals = re.compile(rf"{re.escape(study)}(-[0-9a-f]{{8}})?") if copied else None
        self._launch = uuid.uuid4().hex[:8]
        self._kept: dict[int, list[str]] = {}
        self._background = ThreadPoolExecutor(1, "retention") if places.is_remote(place) else None
        self._deletions: list[Future[None]] = []

    def __enter__(self) -> CheckpointRetention:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._background is None:
            return
        while self._deletions:
            done, _ = wait(self._deletions[:1], timeout=STUCK_SECONDS)
            if not done:
                logger.debug("%d deletions are given up: the storage does not answer", len(self._deletions))
                break
            del self._deletions[0]
        self._background.shutdown(wait=False, cancel_futures=True)

    def directory(self, number: int) -> str:
        """Return where trial `number` writes in this launch.

        Raises:
            StorageError: the trial's directory is a link.
        """
        return self._own(places.join(self._trial(number), self._launch))

    def usable(self, checkpoints: Iterable[str]) -> str | None:
        """Return the first of some stored places of checkpoints that lies in this study's directory, or None.

        One of a copied study may lie in the directory of the original, below the same storage.
        One that was stored when the storage was elsewhere is looked for at the same place below this storage.
        """
        for stored in checkpoints:
            found = places.below(self.root, stored)
            tail = "/".join(stored.partition("?")[0].split("/")[-3:])
            if found is None and _TAIL.fullmatch(tail) and self._originals:
                parent = stored.partition("?")[0].split("/")[-4:-3]
                original = places.join(self._storage, *parent, *tail.split("/"))
                if parent and self._originals.fullmatch(parent[0]) and places.below(self._storage, stored) == original:
                    found = original
            if found is None and _TAIL.fullmatch(tail):
                moved = places.below(self.root, places.join(self.root, *tail.split("/")))
                found = moved if moved and places.exists(moved) else None
            if found is not None:
                return found
            logger.debug("%s is not below %s, and is not resumed from", stored, self.root)
        return None

    def begin(self, number: int, checkpoint: str | None) -> None:
        """A trial starts; `checkpoint` is the committed one that it resumes from, if any."""
        self._kept[number] = [checkpoint] if checkpoint else []

    def committed(self, number: int, checkpoint: str) -> None:
        """The store has committed `checkpoint`: delete what is older than the one before it."""
        kept = self._kept.setdefault(number, [])
        if checkpoint in kept:
            return
        kept.append(checkpoint)
        while len(kept) > KEPT:
            oldest = kept.pop(0)
            self._do(functools.partial(self._delete, oldest))

    def ended(self, number: int, *, complete: bool = False) -> None:
        """A trial ended, or is resumed elsewhere; one that is complete needs only its last checkpoint."""
        kept = self._kept.pop(number, [])
        if complete and kept:
            self._do(functools.partial(self._thin_out, number, step_of(kept[-1])))

    def tidy(self, ended: Collection[int], kept: Collection[int]) -> None:
        """Delete the directories of the trials in `ended`, except those in `kept`; unknown names are left alone."""

        def sweep() -> None:
            for name in places.names(self.root):
                digits = name.removeprefix("trial-")
                if name != digits and digits.isdecimal() and int(digits) in ended and int(digits) not in kept:
                    self._delete(places.join(self.root, name))

        self._do(sweep)

    def _thin_out(self, number: int, last: int) -> None:
        """Delete a trial's checkpoints of steps before its last one; a later one may not be committed yet."""
        trial = self._trial(number)
        for launch in places.names(trial):
            for name in places.names(places.join(trial, launch)):
                if _STEP.fullmatch(name) and step_of(name) < last:
                    self._delete(places.join(trial, launch, name))

    def _own(self, place: str) -> str:
        """Return a place of this study below the storage.

        Raises:
            StorageError: a directory on the way there is a link.
        """
        refuse_links(self._storage, place)
        return place

    def _owner(self, identity: str) -> str:
        with places.wrap_errors(self.root):
            return _mark(Path(self.root), identity)

    def _trial(self, number: int) -> str:
        return places.join(self.root, f"trial-{number:05d}")

    def _do(self, act: Callable[[], None]) -> None:
        if self._background is None:
            _logged(act)
        else:
            self._deletions = [each for each in self._deletions if not each.done()]
            self._deletions.append(self._background.submit(_logged, act))

    def _delete(self, place: str) -> None:
        """Delete a place of this study; one outside it, by `..` or a link, is left alone."""
        own = places.below(self.root, place)
        if own is None:
            logger.debug("%s is not below %s, and is not deleted", place, self.root)
        else:
            places.delete(own)


def refuse_links(storage: str, place: str) -> None:
    """Refuse a place of a study to which a link below its storage leads; the storage itself may be one.

    Raises:
        StorageError: a directory on the way there is a link.
    """
    if places.below(storage, place) is None:
        raise StorageError(
            f"storage: {place} is, or lies in, a link; allowed: directories of its own below {storage}; remove the "
            "link, or choose another storage or name"
        )


def beside(study: str, identity: str) -> str:
    """Return the name of the directory of a study whose own name another study has taken."""
    return f"{study}-{identity[:8]}"


def directory_of(place: str, study: str, identity: str) -> str | None:
    """Return where a study's checkpoints lie below a storage, or None where it has no directory; marks nothing.

    An object store is not asked: the place is the one where they would be.

    Args:
        place: the configured storage.
        study: the study's name.
        identity: distinguishes studies of the same name; empty where it has none.

    Raises:
        StorageError: what is there cannot be read.
    """
    storage = places.absolute(place)
    root, other = places.join(storage, study), places.join(storage, beside(study, identity))
    if places.is_remote(place):
        return other if identity else root
    mark = Path(root) / MARK
    with places.wrap_errors(root):
        if mark.is_file() and mark.read_text(encoding="utf-8") != identity:
            root = other
    return root if places.exists(root) else None


def step_of(place: str) -> int:
    """Return the step in a checkpoint's name; 0 where it has none."""
    found = _STEP.fullmatch(place.partition("?")[0].rpartition("/")[2])
    return int(found[1]) if found else 0


def _logged(act: Callable[[], None]) -> None:
    """Delete something; what cannot be deleted or listed is left, and ends no search.

    Another driver may delete the same, a file server may not answer.
    """
    try:
        act()
    except Exception:
        logger.debug("checkpoints are not deleted", exc_info=True)


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
