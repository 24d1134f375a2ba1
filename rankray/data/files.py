"""Reading data files into rows, the same way for `check` and for training. Needs no torch and no `datasets`.

A source is either the path of a file, recognised by its ending, or a dataset on the Hugging Face hub,
`hub-id:config:split` (or `hub-id:split` where there is only one configuration). A relative path is relative to the
current directory (`rankray.paths` makes the paths of a configuration absolute before). Text is UTF-8, with or without a
byte order mark; the lines of a .jsonl file end at line feeds alone. In a .csv file every value is text; the other
formats keep their types. Nothing is cached on disk, so a changed file is never confused with its earlier content.

Whatever a parser does with a broken file, the caller gets one `DataError` with the place: `file:line`, or the number of
the item or row.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from rankray.errors import DataError, nearest
from rankray.paths import resolved

logger = logging.getLogger(__name__)

Row = dict[str, Any]
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half a character is written in JSON; two in a row may be a whole one."""
FORMS = (
    "hub-id:config:split, or the path of a .jsonl, .json, .parquet, .arrow, .csv or .tsv file (text also as .gz or "
    ".zst), a directory of them, or a pattern such as data/*.jsonl"
)
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
LISTS = ("data", "rows", "examples")
"""Keys under which the object of a .json file may hold its list of rows."""


class Rows(list[Row]):
    """The rows of a source, each with its place.

    Attributes:
        source: the file or the hub's dataset, as the place begins; empty if unknown.
        unit: what is counted: `line`, `item` or `row`.
        numbers: the number of each row in the source; None counts from 1.
    """

    def __init__(
        self, rows: Iterable[Row] = (), source: str = "", unit: str = "row", numbers: Sequence[int] | None = None
    ) -> None:
        super().__init__(rows)
        self.source, self.unit, self.numbers = source, unit, numbers

    def first(self, count: int | None) -> Rows:
        """Return the first `count` rows with their places; None returns all."""
        return self if count is None else Rows(self[:count], self.source, self.unit, self.numbers)


def place_of(rows: Sequence[Row], index: int) -> str:
    """Return where row `index` (from 0) stands: `file.jsonl:7`, or `file.json: item 7`; `row 7` if that is unknown."""
    unit, source = getattr(rows, "unit", "row"), getattr(rows, "source", "")
    numbers = getattr(rows, "numbers", None)
    number = index + 1 if numbers is None else numbers[index]
    if source and unit == "line":
        return f"{source}:{number}"
    return f"{source}: {unit} {number}" if source else f"{unit} {number}"


def is_file_source(source: str) -> bool:
    """Whether a source is local: a file by its ending, a pattern with `*` or `?`, or a directory that is there."""
    return ending(source) in READERS or is_pattern(source) or Path(source).is_dir()


def is_pattern(source: str) -> bool:
    """Whether a source names several files at once."""
    return any(sign in source for sign in "*?")


def ending(source: str | Path) -> str:
    """Return a file's ending that says how it is read, in lower case: `.jsonl` of `x.JSONL.gz`."""
    path = Path(source)
    inner = Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else ""
    return inner if inner in TEXTS else path.suffix.lower()


def files_of(source: str, where: str) -> list[Path]:
    """Return the data files of a local source in the order of their names: itself, or those it stands for.

    Raises:
        DataError: a directory or a pattern with no data file.
    """
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and ending(file) in READERS]
    elif is_pattern(source) and not path.is_file():
        begin = Path(path.anchor) if path.anchor else Path()
        found = [file for file in begin.glob(str(path.relative_to(begin))) if file.is_file()]
        found = [file for file in found if ending(file) in READERS]
    else:
        return [path]
    if not found:
        raise DataError(f"{where}: {source!r} holds no data file; allowed is {FORMS}; fix the path or the pattern")
    return sorted(found)


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


def read_rows(source: str, where: str) -> Rows:
    """Read the rows of a data file.

    Args:
        source: path of a file with one of the known endings.
        where: how an error message begins, such as `search.yaml:7: data.train`.

    Raises:
        DataError: the file is missing, cannot be parsed, holds something other than rows, or is empty.
    """
    try:
        path = Path(resolved(source))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not os.path.isfile(path):
        raise DataError(f"{where}: no file {source!r}{_beside(path)}; allowed is {FORMS}; fix the path")
    try:
        rows = READERS[ending(path)](path)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except Exception as error:  # a parser may raise anything for a file that is broken on purpose
        logger.debug("%s cannot be read", path, exc_info=True)
        raise DataError(
            f"{where}: {source!r} cannot be read as {path.suffix} ({_first_line(error)}); allowed is {FORMS}; "
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
    for begin in range(1, len(path.parts)):
        below = os.path.join(*path.parts[begin:])
        if os.path.isfile(below):
            return f" (there is {below!r} in the current directory; a path in a file is relative to that file)"
    if not os.path.isdir(parent):
        return f" (there is no directory {str(parent)!r})"
    return nearest(path.name, [p.name for p in parent.iterdir() if ending(p) in READERS])


def _first_line(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deep"
    text = (str(error).strip().splitlines() or [""])[0]
    return text[:300] if text else type(error).__name__


def _decoded(raw: bytes, path: Path, line: int) -> str:
    """Return text from UTF-8; `line` is the number of its first line.

    Raises:
        DataError: it is something else.
    """
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        hint = "; it begins as UTF-16 does" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}){hint}; allowed is text in "
            "UTF-8; save the file again"
        ) from None


