"""A search space as numbers: settings as rows of a unit cube, and how far apart two of them are.

A row has one number per field, from 0 to 1, evenly over the field's own scale (the logarithm's, where it says `log`); a
choice is its index, at (index + 0.5) / choices. NaN means that the field does not exist in this setting. Distances are
kept apart by field, so that each may be given a lengthscale of its own. A field that does not exist lies in the middle
of its range, so a setting without it is as far from the one end as from the other. A choice among three numbers or more
is a number: its values lie evenly along its range, in their order (`in_order`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Distribution, distributions
from rankray.config.params import get_path
from rankray.config.schema import Config

Array = NDArray[np.float64]
RESOLUTION = 1e-4
"""The part of a field's range, on its own scale, below which two numbers are not told apart."""
MOST_BRANCHES = 24
"""How many branches of a conditional space are told apart at most."""
FEW_COMBINATIONS = 12
"""Up to so many combinations of all choices, each is a branch."""
MOST_COMBINED = 4096
"""Combinations that are looked at, at most, to find the branches."""


class Encoding:
    """The space of a configuration as a unit cube.

    Attributes:
        paths: the fields' dotted paths, each after the ones that its `when` looks at.
        branches: the space's parts: each an assignment of choices, as {field's index: choice's index}. Of all choices
            that are no numbers, where these have FEW_COMBINATIONS at most; else of those that some `when` looks at,
            which is a single empty assignment where the space has no conditions, or more than MOST_COMBINED.
    """

    def __init__(self, config: Config) -> None:
        space = distributions(config)
        self._config = config
        self.fields: list[Distribution] = list(space.values())
        self.paths = list(space)
        self._index = {path: index for index, path in enumerate(self.paths)}
        self._by_size = {
            index: np.argsort(field.choices) for index, field in enumerate(self.fields) if field.is_ordered
        }
        looked_at = {other for field in self.fields for other in field.when if other in space}
        choices = [index for index, field in enumerate(self.fields) if field.kind == "choice"]
        gates = [index for index in choices if self.paths[index] in looked_at]
        kinds = [index for index in choices if index in gates or not self.fields[index].is_ordered]
        branches = self._combinations(kinds, FEW_COMBINATIONS)
        if branches is None:
            branches = self._combinations(gates, MOST_COMBINED) or [{}]
        self.branches: list[dict[int, int]] = branches[:MOST_BRANCHES]

    def _combinations(self, choices: Sequence[int], most: int) -> list[dict[int, int]] | None:
        """Return the ways in which some choices can be made, without those of fields that do not exist then.

        None where there are more than `most` of them, or more than MOST_COMBINED with fields that do not exist.
        """
        counts = [len(self.fields[index].choices) for index in choices]
        if math.prod(counts) > MOST_COMBINED:
            return None
        made = np.array(list(itertools.product(*map(range, counts))), dtype=int).reshape(math.prod(counts), len(counts))
        rows = np.full((len(made), len(self.fields)), 0.5)
        rows[:, choices] = (made + 0.5) / np.array(counts, dtype=float)
        there = ~np.isnan(self.without_inactive(rows)[:, choices])
        kept: dict[tuple[tuple[int, int], ...], None] = {}
        for chosen, exists in zip(made.tolist(), there.tolist(), strict=True):
            pairs = zip(choices, chosen, exists, strict=True)
            kept[tuple((index, choice) for index, choice, is_there in pairs if is_there)] = None
            if len(kept) > most:
                return None
        return [dict(branch) for branch in kept]

    def draw(self, count: int, draws: np.random.Generator, branch: Mapping[int, int] | None = None) -> Array:
        """Return `count` settings drawn as random search does, all of one branch if it is given; (count, fields)."""
        rows = self.spread(draws.random((count, len(self.fields))))
        for gate, choice in (branch or {}).items():
            rows[:, gate] = (choice + 0.5) / len(self.fields[gate].choices)
        return self.settled(rows)

    def spread(self, rows: Array) -> Array:
        """Return random rows of the cube in which each value of a field with steps is as likely as the others.

        Moved to the nearest value, the ends of a range would be half as likely as what lies between. Whole numbers on a
        logarithmic scale are as likely as what rounds to them there, from half below the lowest to half above the
        highest, as Optuna draws them.
        """
        out = rows.copy()
        for index, field in enumerate(self.fields):
            step = _step(field)
            if step is None:
                continue
            if field.log:
                low, high = math.log(field.low - 0.5), math.log(field.high + 0.5)
                values: Array = np.clip(np.round(np.exp(low + rows[:, index] * (high - low))), field.low, field.high)
            else:
                values = field.low + step * np.floor(rows[:, index] * (_steps(field, step) + 1))
            out[:, index] = _up(field, values)
        return out

    def in_order(self, rows: Array) -> Array:
        """Return rows with each choice among numbers at its place among them, from 0 for the least to 1."""
        out = rows.copy() if self._by_size else rows
        for index, by_size in self._by_size.items():
            there, most = ~np.isnan(rows[:, index]), len(by_size) - 1
            at = np.minimum((rows[there, index] * (most + 1)).astype(np.intp), most)
            out[there, index] = np.argsort(by_size)[at] / most
        return out

    def out_of_order(self, rows: Array) -> Array:
        """Return rows as they were before `in_order`: of a choice among numbers the one that is nearest."""
        out = rows.copy() if self._by_size else rows
        for index, by_size in self._by_size.items():
            there, most = ~np.isnan(rows[:, index]), len(by_size) - 1
            at = np.clip(np.round(rows[there, index] * most), 0, most).astype(np.intp)
            out[there, index] = (by_size[at] + 0.5) / (most + 1)
        return out

    def settled(self, rows: Array) -> Array:
        """Return rows with every number moved to the nearest value that its field can have, NaN where there is none."""
        out = np.clip(rows, 0.0, 1.0)
        for index, field in enumerate(self.fields):
            column = out[:, index]
            if field.kind == "choice":
                count = len(field.choices)
                out[:, index] = (np.minimum(np.floor(column * count), count - 1) + 0.5) / count
            elif field.kind == "int" or field.step is not None:
                out[:, index] = _up(field, _down(field, column))
        return self.without_inactive(out)

    def without_inactive(self, rows: Array) -> Array:
        """Return rows with NaN where a field does not exist, given the row's other values."""
        out = rows.copy()
        for index, field in enumerate(self.fields):
            for path, values in field.when.items():
                at = self._index.get(path)
                if at is None:
                    if get_path(self._config, path) not in values:
                        out[:, index] = np.nan
                    continue
                other = self.fields[at]
                if other.kind == "choice":
                    allowed = [(k + 0.5) / len(other.choices) for k, each in enumerate(other.choices) if each in values]
                    met = (np.abs(out[:, [at]] - np.array([allowed])) < 1e-9).any(axis=1)
                else:
                    met = np.isin(np.round(_down(other, out[:, at]), 12), [float(value) for value in values])
                out[~met, index] = np.nan
        return out

    def params(self, row: Array) -> dict[str, Any]:
        """Return a row's setting: dotted path to value, without the fields that do not exist.

        Numbers have as few digits as tell apart ten thousand values of their range (RESOLUTION): people read and type
        them.
        """
        found: dict[str, Any] = {}
        for index, field in enumerate(self.fields):
            if np.isnan(row[index]):
                continue
            if field.kind == "choice":
                found[field.path] = field.choices[min(int(row[index] * len(field.choices)), len(field.choices) - 1)]
                continue
            value = float(_down(field, row[[index]])[0])
            found[field.path] = round(value) if field.kind == "int" else _short(field, value)
        return found

    def place(self, params: Mapping[str, Any]) -> Array:
        """Return a setting's row; (fields,). What lies outside its range is put at the end of it."""
        row = np.full(len(self.fields), np.nan)
        for index, field in enumerate(self.fields):
            if field.path not in params:
                continue
            value = params[field.path]
            if field.kind == "choice":
                same = [k for k, each in enumerate(field.choices) if _same(each, value)]
                row[index] = (same[0] + 0.5) / len(field.choices) if same else np.nan
            else:
                row[index] = np.clip(_up(field, np.array([float(value)]))[0], 0.0, 1.0)
        return row

    def distances(self, some: Array, others: Array) -> Array:
        """Return how far apart settings are in each field; (fields, rows of some, rows of others).

        Two choices are 1 apart, unless they are numbers. A field that exists in one of two settings only counts as its
        middle in the other.
        """
        some, others = self.in_order(some), self.in_order(others)
        out = np.empty((len(self.fields), len(some), len(others)))
        for index, field in enumerate(self.fields):
            mine, theirs = some[:, index], others[:, index]
            if field.kind == "choice" and not field.is_ordered:
                count = len(field.choices)
                apart = (mine[:, None] != theirs[None, :]).astype(float)
                lone = np.isnan(mine)[:, None] != np.isnan(theirs)[None, :]
                both = np.isnan(mine)[:, None] & np.isnan(theirs)[None, :]
                apart[lone] = math.sqrt((1 - 1 / count) / 2)
                apart[both] = 0.0
                out[index] = apart
            else:
                out[index] = np.abs(_middle(mine)[:, None] - _middle(theirs)[None, :])
        return out


