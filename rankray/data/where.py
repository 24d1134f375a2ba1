"""`data.where`: which rows of a source are taken, by the values of their columns. Standard library only."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from datetime import date, time
from typing import Any

from rankray.data.files import Rows
from rankray.errors import DataError, listed, nearest, shown

READING = 2
"""Raised where the same conditions choose other rows than before."""
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}


def chosen(rows: Rows, where: Mapping[str, Any], place: str, must_exist: bool = True) -> Rows:
    """Return the rows that fulfil every condition: a value, a list of values, or text such as `">= 0.5"`.

    Args:
        rows: to choose from.
        where: column to condition.
        place: how an error begins.
        must_exist: whether a column that no row has is refused.

    Raises:
        DataError: a condition on a column that no row has, or that cannot be compared.
    """
    for column, condition in where.items():
        if must_exist and rows and not any(column in row for row in rows):
            columns = list(dict.fromkeys(name for row in rows for name in row))
            raise DataError(
                f"{place}: data.where names no column {column!r}{nearest(column, columns)}; columns are "
                f"{listed(columns)}; name one of them"
            )
        kept = [
            i for i, row in enumerate(rows) if _fulfils(row.get(column), condition, f"{place}: data.where.{column}")
        ]
        rows = rows.take(kept)
    return rows


def _number(value: Any) -> int | float:
    """Return a value as a number; whole ones stay exact, as ids of twenty digits are."""
    if isinstance(value, int):
        return value
    try:
        return int(value) if isinstance(value, str) else float(value)
    except ValueError:
        return float(value)


def _is_number(value: Any) -> bool:
    try:
        _number(value)
    except (TypeError, ValueError):
        return False
    return True


def _fulfils(value: Any, condition: Any, where: str) -> bool:
    value = str(value) if isinstance(value, date | time) else value
    if isinstance(condition, list):
        return any(_equals(value, each) for each in condition)
    sign = next((s for s in COMPARISONS if isinstance(condition, str) and condition.startswith(s)), None)
    if sign is None:
        return _equals(value, condition)
    limit: Any = condition[len(sign) :].strip()
    if not limit:
        raise DataError(f"{where}: {condition!r} compares with nothing; allowed is {sign} and a value; add it")
    if value is None:
        return False
    try:
        return COMPARISONS[sign](_number(value), _number(limit))
    except (TypeError, ValueError):
        if isinstance(value, str):
            is_ordered = sign not in ("!=", "==")
            if is_ordered and _is_number(limit) and not any(each.isdigit() for each in value):
                return False  # empty, or "n/a": as text it would be below or above any number
            return COMPARISONS[sign](value, limit)
        raise DataError(
            f"{where}: {shown(value, 60)} cannot be compared with {limit!r}; allowed are numbers and texts; change it"
        ) from None


def _equals(value: Any, wanted: Any) -> bool:
    """Whether a value is the one that is wanted; text, as all is in a .csv file, may also write a number or a bool."""
    if not isinstance(value, str) or isinstance(wanted, str):
        return bool(value == wanted)
    if isinstance(wanted, bool):
        return value.strip().casefold() == str(wanted).casefold()
    return isinstance(wanted, int | float) and _is_number(value) and _number(value) == wanted
