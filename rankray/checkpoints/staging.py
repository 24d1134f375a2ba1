"""Trials whose checkpoints are in an object store: they are written to the node's own disk and uploaded.

`finetune.run` knows only directories. `train` gives it one below this node's cache, downloads the checkpoint to resume
from, uploads each new one before it is reported, and reports its place in the object store. So what the trial store
commits is always complete, and a node's disk holds one checkpoint at a time.

The workers of a trial on several nodes write to their own disks: the first worker the model and optimizer, every worker
its RNG state. The first worker of each node uploads them, all to the same place. Workers on one node share a download.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from rankray import paths
from rankray.checkpoints import places
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.errors import CheckpointDamaged, StorageError

logger = logging.getLogger(__name__)

Run = Callable[[TrialSpec, Reporter], Outcome]
KEPT_SECONDS = 3 * 86_400.0
"""When what a killed process left on a node's disk is deleted: by then nobody uses it any more."""


def train(run: Run, spec: TrialSpec, reporter: Reporter, node: str = "") -> Outcome:
    """Train a trial with `run`, wherever its checkpoints are kept.

    Args:
        run: `rankray.finetune.run`.
        spec: the trial; its directory and checkpoint may be in an object store.
        reporter: gets places in the object store, never paths on this node.
        node: distinguishes nodes that share a home directory.
    """
    remote = places.is_remote(spec.directory)
    if not remote and not places.is_remote(spec.checkpoint or ""):
        return run(spec, reporter)
    scratch_dir = _scratch_dir(spec.directory, node)
    uploader = CheckpointUploader(reporter, spec.directory)
    try:
        here = dataclasses.replace(
            spec,
            directory=str(scratch_dir) if remote else spec.directory,
            checkpoint=uploader.fetch(spec.checkpoint, scratch_dir) if spec.checkpoint else None,
        )
        outcome = run(here, uploader if remote else _Named(reporter, uploader.uploaded))
        return dataclasses.replace(
            outcome, checkpoint=uploader.uploaded.get(outcome.checkpoint or "", outcome.checkpoint)
        )
    finally:
        if _first_of_node():
            shutil.rmtree(scratch_dir, ignore_errors=True)


class _Named:
    """A reporter that replaces paths on this node's disk by places that all nodes know."""

    def __init__(self, reporter: Reporter, uploaded: dict[str, str]) -> None:
        self._reporter, self.uploaded = reporter, uploaded

    def report(self, report: Report) -> Verdict:
        """Report, with the checkpoint's place instead of its path."""
        place = self.uploaded.get(report.checkpoint or "", report.checkpoint)
        return self._reporter.report(dataclasses.replace(report, checkpoint=place))

    def __getattr__(self, name: str) -> Any:
        if name in ("progress", "preemption", "note"):
            return getattr(self._reporter, name)
        raise AttributeError(name)


class CheckpointUploader(_Named):
    """The reporter of a trial whose checkpoints are uploaded to `place`.

    Attributes:
        uploaded: path on this node to place in the object store, for every checkpoint that is in both.
    """

    def __init__(self, reporter: Reporter, place: str) -> None:
        super().__init__(reporter, {})
        self._place = place

    def fetch(self, checkpoint: str, scratch_dir: Path) -> str:
        """Download a checkpoint to this node, once for all workers of the trial here, and return its path.

        Raises:
            CheckpointDamaged: there is nothing at its place.
            StorageError: the object store keeps failing.
        """
        if not places.is_remote(checkpoint):
            return checkpoint
        path = scratch_dir / f"from-{Path(checkpoint.partition('?')[0]).name}"
        with FileLock(scratch_dir / "lock"):
            if not path.is_dir():
                try:
                    places.download(checkpoint, path, self._notice)
                except StorageError as error:
                    if not isinstance(error.__cause__, FileNotFoundError):
                        raise
                    raise CheckpointDamaged(checkpoint, "it is not there") from error
        self.uploaded[str(path)] = checkpoint
        return str(path)

    def keep(self, checkpoint: str) -> None:
        """Upload a complete checkpoint; every worker calls this, and all of them wait for each other afterwards."""
        place = places.join(self._place, Path(checkpoint).name)
        if _first_of_node():
            places.upload(Path(checkpoint), place, self._notice)
            shutil.rmtree(checkpoint, ignore_errors=True)
        self.uploaded[checkpoint] = place

    @property
    def _notice(self) -> places.Notice:
        """Where a line for people goes, which is also a sign of life."""
        notice: places.Notice = getattr(self._reporter, "note", logger.debug)
        return notice


def _first_of_node() -> bool:
    """Return whether this is the first of a trial's workers on this node; Ray Train numbers them."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _scratch_dir(place: str, node: str) -> Path:
    """Return this node's directory for a trial, and delete old ones that dead processes left.

    Raises:
        StorageError: it cannot be made.
    """
    all_dirs = paths.cache_home() / "scratch" / (node or "node")
    scratch_dir = all_dirs / hashlib.sha256(place.encode()).hexdigest()[:24]
    try:
        scratch_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.utime(scratch_dir)
    except OSError as error:
        raise StorageError(
            f"storage: what is kept in {place} passes through {scratch_dir}, which cannot be made ({error.strerror}); "
            "allowed: a directory that this node may write; set RANKRAY_CACHE to one"
        ) from error
    for other in all_dirs.iterdir():
        if other != scratch_dir and other.stat().st_mtime < time.time() - KEPT_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
    return scratch_dir
