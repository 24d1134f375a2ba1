"""Tokenised splits on disk, one file for all processes of a node, mapped into the memory of each.

A split is tokenised by the first process that needs it; the others wait for it, and every later trial, launch and study
with the same source, templates, tokenizer and length maps the file: an Arrow stream below `RANKRAY_CACHE`, or
`$XDG_CACHE_HOME/rankray`, or `~/.cache/rankray`. A file appears under its name complete or not at all. Its name is a
fingerprint of all it was made from, so a changed source is another file; those that nobody has used for `KEPT_DAYS` are
deleted when a new one is written. Where nothing can be written there, a process keeps its tokens to itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable
from filelock import FileLock

from rankray import paths

FORMAT = 1
"""Raise it when what is in the files changes."""
KEPT_DAYS = 30
SCHEMA = pa.schema(
    {"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32()), "start": pa.int32(), "supervised": pa.bool_()}
)
"""Of each example: its tokens, -100 for those of the prompt, where the completion starts, whether a token is learnt."""

Columns = dict[str, list[Any]]


def directory() -> Path:
    """Return where this node keeps tokenised splits."""
    return paths.cache_home() / "tokens"


def shared_table(made_from: Any, make: Callable[[], Iterable[Columns]]) -> datasets.Dataset:
    """Return the table of a split, mapped from this node's file, which is made where it is missing.

    Args:
        made_from: everything the tokens depend on, as plain JSON types.
        make: yields the table's columns, part by part. What it raises is raised here, and no file is left.
    """
    name = hashlib.sha256(json.dumps([FORMAT, made_from], sort_keys=True).encode()).hexdigest()[:40]
    file = directory() / f"{name}.arrow"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(file.with_suffix(".lock"))
        lock.acquire()
    except OSError:
        return table_in_memory(make())
    try:
        if not file.is_file():
            _forget_unused(file.parent)
            _write(file, make())
        with suppress(OSError):
            os.utime(file)
        table = datasets.Dataset.from_file(str(file))
    finally:
        lock.release()
    table._fingerprint = name  # `datasets` would take the file's times, and never find again what it derived from it
    return table


def table_in_memory(parts: Iterable[Columns]) -> datasets.Dataset:
    """Return the same table in this process alone."""
    return datasets.Dataset(InMemoryTable(pa.Table.from_batches(_batches(parts), schema=SCHEMA)))


def _batches(parts: Iterable[Columns]) -> Iterator[pa.RecordBatch]:
    for columns in parts:
        yield pa.RecordBatch.from_pydict(columns, schema=SCHEMA)


def _write(file: Path, parts: Iterable[Columns]) -> None:
    handle, unfinished = tempfile.mkstemp(dir=file.parent, prefix=".", suffix=".arrow")
    try:
        with os.fdopen(handle, "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
            for batch in _batches(parts):
                stream.write_batch(batch)
        os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished)
        raise


def _forget_unused(place: Path) -> None:
    """Delete what is old. A process that still has such a file mapped keeps it until it ends."""
    oldest = time.time() - KEPT_DAYS * 86_400
    for path in place.iterdir():
        with suppress(OSError):
            if path.suffix in (".arrow", ".lock") and path.stat().st_mtime < oldest:
                path.unlink()
