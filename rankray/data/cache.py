"""Tokenised splits on disk: one Arrow file per split for all processes of a node, mapped into the memory of each.

The first process that needs a split tokenises it, while the others wait. Every later trial, run and study with the
same source, templates, tokenizer and length maps that file. Files lie below `RANKRAY_CACHE`, or
`$XDG_CACHE_HOME/rankray`, or `~/.cache/rankray`. A file appears under its name complete or not at all. Its name is a
fingerprint of everything it was made from, so a changed source gets another file. Files that nobody has used for
`KEPT_DAYS` are deleted when a new one is written. A damaged file is made again. Where the directory cannot be written,
or its disk is full, each process keeps its tokens in its own memory.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.arrow_writer import ArrowWriter
from filelock import FileLock

from rankray import paths

logger = logging.getLogger(__name__)

FORMAT = 3
"""Increase it when the content of the files changes."""
KEPT_DAYS = 30
FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "labels": datasets.List(datasets.Value("int32")),
        "start": datasets.Value("int32"),
        "supervised": datasets.Value("bool"),
        "length_tokens": datasets.Value("int32"),
        "length_supervised": datasets.Value("int32"),
        "length_kept": datasets.Value("int32"),
    }
)
"""Of each example: tokens, labels (-100 in the prompt), where the completion starts, whether a token is supervised, and
its `Length` before and after it was cut."""
WEIGHTS = "weights"
"""A further column, which tables of earlier versions do not have: `Tokens.weights` of each example, null where all that
is trained on has weight 1."""
WRITTEN = datasets.Features({**FEATURES, WEIGHTS: datasets.List(datasets.Value("float32"))})

Columns = dict[str, list[Any]]


def directory() -> Path:
    """Return where this node keeps tokenised splits."""
    return paths.cache_home() / "tokens"


def shared_table(
    made_from: Any, make: Callable[[], Iterable[Columns]], about: Callable[[], Any] | None = None
) -> datasets.Dataset:
    """Return the table of a split, mapped from this node's file, which is written first where it is missing.

    Args:
        made_from: everything the tokens depend on, as plain JSON types.
        make: yields the table's columns, part by part. What it raises is raised here, and no file is left.
        about: returns plain JSON types to keep beside a table that was just made (`about_table`); None keeps nothing.
    """
    file = _file(made_from)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(file.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        logger.debug("%s cannot be written, tokens stay in memory: %s", file.parent, error)
        return table_in_memory(make())
    try:
        table = _mapped(file) if file.is_file() else None
        if table is None:
            delete_unused(file.parent)
            _write(file, file.stem, make(), about)
            table = datasets.Dataset.from_file(str(file))
        mark_as_used(file)
        return table
    except OSError as error:  # the disk is full, or fails
        logger.debug("%s cannot be written, tokens stay in memory: %s", file, error)
    finally:
        lock.release()
    return table_in_memory(make())


def _mapped(file: Path) -> datasets.Dataset | None:
    """Return a file's table, or None where the file is damaged, as one may be after a power failure."""
    try:
        return datasets.Dataset.from_file(str(file))
    except (OSError, pyarrow.ArrowException) as error:
        logger.debug("%s cannot be read and is made again: %s", file, error)
        return None


def about_table(made_from: Any) -> Any:
    """Return what was kept beside the table; None where nothing was."""
    file = _file(made_from).with_suffix(".json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.debug("%s cannot be read: %s", file, error)
        return None
    mark_as_used(file)
    return found


def _file(made_from: Any) -> Path:
    fingerprint = hashlib.sha256(json.dumps([FORMAT, made_from], sort_keys=True).encode()).hexdigest()[:40]
    return directory() / f"{fingerprint}.arrow"


def table_in_memory(parts: Iterable[Columns]) -> datasets.Dataset:
    """Return the same table in the memory of this process alone."""
    tables = [datasets.Dataset.from_dict(part, features=_features(part)) for part in parts]
    return datasets.concatenate_datasets(tables)


def _features(columns: Columns) -> datasets.Features:
    return datasets.Features({name: feature for name, feature in WRITTEN.items() if name in columns})


def _write(file: Path, fingerprint: str, parts: Iterable[Columns], about: Callable[[], Any] | None = None) -> None:
    """Write the file beside its place, then rename it.

    The fingerprint goes into the file, as the dataset's own: otherwise `datasets` would make one from the file's times,
    and never find again what it derived from the table.
    """
    parts = iter(parts)
    first: Columns = next(parts, {name: [] for name in FEATURES})
    with paths.temporary_directory(".unfinished-", file.parent) as scratch:
        unfinished = scratch / file.name
        with (
            open(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as sink,
            ArrowWriter(stream=sink, features=_features(first), fingerprint=fingerprint) as writer,
        ):
            for columns in chain([first], parts):
                writer.write_batch(columns)
            writer.finalize(close_stream=False)
        said = None if about is None else about()
        if said is not None:
            beside = scratch / file.with_suffix(".json").name
            beside.touch(mode=0o600)
            beside.write_text(json.dumps(said), encoding="utf-8")
            os.replace(beside, file.with_suffix(".json"))
        os.replace(unfinished, file)


def mark_as_used(file: Path) -> None:
    """Let a file count as used now."""
    try:
        os.utime(file)
    except OSError as error:
        logger.debug("%s may be deleted although it is used: %s", file, error)


def delete_unused(place: Path) -> None:
    """Delete files that are too old. A process that still has such a file mapped keeps it until it ends."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for path in place.iterdir():
        try:
            if path.suffix in (".arrow", ".json", ".base", ".partial", ".lock") and path.stat().st_mtime < oldest:
                path.unlink()
        except OSError as error:
            logger.debug("%s is old and was not deleted: %s", path, error)
