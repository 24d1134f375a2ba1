"""From the bytes of a data file to its numbered rows, one after the other: a reader for each ending.

Text is UTF-8, with or without a byte order mark; the lines of a .jsonl file end at line feeds alone. In a .csv file
every value is text; the other formats keep their types. A row of a .txt file is a paragraph, as column `text`; where no
blank line separates paragraphs, it is a line. A .json file is one value, and is read as a whole; of all
others only a part is in memory at a time. Whatever is wrong has its place: `file:line`, or the number of the item.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple

from rankray.errors import DataError

logger = logging.getLogger(__name__)

Row = dict[str, Any]
TEXTUAL = (str, int, float, Decimal, date, time)
"""What has a text of its own; bool is an int, and a datetime a date."""
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How half a character is written in JSON; two in a row may be a whole one."""
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
LISTS = ("data", "rows", "examples")
"""Keys under which the object of a .json file may hold its list of rows."""
ROWS_AT_A_TIME = 1000
SEPARATORS = {",": "commas, as in a .csv file", "\t": "tabs, as in a .tsv file"}


class Numbered(NamedTuple):
    """A row and its number, from 1; `unit` says of what: `line`, `item` or `row`."""

    row: Row
    number: int
    unit: str


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or what stands for it."""
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
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line += raw.count(b"\n", 0, error.start)
        is_utf_16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        hint = "; it begins as UTF-16 does" if is_utf_16 else ""
        windows = 0x80 <= raw[error.start] < 0xA0  # control characters in Latin-1, quotes and dashes in Windows-1252
        kind = "UTF-16" if is_utf_16 else "CP1252" if windows else "LATIN1"
        how = f", or convert it: iconv -f {kind} -t UTF-8 {shlex.quote(str(path))} > NEW"
        raise DataError(
            f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}){hint}; allowed is text in UTF-8; save the file "
            f"again{how}"
        ) from None
    if line == 1 and "\0" in text[:2]:
        kind = "UTF-16BE" if text[0] == "\0" else "UTF-16LE"
        raise DataError(
            f"{path}:1: every second byte is 0, as in {kind}; allowed is text in UTF-8; save the file again, or "
            f"convert it: iconv -f {kind} -t UTF-8 {shlex.quote(str(path))} > NEW"
        )
    return text


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


def _read_jsonl(path: Path) -> Iterator[Numbered]:
    with _opened(path) as file:
        yield from _json_lines(file, path)


def _json_lines(lines: Iterable[bytes], path: Path) -> Iterator[Numbered]:
    has_rows = False
    for number, raw in enumerate(lines, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        if raw.isspace() or not raw:
            continue
        is_one_value = not has_rows and (raw.lstrip()[:1] == b"[" or raw.strip() == b"{")
        fix = "name a file that is one list or one object .json" if is_one_value else "fix that line"
        with _json_errors(path, number, f"one object per line; {fix}"):
            row = json.loads(_decoded(raw.rstrip(b"\r\n"), path, number), object_pairs_hook=_object)
            if is_one_value:
                raise ValueError("it holds a list")
        yield Numbered(_as_row(row, f"{path}:{number}", raw), number, "line")
        has_rows = True


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
        raise DataError(f"{path}:{line}: cannot be read ({first_line(error)}); allowed is {allowed}") from None


def _read_json(path: Path) -> Iterator[Numbered]:
    """Read a list of objects, an object that holds such a list (`LISTS`), one object, or lines of objects."""
    with _opened(path) as file:
        raw = file.read().removeprefix(codecs.BOM_UTF8)
    text = _decoded(raw, path, 1)
    with _json_errors(path, 1, "a list of objects, or one object per line; fix that place"):
        try:
            tree = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            if not _is_object(raw.lstrip().partition(b"\n")[0]):
                raise
            logger.debug("%s is not one JSON value, read as lines of JSON: %s", path, error)
            yield from _json_lines(raw.split(b"\n"), path)
            return
    if isinstance(tree, dict):
        lists = [tree[key] for key in LISTS if isinstance(tree.get(key), list) and tree[key]]
        found = next((rows for rows in lists if all(isinstance(row, dict) for row in rows)), None)
        tree = [_one_row(tree, path)] if found is None else found
    if not isinstance(tree, list):
        raise DataError(
            f"{path}: holds {_kind(tree)}; allowed is a list of objects, or one object per line; write it in that form"
        )
    for number, row in enumerate(tree, start=1):
        yield Numbered(_as_row(row, f"{path}: item {number}", raw), number, "item")


def _one_row(tree: dict[str, Any], path: Path) -> Row:
    """Return an object as the only row of a file, unless it holds many of them in another way.

    Raises:
        DataError: it has columns instead of rows, rows by their index, or rows of several splits.
    """
    values, names = list(tree.values()), ", ".join(map(repr, list(tree)[:3])) + (", ..." if len(tree) > 3 else "")
    what = ""
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        what = "an object under each of"
    elif values and all(isinstance(value, list) and len(value) > 1 for value in values):
        items = [item for value in values for item in value]
        if all(isinstance(item, dict) and not {"role", "from", "content"} & item.keys() for item in items):
            what = "a list of rows under each of"
        elif len({len(value) for value in values}) == 1 and not any(isinstance(item, dict | list) for item in items):
            what = "a list of values under each of"
    if what:
        raise DataError(
            f"{path}: holds {what} {names}; allowed is a list of rows, or one row per line; write it in that form, "
            "each split by itself (with pandas: to_json(FILE, orient='records', lines=True))"
        )
    return tree


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError) as error:
        logger.debug("the first line is no JSON object: %s", error)
        return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of a key that is there twice, a parser would keep the last value and say nothing."""
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError(f"{_twice(name for name, _ in pairs)!r} is there twice in one object")
    return made


