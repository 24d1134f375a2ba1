"""Rows that have the shape of their form and nothing to train on: they are left out, and counted by reason.

Data from the world hold some: conversations without an answer, null where a text belongs, turns that a model's chat
template refuses. One of them does not stop a search. A row that breaks the shape of its form is refused, and so are
data of which half of the rows or more would be left out: then the form, the columns or the model do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rankray.errors import DataError

MOST_REASONS = 20
"""How many reasons are told apart; texts of chat templates may differ from row to row."""
OTHER = "for other reasons"
SAID = 3
"""How many reasons a line names."""


class Unusable(DataError):
    """A row that has the shape of its form, and nothing to train on.

    Args:
        message: the row, and what is wrong with it.
        reason: what such rows have in common, as it follows on "3 rows", such as `with no assistant turn`.
    """

    def __init__(self, message: str, reason: str = OTHER) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class LeftOut:
    """What was left out of some data.

    Attributes:
        rows: how many rows were looked at, those that were left out included.
        reasons: reason -> how many rows, and the place of the first.
        indices: which rows, from 0, in the order in which they were read.
        example: the first of them, and what is wrong with it.
    """

    rows: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    indices: list[int] = field(default_factory=list)
    example: str = ""

    @property
    def count(self) -> int:
        """How many rows were left out."""
        return sum(count for count, _ in self.reasons.values())

    def add(self, row: Unusable, place: str) -> None:
        """Count a row, the one that was looked at last."""
        reason = row.reason if row.reason in self.reasons or len(self.reasons) < MOST_REASONS else OTHER
        self.example = self.example or str(row)
        count, first = self.reasons.get(reason, (0, place))
        self.reasons[reason] = count + 1, first
        self.indices.append(self.rows - 1)

    def __add__(self, other: LeftOut) -> LeftOut:
        """Return the counts of both; the first places are those of the first."""
        reasons = dict(self.reasons)
        for reason, (count, place) in other.reasons.items():
            known, first = reasons.get(reason, (0, place))
            reasons[reason] = known + count, first
        indices = self.indices + [self.rows + index for index in other.indices]
        return LeftOut(self.rows + other.rows, reasons, indices, self.example or other.example)

    def refuse_most(self, where: str, source: str) -> None:
        """Refuse data of which half of the rows or more are left out.

        Args:
            where: how the error begins.
            source: the path or the dataset.

        Raises:
            DataError: so many are; says how many, why, and where the first is; of all for one reason, the first.
        """
        if self.count == self.rows and len(self.reasons) == 1:
            raise DataError(self.example + (f" (all {self.rows:,} rows of {source!r} are so)" if self.rows > 1 else ""))
        if self.count and 2 * self.count >= self.rows:
            raise DataError(
                f"{where}: {self._counted()} of {source!r} have nothing to train on: {self.why()}; allowed is less "
                "than half, which would be left out; fix or remove them, name the columns that hold the text, or take "
                "another model if its chat template refuses them"
            )

    def line(self, field: str) -> str:
        """Return what is said of a field such as `data.train`; nothing where nothing was left out."""
        if not self.count:
            return ""
        return f"{field}: {self._counted()} left out, with nothing to train on: {self.why()}"

    def why(self) -> str:
        """Return the reasons with their counts and first rows, the most frequent first."""
        ordered = sorted(self.reasons.items(), key=lambda item: -item[1][0])
        parts = [f"{count:,} {reason} (first: {place})" for reason, (count, place) in ordered[:SAID]]
        rest = sum(count for _, (count, _) in ordered[SAID:])
        return ", ".join([*parts, *([f"{rest:,} {OTHER}"] if rest else [])])

    def as_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON types."""
        reasons = {reason: {"rows": count, "first": place} for reason, (count, place) in self.reasons.items()}
        return {"rows": self.count, "of": self.rows, "reasons": reasons}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any] | None) -> LeftOut:
        """Return the counts that `as_json` gave; of nothing, nothing."""
        if not tree:
            return cls()
        return cls(tree["of"], {why: (each["rows"], each["first"]) for why, each in tree["reasons"].items()})

    def _counted(self) -> str:
        return f"{self.count:,} of {self.rows:,} rows"


def is_missing(value: Any) -> bool:
    """Whether a table has no value there: null, or what tables write for it among numbers."""
    return value is None or (isinstance(value, float) and math.isnan(value))
