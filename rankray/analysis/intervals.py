"""Intervals over seeds: the mean of repeated runs, the difference of two settings, and what S seeds can tell.

The unit of all of them is the training run, not the example: two runs of one setting with different seeds differ by
more than their examples' standard error says, so a test over examples takes seed noise for a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.05
"""Two-sided level of every interval, unless looks before the end lower it."""


@dataclass(frozen=True)
class Welch:
    """Welch's comparison of two sets of runs.

    Attributes:
        difference: mean of the first minus mean of the second, in the metric's unit.
        low: lower end of the interval of the difference.
        high: upper end of it.
        p_value: two-sided.
        degrees: Welch-Satterthwaite degrees of freedom.
        seed_sd: standard deviation over seeds, root mean square of both sides.
        level: the level that the interval was made for: it covers the true difference in 1 - level of all cases.
    """

    difference: float
    low: float
    high: float
    p_value: float
    degrees: float
    seed_sd: float
    level: float

    @property
    def half_width(self) -> float:
        """Half of the interval, in the metric's unit."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Return (mean, low, high) of the mean of some runs, by Student's t; infinite ends for a single run.

    Args:
        values: one per run, in the metric's unit.
        level: two-sided.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    runs = _finite(values, 1)
    mean = float(runs.mean())
    if len(runs) == 1:
        return mean, -math.inf, math.inf
    if not np.ptp(runs):
        return float(runs[0]), float(runs[0]), float(runs[0])
    half = float(stats.t.ppf(1 - level / 2, len(runs) - 1)) * float(runs.std(ddof=1)) / math.sqrt(len(runs))
    return mean, mean - half, mean + half


def welch(first: Sequence[float], second: Sequence[float], level: float = LEVEL) -> Welch:
    """Compare the means of two sets of runs that need not scatter alike.

    Where all runs of both sides are equal there is no scatter, and the interval is the difference alone.

    Args:
        first: one value per run, at least two.
        second: likewise; the numbers of runs may differ.
        level: two-sided.

    Raises:
        ValueError: fewer than two values on a side, or one that is not finite.

    Source: B. L. Welch, Biometrika 34 (1947) 28-35; degrees of freedom after Satterthwaite (1946).
    """
    one, two = _finite(first, 2), _finite(second, 2)
    if not (np.ptp(one) or np.ptp(two)):  # the mean of equal numbers is rounded, differently for each count of them
        difference = float(one[0] - two[0])
        degrees = float(len(one) + len(two) - 2)
        return Welch(difference, difference, difference, float(difference == 0.0), degrees, 0.0, level)
    difference = float(one.mean() - two.mean())
    parts = one.var(ddof=1) / len(one), two.var(ddof=1) / len(two)
    error, seed_sd = math.sqrt(sum(parts)), math.sqrt(float(one.var(ddof=1) + two.var(ddof=1)) / 2)
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / (len(one) - 1) + parts[1] ** 2 / (len(two) - 1))
    half = float(stats.t.ppf(1 - level / 2, degrees)) * error
    p_value = 2 * float(stats.t.sf(abs(difference) / error, degrees))
    return Welch(difference, difference - half, difference + half, p_value, float(degrees), seed_sd, level)


@lru_cache
def half_width_in_sd(seeds: int, level: float = LEVEL) -> float:
    """Return the half-width of the interval of a difference of two settings, in standard deviations over seeds.

    Args:
        seeds: runs per setting, at least two.
        level: two-sided.
    """
    _at_least_two(seeds)
    return float(stats.t.ppf(1 - level / 2, 2 * seeds - 2)) * math.sqrt(2 / seeds)


QUANTILES = 64
"""At so many quantiles each the variances of two samples are put together for the power of Welch's test."""


@lru_cache
def power(seeds: int, difference_in_sd: float, level: float = LEVEL) -> float:
    """Return how often Welch's comparison finds a true difference: the interval lies on its side of zero.

    Args:
        seeds: runs per setting, at least two.
        difference_in_sd: the true difference of the means, in standard deviations over seeds.
        level: two-sided.

    Same value as the share of `welch(first, second, level)` over draws of two normal samples that scatter alike, to
    0.001. Student's test with 2 * seeds - 2 degrees of freedom would find more: of 2 sd with two seeds 0.22 for 0.11.
    """
    _at_least_two(seeds)
    scatter = math.sqrt(2 / seeds)
    return float(stats.norm.sf((_needed(seeds, level) - difference_in_sd) / scatter).mean())


@lru_cache
def _needed(seeds: int, level: float) -> np.ndarray:
    """Return from which difference on an interval excludes zero, for each pair of variances that are equally likely."""
    one = stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, seeds - 1) / (seeds - 1)
    first, second = np.meshgrid(one, one)
    degrees = (first + second) ** 2 * (seeds - 1) / (first**2 + second**2)
    needed: np.ndarray = stats.t.ppf(1 - level / 2, degrees) * np.sqrt((first + second) / seeds)
    return needed


@lru_cache
def smallest_found(seeds: int, chance: float = 0.8, level: float = LEVEL) -> float:
    """Return the true difference that is found with a given chance, in standard deviations over seeds."""
    low, high = 0.0, 1.0
    while power(seeds, high, level) < chance:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if power(seeds, middle, level) < chance else (low, middle)
    return high


def _at_least_two(seeds: int) -> None:
    if seeds < 2:
        raise ValueError(f"seeds: got {seeds}; allowed: 2 or more, one run says nothing of the scatter; raise it")


def _finite(values: Sequence[float], least: int) -> np.ndarray:
    runs = np.asarray(values, dtype=np.float64)
    if runs.ndim != 1 or len(runs) < least or not np.isfinite(runs).all():
        raise ValueError(f"values: got {list(values)}; allowed: {least} or more finite numbers; leave out failed runs")
    return runs