def _middle(column: Array) -> Array:
    return np.where(np.isnan(column), 0.5, column)


def _same(choice: Any, value: Any) -> bool:
    return bool(choice == value and isinstance(choice, bool) == isinstance(value, bool))


def _short(field: Distribution, value: float) -> float:
    """Return a number with the digits that RESOLUTION asks for; that of a field with steps has those of its step."""
    width = value * math.log(field.high / field.low) if field.log else field.high - field.low
    digits = 12 - _magnitude(value) if field.step is not None else -_magnitude(RESOLUTION * width)
    return min(max(round(value, digits), field.low), field.high)


def _magnitude(value: float) -> int:
    """Return the power of ten that a number begins with; 0 for 0."""
    return math.floor(math.log10(abs(value))) if value else 0


def _down(field: Distribution, column: Array) -> Array:
    """Return the values that a column of the unit cube stands for."""
    if field.log:
        low, high = math.log(field.low), math.log(field.high)
        values = np.exp(low + column * (high - low))
    else:
        values = field.low + column * (field.high - field.low)
    step = _step(field)
    if step is not None:
        values = field.low + np.clip(np.round((values - field.low) / step), 0, _steps(field, step)) * step
    return np.clip(values, field.low, field.high)


def _step(field: Distribution) -> float | None:
    """Return what lies between two values of a number; None where all between the ends are values."""
    return field.step or (1.0 if field.kind == "int" else None)


def _steps(field: Distribution, step: float) -> int:
    """Return how many steps there are from the lowest value to the highest."""
    return math.floor((field.high - field.low) / step + 1e-9)


def _up(field: Distribution, values: Array) -> Array:
    """Return where values lie in the unit cube."""
    low, high = (math.log(field.low), math.log(field.high)) if field.log else (field.low, field.high)
    at = np.log(np.maximum(values, 1e-300)) if field.log else values
    return np.asarray((at - low) / (high - low))