def _twice(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


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


def _read_csv(path: Path) -> Iterator[Numbered]:
    return _read_table(path, ",")


def _read_tsv(path: Path) -> Iterator[Numbered]:
    return _read_table(path, "\t")


def _read_table(path: Path, delimiter: str) -> Iterator[Numbered]:
    line, header = 1, None
    with _opened(path) as file:
        reader = csv.reader(_text_lines(file, path), delimiter=delimiter, strict=True)
        while True:
            try:
                values = _next(reader)
            except csv.Error as error:
                raise DataError(f"{path}:{line}: not CSV ({error}); allowed is quoted text; fix that place") from None
            if values is None:
                return
            begun, line = line, reader.line_num + 1
            if not values:
                continue
            if header is None:
                header = _header(values, path, begun, delimiter)
                continue
            if len(values) > len(header):
                sign = "commas" if delimiter == "," else "tabs"
                raise DataError(
                    f"{path}:{begun}: {len(values)} values, and the header has {len(header)} columns; allowed is one "
                    f"value per column; quote values with {sign}, without a space before the quote"
                )
            yield Numbered(dict(zip_longest(header, values)), begun, "line")


def _text_lines(file: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the lines of a text, which may end at carriage returns alone."""
    for number, raw in enumerate(file, start=1):
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
        yield from io.StringIO(_decoded(raw, path, number), newline="")


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    """Return the next values, however long they are, or None; the limit is the process's, and stays what it was."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)


def _header(names: list[str], path: Path, line: int, delimiter: str) -> list[str]:
    others = ";\t|" if delimiter == "," else ";|,"
    if len(names) == 1 and (sign := next((sign for sign in others if sign in names[0]), "")):
        between = SEPARATORS.get(sign, repr(sign))
        raise DataError(
            f"{path}:{line}: the values of the header {names[0]!r} are separated by {between}; allowed in a .csv file "
            "are commas, in a .tsv file tabs; save it again, or change its ending"
        )
    _check_names(names, f"{path}:{line}")
    return names


def _check_names(names: Iterable[str], where: str) -> None:
    """Raise DataError where two columns have one name: a row would have the value of the last."""
    twice = _twice(names)
    if twice is not None:
        raise DataError(f"{where}: column {twice!r} is there twice; allowed are different names; rename one")


def _read_parquet(path: Path) -> Iterator[Numbered]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_names(file.schema_arrow.names, str(path))
        yield from _batches(file.iter_batches(ROWS_AT_A_TIME))


def _read_arrow(path: Path) -> Iterator[Numbered]:
    """Read what `datasets` saves: a stream of batches, or a file of them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source:
        try:
            stream = pyarrow.ipc.open_stream(source)
            _check_names(stream.schema.names, str(path))
            yield from _batches(stream)
        except pyarrow.ArrowInvalid as error:
            logger.debug("%s is no stream, read as a file: %s", path, error)
            file = pyarrow.ipc.open_file(source)
            _check_names(file.schema.names, str(path))
            yield from _batches(file.get_batch(index) for index in range(file.num_record_batches))


def _read_text(path: Path) -> Iterator[Numbered]:
    """Read paragraphs, which blank lines separate; where there is no blank line between others, each line is one."""
    with _opened(path) as file:
        lines = [not line.isspace() for line in file]
    solid = [number for number, is_solid in enumerate(lines) if is_solid]
    by_line = not solid or all(lines[solid[0] : solid[-1]])
    part: list[str] = []
    begin = 1
    with _opened(path) as file:
        for number, raw in enumerate(chain(file, [b""]), start=1):
            raw = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            text = _decoded(raw, path, number).rstrip("\r\n")
            if part and (by_line or not text.strip()):
                yield Numbered({"text": "\n".join(part)}, begin, "line")
                part = []
            if text.strip():
                begin = begin if part else number
                part.append(text)


def _batches(batches: Iterable[Any]) -> Iterator[Numbered]:
    parts = (batch.slice(begin, ROWS_AT_A_TIME).to_pylist()
             for batch in batches for begin in range(0, batch.num_rows, ROWS_AT_A_TIME))  # fmt: skip
    for number, row in enumerate(chain.from_iterable(parts), start=1):
        yield Numbered(row, number, "row")


READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".txt": _read_text,
}
"""File ending -> reader."""
TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt")
"""Endings of files that may be compressed."""
