"""Cells of a recorded table, as texts of csv or values of parquet: as numbers, and as values of a field."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rankray.config import Config, Distribution
from rankray.errors import shown

CLOSE = 1e-6
"""By how much a number may differ, relative to its size: a float32 column has 0.0001 as 0.000099999997."""
EXACT = 2**53
"""Below it, each whole number has a float of its own."""
EMPTY = {"", "none", "null", "na", "n/a", "<na>"}
"""Texts, in small letters, with which writers say that there is nothing; `nan` is one for a field, not for a metric."""


class OutsideSpace(ValueError):
    """A cell has a value that the space cannot propose."""


def metric_number(cell: Any) -> float:
    """Return a metric's number: NaN where the cell is empty, infinity where it says that the number is not finite."""
    if _is_empty(cell):
        return math.nan
    found = number(cell)
    return found if math.isfinite(found) else math.inf


def is_written_otherwise(cell: Any) -> bool:
    """Return whether a metric's cell is a figure that cannot be read: `0,35`, `35 %`, true. `OOM` is none, and bad."""
    if isinstance(cell, bool):
        return True
    return not _is_empty(cell) and _is_text(cell) and math.isnan(number(cell)) and bool(re.search(r"\d", text(cell)))


def number(cell: Any) -> float:
    """Return a cell as a number; NaN where it is none."""
    try:
        return math.nan if cell is None or isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def text(cell: Any) -> str:
    """Return a cell as a text, whole numbers without a point: of a column with gaps, pandas makes 1 a 1.0.

    From EXACT on, digits stay as they are: floats do not tell all such numbers apart, and a seed may be a hash.
    """
    found = number(cell)
    if abs(found) < EXACT and found == int(found):
        return str(int(found))
    return cell.decode("utf-8", "replace").strip() if isinstance(cell, bytes) else str(cell).strip()


def is_empty(cell: Any) -> bool:
    """Return whether a cell of a field is empty; NaN is, because writers of nullable columns use it for that."""
    return _is_empty(cell) or text(cell).lower() == "nan"


def _is_empty(cell: Any) -> bool:
    return cell is None or (_is_text(cell) and text(cell).lower() in EMPTY)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, (str, bytes))


def params_of(row: Mapping[str, Any], space: Mapping[str, Distribution], config: Config) -> dict[str, Any]:
    """Return the setting of a row; a field that does not exist in it is left out, whatever its cell says.

    Raises:
        OutsideSpace: the space cannot propose it.
    """
    params: dict[str, Any] = {}
    for path, field in space.items():
        if field.active(params, config):
            params[path] = value_of(row[path], field)
    return params


def value_of(cell: Any, field: Distribution) -> Any:
    """Return a cell as a value of a field.

    Raises:
        OutsideSpace: the field cannot have it.
    """
    if field.kind == "choice":
        for choice in field.choices:
            if is_same(choice, cell):
                return choice
    elif not is_empty(cell):
        value = _on_grid(number(cell), field)
        if math.isfinite(value) and field.contains(value):
            return value
    raise OutsideSpace(f"{field.path} is {'empty' if is_empty(cell) else shown(cell)}")


def _on_grid(value: float, field: Distribution) -> float:
    """Return the end of the range, or the point of the field's grid, that a number means, else the number itself."""
    for end in (field.low, field.high):
        if math.isclose(value, end, rel_tol=CLOSE):
            return end
    if not math.isfinite(value):
        return value
    if field.kind == "int":
        return round(value) if math.isclose(value, round(value), rel_tol=CLOSE) else value
    if field.step is None:
        return value
    near = field.low + round((value - field.low) / field.step) * field.step
    return near if math.isclose(value, near, rel_tol=CLOSE, abs_tol=CLOSE * field.step) else value


def is_same(value: Any, cell: Any) -> bool:
    """Return whether a cell means a value of a configuration: csv has only texts, and parquet may have floats."""
    if value is None:
        return is_empty(cell)
    if isinstance(value, str):
        return text(cell) == value or text(cell) == text(value)
    if is_empty(cell):
        return False
    if isinstance(value, bool):
        return text(cell).lower() in ({"true", "1"} if value else {"false", "0"})
    if isinstance(value, (int, float)):
        return math.isclose(number(cell), float(value), rel_tol=CLOSE)
    return text(cell) == str(value)
