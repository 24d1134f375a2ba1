"""What a checkpoint consists of: a list of its files with sizes and digests, written last and checked before resuming.

A checkpoint lies for days on disks and in object stores that may lose a file, a half of one or a bit. `write` adds the
list when everything else is there; `problem` says what is wrong with a checkpoint that is about to be resumed from.

Workers of a trial that write to several nodes' own disks, and upload to one place, write a list each; a checkpoint is
sound if all of them are. A checkpoint of an earlier version has no list: then only missing kinds of files are noticed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rankray.checkpoints import places
from rankray.contracts import Outcome, Reporter, TrialSpec
from rankray.errors import CheckpointDamaged

logger = logging.getLogger(__name__)

Run = Callable[[TrialSpec, Reporter], Outcome]
STATE_FILE = places.LAST
"""The file that says where the trial stood; `"manifest": true` in it says that there must be a list."""
NAME = "rankray-manifest"
THREADS = 4
"""Files read at a time: computing digests leaves the interpreter free."""
CHUNK_BYTES = 1 << 20
KINDS = ("*.safetensors", "optimizer*", "scheduler*", "rng_state*", "trainer_state.json")
"""What there must be of a checkpoint without a list."""


def write(directory: Path, rank: int = 0) -> None:
    """Write the list of all files of a complete checkpoint into it.

    Args:
        directory: the checkpoint.
        rank: of the worker that writes the list; that of the first worker has no number in its name.
    """
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.name.startswith(NAME))
    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(_digest, files))
    listed = {
        path.relative_to(directory).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, digests, strict=True)
    }
    name = f"{NAME}-{rank}.json" if rank else f"{NAME}.json"
    (directory / name).write_text(json.dumps({"files": listed}, indent=1), encoding="utf-8")


def check(directory: Path, place: str, note: Callable[[str], None] = lambda line: None) -> None:
    """Check that a checkpoint is complete and unchanged.

    Args:
        directory: where it lies on this node.
        place: the place by which the store knows it.
        note: is called with one line if it has no list, and so cannot be checked.

    Raises:
        CheckpointDamaged: a file is missing, or is not as it was written.
    """
    why = problem(directory)
    if why:
        raise CheckpointDamaged(place, why)
    if not _lists(directory):
        note(f"checkpoint {place} was made by an earlier version and has no list of its files; it is used unchecked")


def checked(run: Run) -> Run:
    """Return `run` with a look at the checkpoint that it resumes from, by the first worker of each node.

    The reporter's method `note(line)`, if it has one, is called where the checkpoint cannot be checked. What is raised
    names the checkpoint as it lies on this node.
    """

    def check_and_run(spec: TrialSpec, reporter: Reporter) -> Outcome:
        if spec.checkpoint and os.environ.get("LOCAL_RANK", "0") == "0":
            check(Path(spec.checkpoint), spec.checkpoint, getattr(reporter, "note", logger.debug))
        return run(spec, reporter)

    return check_and_run


def problem(directory: Path) -> str:
    """Return what is wrong with a checkpoint, or an empty string."""
    try:
        progress = json.loads((directory / STATE_FILE).read_text(encoding="utf-8"))
        lists = _lists(directory)
        if not lists:
            if isinstance(progress, dict) and progress.get("manifest"):
                return f"{NAME}.json is missing"
            missing = [kind for kind in KINDS if not any(directory.glob(kind))]
            return f"{missing[0]} is missing" if missing else ""
        files: dict[str, Any] = {}
        for each in lists:
            files |= json.loads(each.read_text(encoding="utf-8"))["files"]
        if STATE_FILE not in files:
            return f"{NAME}.json does not list {STATE_FILE}"
        with ThreadPoolExecutor(THREADS) as pool:
            found = pool.map(lambda item: _wrong(directory, *item), files.items())
            return next(filter(None, found), "")
    except FileNotFoundError as error:
        logger.debug("checkpoint %s is not complete", directory, exc_info=True)
        return f"{Path(str(error.filename)).name} is missing" if directory.is_dir() else "it is not there"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("checkpoint %s cannot be read", directory, exc_info=True)
        return f"it cannot be read ({type(error).__name__}: {error})"


def _lists(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"{NAME}*.json"))


def _wrong(directory: Path, name: str, listed: dict[str, Any]) -> str:
    path = directory / name
    if ".." in Path(name).parts or Path(name).is_absolute():
        return f"{NAME}.json names {name!r}, which is not in the checkpoint"
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        return f"{name} is no plain file"
    if found.st_size != listed["bytes"]:
        return f"{name} has {found.st_size:,} bytes instead of {listed['bytes']:,}"
    return "" if _digest(path) == listed["sha256"] else f"{name} is not as it was written"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
