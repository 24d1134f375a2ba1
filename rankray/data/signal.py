"""The base model's statistics of the training tokens on disk: one file for all processes of a node, mapped by each.

The file has a record of 32 bytes for each supervised token, in the order of the training table: the token itself and
the seven statistics of `rankray.loss.TokenStats`. The first token of an example has none, as nothing predicts it.

The first process that needs the file computes it, block by block, while the others wait for its lock. A process that is
killed leaves the blocks that it has completed, and the next one continues after them; so every block is computed once.
The file's name is a fingerprint of the tokens and the model. It lies beside the tokenised data (`rankray.data.cache`),
and is deleted after the same time without use. Where the directory cannot be written, or its disk is full, each process
computes its own.

Which record a token has is written where its label would be (`positions`): packing, shuffling, cutting and padding
carry a label along with its token, and so they carry the position.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from filelock import FileLock

from rankray.data.cache import WEIGHTS, Columns, delete_unused, directory, mark_as_used, shared_table
from rankray.errors import DataError
from rankray.loss.tokens import IGNORED

logger = logging.getLogger(__name__)

FORMAT = 1
"""Increase it when the content of the files changes."""
RECORD = np.dtype(
    [
        ("token", "<i4"),
        ("log_prob", "<f4"),
        ("entropy_bits", "<f4"),
        ("rank", "<f4"),
        ("expected_rank", "<f4"),
        ("top_entropy_nats", "<f4"),
        ("max_prob", "<f4"),
        ("prob_square_sum", "<f4"),
    ]
)
"""One supervised token; the statistics in the order of `TokenStats`, units in their names."""
ROWS_PER_PART = 1000
MOST_TOKENS = 2**31 - 1
WEIGHT = np.dtype([("token", "<i4"), ("weight", "<f4")])
"""A record of another file: one supervised token and its weight, as `rankray.data.weights` has it."""

Records = np.ndarray[Any, Any]


def fingerprint(table: datasets.Dataset) -> str:
    """Return what identifies a table of `input_ids`, `labels` and perhaps weights: the file it is mapped from, or its
    content."""
    files = [Path(file["filename"]).name for file in table.cache_files]
    if files:
        return json.dumps([*files, len(table)])
    digest = hashlib.sha256()
    for start in range(0, len(table), ROWS_PER_PART):
        part = table[start : start + ROWS_PER_PART]
        digest.update(json.dumps(list(part.values())).encode())
    return digest.hexdigest()


def predicted(labels: Sequence[int]) -> list[bool]:
    """Return for each token of an example whether it is supervised and something predicts it."""
    return [index > 0 and label != IGNORED for index, label in enumerate(labels)]


def positions(table: datasets.Dataset) -> datasets.Dataset:
    """Return the table with the number of its record in place of each supervised token's label.

    Raises:
        DataError: more supervised tokens than a label can count.
    """

    def make() -> Iterator[Columns]:
        first = 0
        for start in range(0, len(table), ROWS_PER_PART):
            part, numbers = table[start : start + ROWS_PER_PART], []
            for labels in part["labels"]:
                is_predicted = predicted(labels)
                counted = np.cumsum(is_predicted) - 1 + first
                numbers.append(np.where(is_predicted, counted, IGNORED).tolist())
                first += sum(is_predicted)
            if first > MOST_TOKENS:
                raise DataError(
                    f"data.train: more than {MOST_TOKENS} supervised tokens with loss.signal base or weights of the "
                    "data; allowed are fewer; use fewer examples, or loss.signal online without weights"
                )
            rows = len(numbers)
            yield {
                "input_ids": part["input_ids"],
                "labels": numbers,
                "start": [0] * rows,
                "supervised": [True] * rows,
            }

    return shared_table(["positions", FORMAT, fingerprint(table)], make).select_columns(["input_ids", "labels"])


def weight_records(table: datasets.Dataset) -> Records:
    """Return the weight of every supervised token of a table with weights, in the order of `positions`."""
    starts = range(0, len(table), ROWS_PER_PART)

    def make(block: int) -> Records:
        part = table[starts[block] : starts[block] + ROWS_PER_PART]
        found = []
        for labels, weights in zip(part["labels"], part[WEIGHTS], strict=True):
            records = np.zeros(len(labels), WEIGHT)
            records["token"], records["weight"] = labels, 1.0 if weights is None else weights
            found.append(records[predicted(labels)])
        return np.concatenate(found)

    lengths = [
        sum(sum(predicted(labels)) for labels in table[start : start + ROWS_PER_PART]["labels"]) for start in starts
    ]
    return shared_records(["weights", fingerprint(table)], lengths, make, WEIGHT)


def shared_records(
    made_from: Any, lengths: Sequence[int], make: Callable[[int], Records], dtype: np.dtype[Any] = RECORD
) -> Records:
    """Return all records, mapped from this node's file, which is written or completed first where that is needed.

    Args:
        made_from: everything the records depend on, as plain JSON types.
        lengths: how many records each block has.
        make: computes the records of the block with a number. What it raises is raised here; the blocks before stay.
        dtype: of a record.
    """
    name = hashlib.sha256(json.dumps([FORMAT, made_from], sort_keys=True).encode()).hexdigest()[:40]
    file = directory() / f"{name}.base"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(file.with_suffix(".lock"))
        lock.acquire()
    except OSError as error:
        logger.debug("%s cannot be written, base statistics stay in memory: %s", file.parent, error)
        return np.concatenate([np.empty(0, dtype), *(make(number) for number in range(len(lengths)))])
    partial = file.with_suffix(".partial")
    try:
        if not file.is_file():
            delete_unused(file.parent)
            _complete(partial, lengths, make, dtype)
            os.replace(partial, file)
        mark_as_used(file)
        return np.memmap(file, dtype, mode="r") if sum(lengths) else np.empty(0, dtype)
    except OSError as error:  # the disk is full, or fails
        logger.debug("%s cannot be written, further base statistics stay in memory: %s", file, error)
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not is_full:  # what a disk that fails has may not be what was written
            with suppress(OSError):
                partial.unlink()
        done, size = _blocks_in(partial, lengths, dtype) if is_full else (0, 0)
        written = np.fromfile(partial, dtype, sum(lengths[:done])) if size else np.empty(0, dtype)
    finally:
        lock.release()
    return np.concatenate([written, *(make(number) for number in range(done, len(lengths)))])


def _blocks_in(partial: Path, lengths: Sequence[int], dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return how many whole blocks a file has, and its bytes."""
    ends = np.cumsum([0, *lengths]) * dtype.itemsize
    size = partial.stat().st_size if partial.is_file() else 0
    return int(np.searchsorted(ends, size, side="right")) - 1, size


def _complete(partial: Path, lengths: Sequence[int], make: Callable[[int], Records], dtype: np.dtype[Any]) -> None:
    """Append the blocks that a file lacks; a block that was cut short is computed again."""
    ends = np.cumsum([0, *lengths]) * dtype.itemsize
    done, size = _blocks_in(partial, lengths, dtype)
    if size:
        logger.debug("%s: %d of %d blocks are there, continuing after them", partial, done, len(lengths))
    with partial.open("ab") as sink:
        sink.truncate(int(ends[done]))
        for number in range(done, len(lengths)):
            records = make(number)
            assert records.dtype == dtype
            assert len(records) == lengths[number]
            sink.write(records.tobytes())
            sink.flush()
            os.fsync(sink.fileno())
