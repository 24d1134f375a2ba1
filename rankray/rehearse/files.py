"""Rows of a csv or parquet file, and what may be wrong with the file itself."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankray.errors import UserError, first_line, listed, shown

SEPARATORS = ",;\t"
PACKED = ".csv.gz"


def rows_of(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """Return a file's columns and its rows.

    A csv file, which may be packed, has a header; what separates its cells is the one of comma, semicolon and tab that
    the header has most.

    Raises:
        UserError: the file cannot be read as a table.
    """
    kind = PACKED if file.name.lower().endswith(PACKED) else file.suffix.lower()
    if not file.is_file():
        raise UserError(f"rehearse: {file}: there is no such file; allowed: a .csv or .parquet file; correct --table")
    if kind not in (".csv", PACKED, ".parquet"):
        raise UserError(
            f"rehearse: {file}: got {file.suffix or 'no ending'}; allowed: .csv, .parquet, {PACKED}; rename the "
            "file, or unpack it"
        )
    columns, rows = _parquet(file) if kind == ".parquet" else _csv(file)
    twice = [name for index, name in enumerate(columns) if name in columns[:index]]
    if twice:
        raise UserError(f"rehearse: {file} has the column {shown(twice[0])} twice; allowed: each once; rename one")
    if not rows:
        raise UserError(
            f"rehearse: {file} has no rows (columns: {listed(columns) or 'none'}); allowed: one row per setting, seed "
            "and step; record some runs"
        )
    return columns, rows


def _parquet(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as opened:  # `read_table` would add the columns of a path like a=1/
            table = opened.read()
        return list(table.column_names), table.to_pylist() if table.num_columns else []
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise UserError(
            f"rehearse: {file} is no parquet file that can be read ({_first_line(error)}); allowed: csv or parquet; "
            "fix it"
        ) from error


def _csv(file: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        opened = gzip.open if file.name.lower().endswith(PACKED) else open
        with opened(file, "rt", newline="", encoding="utf-8-sig") as lines:
            header = lines.readline()
            lines.seek(0)
            separator = max(SEPARATORS, key=header.count)
            reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
            columns = [name.strip() for name in next(reader, [])]
            rows = [_row(file, columns, cells, reader.line_num) for cells in reader if cells]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"rehearse: {file} is no csv file that can be read ({_first_line(error)}); allowed: csv in UTF-8, or "
            "parquet; fix it"
        ) from error
    return columns, rows


def _row(file: Path, columns: Sequence[str], cells: list[str], line: int) -> dict[str, Any]:
    if len(cells) != len(columns):
        raise UserError(
            f"rehearse: {file}:{line}: got {len(cells)} cells; allowed: {len(columns)}, as in the header; fix the line"
        )
    return dict(zip(columns, cells, strict=True))


def _first_line(error: Exception) -> str:
    return first_line(error)
