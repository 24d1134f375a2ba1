"""A study as a table, in a file: one row per trial, or one per report."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rankray.errors import StoreError
from rankray.store import views
from rankray.store.trials import StudyStore

Row = dict[str, Any]
_NUMBERS = (bool, int, float)


def trial_rows(study: StudyStore) -> list[Row]:
    """Return one row per trial: how it ended, then `params.<path>` and `metrics.<name>`."""
    rows = []
    for each in views.trials(study):
        shown = views.trial(study, each["number"])
        plain = {key: value for key, value in each.items() if key != "params"}
        rows.append(
            plain
            | {"checkpoint": shown["checkpoint"]}
            | {f"params.{path}": value for path, value in shown["params"].items()}
            | {f"metrics.{name}": value for name, value in shown["metrics"].items()}
        )
    return rows


def step_rows(study: StudyStore) -> list[Row]:
    """Return one row per report: trial, step, verdict, checkpoint, then `metrics.<name>`."""
    return [
        {
            "number": each["number"],
            **{key: step[key] for key in ("step", "stop", "reason", "checkpoint")},
            **{f"metrics.{name}": value for name, value in step["metrics"].items()},
        }
        for each in views.trials(study)
        for step in views.trial(study, each["number"])["steps"]
    ]


def write_csv(rows: list[Row], path: Path) -> None:
    """Write rows as CSV: None as an empty cell, lists and mappings as JSON.

    Raises:
        StoreError: the file cannot be written.
    """
    columns = _columns(rows)
    try:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    except OSError as error:
        raise _unwritable(path, error) from None


def write_parquet(rows: list[Row], path: Path) -> None:
    """Write rows as Parquet; a column with values of several types is written as text.

    Raises:
        StoreError: the file cannot be written, or pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise StoreError("export: --parquet needs pyarrow; pip install pyarrow, or use --csv") from None
    table = pyarrow.table({column: _alike(row.get(column) for row in rows) for column in _columns(rows)})
    try:
        pyarrow.parquet.write_table(table, path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _columns(rows: list[Row]) -> list[str]:
    """Return all columns: the common ones in their order, then parameters, then metrics."""
    found = dict.fromkeys(key for row in rows for key in row)
    return sorted(
        found,
        key=lambda column: (
            ("params.", "metrics.").index(column.split(".")[0] + ".") + 1
            if column.startswith(("params.", "metrics."))
            else 0
        ),
    )


def _alike(values: Iterable[Any]) -> list[Any]:
    """Return values of one type: integers beside floats become floats, other mixtures become text."""
    column = list(values)
    kinds = {type(value) for value in column if value is not None}
    if len(kinds) <= 1 and not kinds & {list, dict}:
        return column
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in column]
    return [None if value is None else _text(value) for value in column]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: Any) -> Any:
    return "" if value is None else value if isinstance(value, (str, *_NUMBERS)) else json.dumps(value)


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"export: {path} cannot be written ({error.strerror or error}); allowed: a file in a directory that you may "
        "write; choose another file"
    )
