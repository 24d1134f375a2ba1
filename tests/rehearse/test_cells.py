"""Cells of tables that other programs wrote."""

from __future__ import annotations

import decimal
import math
from typing import Any

import pytest

from rankray.config import Distribution
from rankray.rehearse.cells import (
    OutsideSpace,
    is_empty,
    is_same,
    is_written_otherwise,
    metric_number,
    number,
    text,
    value_of,
)

RATE = Distribution(path="r", kind="float", low=1e-4, high=1e-2, log=True)
GRID = Distribution(path="g", kind="float", low=0.1, high=0.9, step=0.1)
WHOLE = Distribution(path="w", kind="int", low=8, high=64)


@pytest.mark.parametrize("cell", [None, "", " ", "None", "null", "NA", "<NA>", "nan", math.nan, b""])
def test_what_writers_leave_empty(cell: Any) -> None:
    assert is_empty(cell)
    assert is_same(None, cell)
    with pytest.raises(OutsideSpace, match="r is empty"):
        value_of(cell, RATE)


@pytest.mark.parametrize(("cell", "is_gap"), [(None, True), ("", True), ("nan", False), ("inf", False), ("OOM", False)])
def test_a_metric_that_is_not_finite_is_no_gap(cell: Any, is_gap: bool) -> None:
    assert math.isnan(metric_number(cell)) == is_gap
    assert math.isinf(metric_number(cell)) != is_gap


@pytest.mark.parametrize(
    ("cell", "cannot_be_read"),
    [
        ("0,35", True), ("35 %", True), ("0.3 (0.1)", True), (True, True), (b"1.2.3", True), ("OOM", False),
        ("nan", False), ("-inf", False), ("1e-3", False), ("", False), (None, False), (0.35, False), (math.nan, False),
    ],
)  # fmt: skip
def test_a_figure_that_cannot_be_read_is_no_run_that_diverged(cell: Any, cannot_be_read: bool) -> None:
    assert is_written_otherwise(cell) == cannot_be_read


@pytest.mark.parametrize("cell", [[1], {"a": 1}, True, "x", b"x", 10**400, object()])
def test_what_is_no_number(cell: Any) -> None:
    assert math.isnan(number(cell))


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        (RATE, 9.999999747378752e-05, 1e-4),  # 1e-4 as float32
        (RATE, "0.0100000001", 1e-2),
        (RATE, decimal.Decimal("0.001"), 1e-3),
        (GRID, 0.30000001192092896, 0.1 + 2 * 0.1),
        (WHOLE, "32.0", 32),
        (WHOLE, 64.00000001, 64),
    ],
)
def test_a_number_is_read_as_the_field_s_own(field: Distribution, cell: Any, value: Any) -> None:
    found = value_of(cell, field)
    assert found == value
    assert field.contains(found)


@pytest.mark.parametrize(("field", "cell"), [(RATE, 0.011), (GRID, 0.35), (WHOLE, 8.5), (WHOLE, True), (RATE, "fast")])
def test_a_value_outside_is_named(field: Distribution, cell: Any) -> None:
    with pytest.raises(OutsideSpace, match=f"{field.path} is {cell!r}"):
        value_of(cell, field)


@pytest.mark.parametrize(
    ("value", "cell", "same"),
    [
        (True, "true", True), (True, 1.0, True), (True, "1", True), (False, 0, True), (False, "False", True),
        (True, 2, False), (True, None, False), (1, True, False), (4.0, "4", True), (0.1, 0.10000000149011612, True),
        (0.1, 0.11, False), ("rri", b"rri", True), ("rri", " rri", True), ("1", 1.0, True), ("sft", "rri", False),
        (None, "rri", False), (2, "", False),
    ],
)  # fmt: skip
def test_a_cell_means_a_value_however_it_is_written(value: Any, cell: Any, same: bool) -> None:
    assert is_same(value, cell) is same


def test_seeds_are_texts_without_the_point_that_gaps_give_them() -> None:
    assert [text(cell) for cell in (1, 1.0, "1.0", "01", "a", b"a", 1.5)] == ["1", "1", "1", "1", "a", "a", "1.5"]


def test_seeds_that_are_hashes_are_told_apart() -> None:
    seeds = [2**60, 2**60 + 1, str(2**63 + 1), str(2**63 + 2), f" {2**60} "]
    assert [text(cell) for cell in seeds] == [str(int(cell)) for cell in seeds]
