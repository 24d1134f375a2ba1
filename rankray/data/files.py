"""Reading data files into rows, the same way for `check` and for training. Needs no torch and no `datasets`.

A source is either the path of a file, recognised by its ending, or a dataset on the Hugging Face hub,
`hub-id:config:split` (or `hub-id:split` where there is only one configuration). A relative path is relative to the
current directory. In a .csv file every value is text; the other formats keep their types. Nothing is cached on disk, so
a changed file is never confused with its earlier content.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rankray.errors import DataError, nearest

logger = logging.getLogger(__name__)

Row = dict[str, Any]
FORMS = "hub-id:config:split, or the path of a .jsonl, .json, .parquet or .csv file"


def is_file_source(source: str) -> bool:
    """Whether a source is the path of a file, judged by its ending."""
    return Path(source).suffix.lower() in READERS


def hub_parts(source: str, where: str) -> tuple[str, str | None, str]:
    """Split `hub-id:config:split` into its parts; the configuration is None in `hub-id:split`.

    A split may be sliced, as in `train[:100]`.

    Raises:
        DataError: it is neither of these forms.
    """
    named, bracket, sliced = source.partition("[")
    parts = named.split(":")
    if len(parts) not in (2, 3) or not all(parts) or source.startswith((".", "/", "~")):
        ending = Path(source).suffix
        given = f"{source!r} ends in {ending!r}" if ending and len(parts) == 1 else f"got {source!r}"
        raise DataError(f"{where}: {given}; allowed is {FORMS}; convert the file, or write the source in that form")
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1] + bracket + sliced


def read_rows(source: str, where: str) -> list[Row]:
    """Read the rows of a data file.

    Args:
        source: path of a file with one of the known endings.
        where: how an error message begins, such as `search.yaml:7: data.train`.

    Raises:
        DataError: the file is missing, cannot be parsed, holds something other than rows, or is empty.
    """
    path = Path(source)
    if not path.is_file():
        raise DataError(f"{where}: no file {source!r}{_beside(path)}; allowed is {FORMS}; fix the path")
    try:
        rows = READERS[path.suffix.lower()](path)
    except DataError as error:
        raise DataError(f"{where}: {source}: {error}") from None
    except (OSError, ValueError, csv.Error) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: {source!r} cannot be read as {path.suffix} ({first}); allowed is {FORMS}; "
            "fix the file or its ending"
        ) from error
    if not rows:
        raise DataError(f"{where}: {source!r} holds no rows; at least one is needed; give a file with examples")
    return rows


def file_fingerprint(path: Path, sample_above_bytes: int | None = None) -> str:
    """Return `sha256:...` of a file's content.

    Args:
        path: the file.
        sample_above_bytes: hash only the size and 64 evenly spaced blocks of 64 KiB of a file larger than this.
    """
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        if sample_above_bytes is None or size <= sample_above_bytes:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(str(size).encode())
            for index in range(64):
                file.seek(index * (size - (1 << 16)) // 63)
                digest.update(file.read(1 << 16))
    return f"sha256:{digest.hexdigest()}"


def _beside(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f" (there is no directory {str(parent)!r})"
    return nearest(path.name, [p.name for p in parent.iterdir() if p.suffix.lower() in READERS])


def _read_jsonl(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return list(_json_lines(file))


def _json_lines(lines: Iterable[str]) -> Iterable[Row]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(
                f"line {number} is not JSON ({error}); allowed is one object per line; fix that line"
            ) from None
        yield _as_row(row, f"line {number}")


def _read_json(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8")
    try:
        tree = json.loads(text)
    except ValueError as error:
        logger.debug("%s is not one JSON value, read as lines of JSON: %s", path, error)
        return list(_json_lines(text.splitlines()))
    if isinstance(tree, dict):
        return [tree]
    return [_as_row(row, f"item {number}") for number, row in enumerate(tree, start=1)]


def _as_row(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{place} is {type(row).__name__}; allowed is an object of column: value; fix it")
    return row


def _read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise DataError(
                f"row {number} has more values than the header has columns; allowed is one value per column; "
                "quote values with commas"
            )
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""File ending -> reader."""
