"""Looking before the end: the level that each look may use, so that all looks together err as often as one would.

Who compares two settings after 4, 8, 12 and 16 seeds with 5 % each, and stops at the first difference, says a wrong
"better" or "worse" in 13 % of the cases in which there is no difference. A spending function says which part of the
5 % has been used up when a share t of all runs is in. The levels follow from it by integration over what can have
happened at the earlier looks; nothing is looked up in a table.

    obrien_fleming   2 - 2 Phi(z_{a/2} / sqrt(t)): early looks stop for large differences only, the last costs little
    pocock           a ln(1 + (e - 1) t): all looks use about the same level

Source: K. K. G. Lan and D. L. DeMets, Biometrika 70 (1983) 659-663; the integration is that of P. Armitage,
C. K. McPherson and B. C. Rowe, J. R. Stat. Soc. A 132 (1969) 235-244.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy import optimize, stats

from rankray.analysis.intervals import LEVEL

NODES = 101
"""Points of the Gauss-Legendre integration over what the previous look can have shown."""


def _obrien_fleming(share: float, level: float) -> float:
    return float(2 * stats.norm.sf(stats.norm.isf(level / 2) / math.sqrt(share)))


def _pocock(share: float, level: float) -> float:
    return level * math.log(1 + (math.e - 1) * share)


SPENDING: dict[str, Callable[[float, float], float]] = {"obrien_fleming": _obrien_fleming, "pocock": _pocock}
"""Name to spending function: (share of all runs, one-sided level) to the part of the level that is spent."""


def look_levels(looks: Sequence[int], level: float = LEVEL, spending: str = "obrien_fleming") -> list[float]:
    """Return the two-sided level of each look.

    A test at look k with this level, in which one stops at the first difference found, finds one where there is none
    in at most `level` of all cases. The last level is below `level` by what was spent before.

    Args:
        looks: runs per setting at each look, increasing.
        level: two-sided, of all looks together.
        spending: a name in `SPENDING`.

    Raises:
        ValueError: the looks are no whole numbers that increase, or there are none.
    """
    if any(type(look) is not int for look in looks):
        raise ValueError(f"looks: got {list(looks)}; allowed: whole numbers, as in 4,8,12,16; correct them")
    if not looks or looks[0] < 1 or any(later <= earlier for earlier, later in pairwise(looks)):
        raise ValueError(f"looks: got {list(looks)}; allowed: increasing numbers of seeds, as in 4,8,12,16; sort them")
    if len(looks) == 1:
        return [level]
    shares = [look / looks[-1] for look in looks]
    spent = [SPENDING[spending](share, level / 2) for share in shares]
    # Of the test statistic as a Brownian motion in t: its density at `values`, of those that have not stopped.
    values, weights = np.zeros(1), np.ones(1)
    points, quadrature = np.polynomial.legendre.leggauss(NODES)
    levels: list[float] = []
    before_share, before_spent = 0.0, 0.0
    for share, used in zip(shares, spent, strict=True):
        step = math.sqrt(share - before_share)
        known = (values, weights, step, share, used - before_spent)
        limit = float(optimize.brentq(_overspent, 0.0, 40.0, args=known, xtol=1e-12))
        levels.append(2 * float(stats.norm.sf(limit)))
        reach = limit * math.sqrt(share)
        after = points * reach
        density = stats.norm.pdf((after[:, None] - values[None, :]) / step) @ weights / step
        values, weights = after, density * quadrature * reach
        before_share, before_spent = share, used
    return levels


def _overspent(limit: float, values: np.ndarray, weights: np.ndarray, step: float, share: float, left: float) -> float:
    """Return how much more of the level than is left one side of a limit spends.

    Args:
        limit: in standard deviations.
        values: (points,) what the previous look can have shown, without having stopped.
        weights: (points,) how likely each is.
        step: standard deviation of what this look adds.
        share: the share of all runs that is in.
        left: the part of the one-sided level that may be spent now.
    """
    return float(weights @ stats.norm.sf((limit * math.sqrt(share) - values) / step)) - left