def _read_jsonl(path: Path) -> Rows:
    with _opened(path) as file:
        return _json_lines(file, path)


def _opened(path: Path) -> IO[bytes]:
    """Open a text file, unpacked where it is compressed."""
    if path.suffix.lower() not in COMPRESSED:
        return path.open("rb")
    import pyarrow

    stream: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), COMPRESSED[path.suffix.lower()])
    return io.BufferedReader(stream)


def _bytes(path: Path) -> bytes:
    with _opened(path) as file:
        return file.read().removeprefix(codecs.BOM_UTF8)


def _json_lines(lines: Iterable[bytes], path: Path) -> Rows:
    rows, numbers = [], []
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.isspace() or not raw:
            continue
        with _json_errors(path, number, "one object per line; fix that line"):
            row = json.loads(_decoded(raw.rstrip(b"\r\n"), path, number))
        rows.append(_as_row(row, f"{path}:{number}", raw))
        numbers.append(number)
    return Rows(rows, str(path), "line", numbers)


@contextmanager
def _json_errors(path: Path, line: int, allowed: str) -> Iterator[None]:
    """Give every error of the JSON parser its place; `line` is the number of the text's first line."""
    try:
        yield
    except json.JSONDecodeError as error:
        place = f"{path}:{line + error.lineno - 1}:{error.colno}"
        raise DataError(f"{place}: not JSON ({error.msg}); allowed is {allowed}") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}:{line}: cannot be read ({_first_line(error)}); allowed is {allowed}") from None


def _read_json(path: Path) -> Rows:
    """Read a list of objects, an object that holds such a list (`LISTS`), one object, or lines of objects."""
    raw = _bytes(path)
    text = _decoded(raw, path, 1)
    with _json_errors(path, 1, "a list of objects, or one object per line; fix that place"):
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            if not _is_object(raw.lstrip().partition(b"\n")[0]):
                raise
            logger.debug("%s is not one JSON value, read as lines of JSON: %s", path, error)
            return _json_lines(raw.split(b"\n"), path)
    if isinstance(tree, dict):
        lists = [tree[key] for key in LISTS if isinstance(tree.get(key), list) and tree[key]]
        tree = next((rows for rows in lists if all(isinstance(row, dict) for row in rows)), [tree])
    if not isinstance(tree, list):
        raise DataError(
            f"{path}: holds {_kind(tree)}; allowed is a list of objects, or one object per line; write it in that form"
        )
    rows = [_as_row(row, f"{path}: item {number}", raw) for number, row in enumerate(tree, start=1)]
    return Rows(rows, str(path), "item")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError) as error:
        logger.debug("the first line is no JSON object: %s", error)
        return False


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _as_row(row: Any, place: str, raw: bytes) -> Row:
    """Return a JSON value as a row; `raw` is the text it, or the whole file, was read from."""
    if not isinstance(row, dict):
        raise DataError(f"{place}: holds {_kind(row)}; allowed is an object of column: value; fix it")
    if SURROGATE_ESCAPE.search(raw) is not None:
        for column, value in row.items():
            if not _is_text(column) or not _is_text(value):
                raise DataError(
                    f"{place}: column {column!r} holds half of a character (an escape such as \\ud83d without its "
                    "other half); allowed is whole characters; repair or remove that row"
                )
    return row


def _is_text(value: Any) -> bool:
    """Whether every text in a JSON value can be written in UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path) -> Rows:
    return _read_table(path, ",")


def _read_tsv(path: Path) -> Rows:
    return _read_table(path, "\t")


def _read_table(path: Path, delimiter: str) -> Rows:
    text = _decoded(_bytes(path), path, 1)
    rows: list[Row] = []
    numbers, line, header = [], 1, None
    limit = csv.field_size_limit(sys.maxsize)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for values in reader:
            begun, line = line, reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = _header(values, path, begun)
                continue
            if len(values) > len(header):
                raise DataError(
                    f"{path}:{begun}: {len(values)} values, and the header has {len(header)} columns; allowed is one "
                    "value per column; quote values with commas"
                )
            rows.append(dict(zip_longest(header, values)))
            numbers.append(begun)
    except csv.Error as error:
        raise DataError(f"{path}:{line}: not CSV ({error}); allowed is quoted text; fix that place") from None
    finally:
        csv.field_size_limit(limit)
    return Rows(rows, str(path), "line", numbers)


def _header(names: list[str], path: Path, line: int) -> list[str]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path}:{line}: column {twice[0]!r} is there twice; allowed are different names; rename one")
    return names


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    return Rows(pyarrow.parquet.read_table(path).to_pylist(), str(path))


def _read_arrow(path: Path) -> Rows:
    """Read what `datasets` saves: a stream of batches, or a file of them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        try:
            table = pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid as error:
            logger.debug("%s is no stream, read as a file: %s", path, error)
            table = pyarrow.ipc.open_file(source).read_all()
        return Rows(table.to_pylist(), str(path))


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}
"""File ending -> reader."""
TEXTS = (".jsonl", ".json", ".csv", ".tsv")
"""Endings of files that may be compressed."""
