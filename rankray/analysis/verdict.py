"""The answer of a confirmation: one word on a setting against a baseline, with its interval and its reasons.

    better, worse        the interval of the difference lies on one side of zero
    indistinguishable    it holds zero, and a difference of `TELLING_SD` would have been found in 80 % of all cases
    under-powered        it holds zero, and such a difference would have been missed more often; or it does not, and
                         something else forbids the word "better", or there are only two runs a side, and all equal

"Better" is forbidden where a best learning rate lies on the edge of its range (then what was compared may be two
ranges, not two settings), and where more runs of the setting failed than of the baseline (then those that are left are
a choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rankray.analysis.intervals import LEVEL, Welch, power, smallest_found, welch

TELLING_SD = 2.0
"""The true difference, in standard deviations over seeds, that a comparison has to find to be called well-powered."""
ENOUGH = 0.8
"""How often it has to find it."""
LEAST_ALIKE = 3
"""Runs of a side, at least, that say by being equal that there is no scatter: two accuracies of few examples are often
equal by chance, and in up to one of eight comparisons of two such pairs the two pairs differ."""
Word = Literal["better", "worse", "indistinguishable", "under-powered"]


@dataclass(frozen=True)
class Judgement:
    """One word, and what it rests on.

    Attributes:
        word: the word.
        why: the reasons in a sentence, without the figures of the two settings.
        compared: the comparison, first minus second; its level is that of the look.
        power: how often a difference of `TELLING_SD` would have been found.
        decides: whether the interval lies on one side of zero, and more seeds are not needed.
    """

    word: Word
    why: str
    compared: Welch
    power: float
    decides: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return `word`, `difference`, `interval` and the figures behind them."""
        return {
            "word": self.word,
            "difference": self.compared.difference,
            "interval": [self.compared.low, self.compared.high],
            "level": self.compared.level,
            "p_value": self.compared.p_value,
            "seed_sd": self.compared.seed_sd,
            "power": self.power,
        }


def decide(
    first: Sequence[float],
    second: Sequence[float],
    *,
    maximize: bool,
    level: float = LEVEL,
    obstacles: Sequence[str] = (),
) -> Judgement:
    """Return the word on a setting (`first`) against a baseline (`second`).

    Args:
        first: the study's metric of each run of the setting, at least two.
        second: of each run of the baseline, at least two.
        maximize: whether more is better.
        level: two-sided; lower than 5 % where one looks more than once (`sequential.look_levels`).
        obstacles: what forbids "better", each a clause.

    Raises:
        ValueError: too few runs, or one that is not finite.
    """
    compared = welch(first, second, level)
    seeds = min(len(first), len(second))
    chance = power(seeds, TELLING_SD, level)
    gain = compared.difference if maximize else -compared.difference
    covers = f"the {_percent(1 - level)} interval of the gain"
    if compared.excludes_zero and not compared.seed_sd and seeds < LEAST_ALIKE:
        why = f"all runs of either side are equal, but {seeds} do not say how far runs scatter; more seeds would tell"
        return Judgement("under-powered", f"{why} (--label NAME and more --seeds)", compared, chance)
    if compared.excludes_zero and gain < 0:
        return Judgement("worse", f"{covers} lies below zero", compared, chance, decides=True)
    if compared.excludes_zero and not obstacles:
        return Judgement("better", f"{covers} lies above zero", compared, chance, decides=True)
    if compared.excludes_zero:
        why = f"{covers} lies above zero, but {'; and '.join(obstacles)}"
        return Judgement("under-powered", why, compared, chance, decides=True)
    if chance >= ENOUGH:
        seen = smallest_found(seeds, ENOUGH, level)
        why = f"{covers} holds zero; {seeds} seeds each find a difference of {seen:.2g} seed sd in 80 % of all cases"
        return Judgement("indistinguishable", why, compared, chance)
    why = (
        f"{covers} holds zero, but {seeds} seeds each find even a difference of {TELLING_SD:g} seed sd in only "
        f"{_percent(chance)} of all cases; more seeds would tell (--label NAME and more --seeds)"
    )
    return Judgement("under-powered", why, compared, chance)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
