"""What is left of a split when its examples are cut to the most tokens they may have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

WORTH_A_WARNING = 0.05
"""The share of rows that are cut from which on `check` warns."""
QUANTILES = (0.5, 0.95, 1.0)


@dataclass(frozen=True)
class SplitSummary:
    """The size of a split.

    Attributes:
        rows: examples read.
        supervised_tokens: tokens that are trained on, or measured.
        cut: rows that are longer than `limit` and lose their end.
        lost: rows that keep no supervised token, and are dropped.
        limit: the most tokens an example may have.
        lengths: tokens of the median row, the row longer than 95 % of all, and the longest, before cutting.
    """

    rows: int
    supervised_tokens: int
    cut: int
    lost: int
    limit: int
    lengths: tuple[int, int, int]

    def as_json(self) -> dict[str, int]:
        """Return the summary as `check --json` has it."""
        return {
            "rows": self.rows,
            "supervised_tokens": self.supervised_tokens,
            "cut": self.cut,
            "lost": self.lost,
            "limit": self.limit,
            "median_length": self.lengths[0],
            "length_of_95_percent": self.lengths[1],
            "longest": self.lengths[2],
        }

    def line(self, split: str) -> str:
        """Return the summary in words."""
        half, most, longest = self.lengths
        cut = f"{self.cut:,} cut to {self.limit:,}" if self.cut else f"none cut at {self.limit:,}"
        lost = f", {self.lost:,} lost" if self.lost else ""
        return (
            f"data.{split}: {self.rows:,} rows, {self.supervised_tokens:,} supervised tokens; tokens per row: median "
            f"{half:,}, 95 % up to {most:,}, longest {longest:,}; {cut}{lost}"
        )

    def warning(self, split: str) -> str:
        """Return a warning where cutting destroys too much, else an empty string."""
        if not self.lost and self.cut <= WORTH_A_WARNING * self.rows:
            return ""
        lost = f", and {self.lost:,} of them keep nothing to train on" if self.lost else ""
        return (
            f"data.max_length: {self.cut:,} of {self.rows:,} rows of data.{split} lose their end at {self.limit:,} "
            f"tokens{lost}; {self.lengths[1]:,} tokens would fit 95 % of the rows, {self.lengths[2]:,} all of them; "
            "raise data.max_length (up to the model's context), or shorten the rows"
        )


def summarise(lengths: Sequence[int], limit: int, supervised_tokens: int, lost: int) -> SplitSummary:
    """Return the summary of a split.

    Args:
        lengths: tokens of each row before cutting; at least one.
        limit: the most tokens an example may have.
        supervised_tokens: tokens that are trained on after cutting.
        lost: rows that keep none of them.
    """
    ordered = sorted(lengths)
    at = [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in QUANTILES]
    cut = sum(length > limit for length in ordered)
    return SplitSummary(len(ordered), supervised_tokens, cut, lost, limit, (at[0], at[1], at[2]))
