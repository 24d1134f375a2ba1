"""How long the examples of a split are, and what cutting leaves of them: the table of `check` and `preview`.

Pure arithmetic over numbers of tokens: `rankray.data.encode.measure` counts them, and needs no torch for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

WORTH_A_WARNING = 0.05
"""The share of rows that are cut from which on `check` warns."""


class Length(NamedTuple):
    """One example, in tokens.

    Attributes:
        tokens: of the whole example, before cutting.
        supervised: of them, those with a label that can be predicted, before cutting.
        kept: supervised tokens that are left after cutting at the limit.
    """

    tokens: int
    supervised: int
    kept: int


@dataclass(frozen=True)
class LengthTable:
    """A split in numbers.

    Attributes:
        rows: examples.
        supervised_tokens: tokens that are trained on (or measured), after cutting.
        cut: examples longer than the limit, which lose their end.
        lost: examples that keep no supervised token and are left out.
        cut_tokens: supervised tokens that cutting takes away.
        median: tokens of the middle example, before cutting.
        p95: tokens that 95 % of the examples do not exceed, before cutting.
        longest: tokens of the longest example, before cutting.
        limit: the most tokens an example may keep.
    """

    rows: int
    supervised_tokens: int
    cut: int
    lost: int
    cut_tokens: int
    median: int
    p95: int
    longest: int
    limit: int

    def as_json(self) -> dict[str, Any]:
        """Return the table as plain JSON types."""
        return asdict(self)

    def warning(self, split: str, context: int | None = None) -> str:
        """Return a warning where cutting destroys too much of a split, else an empty string.

        Args:
            split: its name.
            context: the longest sequence that the model supports, in tokens; None where that is not known.
        """
        if not self.lost and self.cut <= WORTH_A_WARNING * self.rows:
            return ""
        if not self.cut:
            return (
                f"data.{split}: {self.lost:,} of {self.rows:,} rows have no token to train on and are left out: their "
                "answers are empty, and nothing ends them; fix or remove them"
            )
        lost = f", and {self.lost:,} rows keep nothing to train on" if self.lost else ""
        most = "up to the model's context" + (f", {context:,}" if context else "")
        more = f"raise data.max_length ({most}), or shorten the rows"
        if context is not None and self.limit >= context:
            more = "that is the model's context; shorten the rows, or take another model"
        return (
            f"data.max_length: {self.cut:,} of {self.rows:,} rows of data.{split} lose their end at {self.limit:,} "
            f"tokens{lost}; {self.p95:,} tokens would fit 95 % of the rows, {self.longest:,} all of them; {more}"
        )


def length_table(lengths: Iterable[Length], limit: int) -> LengthTable:
    """Return the table of a split.

    Args:
        lengths: one for each example.
        limit: the most tokens an example may keep; `lengths` were counted with it.
    """
    found = list(lengths)
    totals = sorted(length.tokens for length in found)
    return LengthTable(
        rows=len(found),
        supervised_tokens=sum(length.kept for length in found),
        cut=sum(length.tokens > limit for length in found),
        lost=sum(length.kept == 0 for length in found),
        cut_tokens=sum(length.supervised - length.kept for length in found),
        median=_quantile(totals, 0.5),
        p95=_quantile(totals, 0.95),
        longest=totals[-1] if totals else 0,
        limit=limit,
    )


def table_lines(tables: Mapping[str, LengthTable]) -> list[str]:
    """Return the tables of several splits as aligned lines of plain text, a heading first; nothing for no tables."""
    if not tables:
        return []
    heads = ("data", "rows", "supervised tokens", "cut", "lost", "median", "p95", "longest", "limit")
    cells = [
        [name, *map(str, (t.rows, t.supervised_tokens, t.cut, t.lost, t.median, t.p95, t.longest, t.limit))]
        for name, t in tables.items()
    ]
    widths = [max(len(row[i]) for row in [list(heads), *cells]) for i in range(len(heads))]
    return ["  ".join(_padded(cell, width, i) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
            for row in [list(heads), *cells]]  # fmt: skip


def _padded(cell: str, width: int, column: int) -> str:
    return cell.ljust(width) if column == 0 else cell.rjust(width)


def _quantile(ordered: Sequence[int], share: float) -> int:
    """Return the smallest value that at least this share of the values do not exceed; 0 where there are none."""
    if not ordered:
        return 0
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]
