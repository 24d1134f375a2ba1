from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rankray.analysis.intervals import half_width_in_sd, mean_interval, power, smallest_found, welch


def test_welch_is_scipy_s() -> None:
    draw = np.random.default_rng(3)
    for one, two in ((8, 8), (2, 9), (5, 3)):
        first, second = draw.normal(1.0, 0.3, one), draw.normal(0.7, 2.0, two)
        ours, theirs = welch(list(first), list(second), 0.1), stats.ttest_ind(first, second, equal_var=False)
        interval = theirs.confidence_interval(0.9)
        assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
        assert ours.degrees == pytest.approx(theirs.df, rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert ours.half_width == pytest.approx((interval.high - interval.low) / 2)


def test_a_mean_has_student_s_interval() -> None:
    values = [0.2, 0.5, 0.3, 0.9]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), low, high))
    assert mean_interval([2.0]) == (2.0, -math.inf, math.inf)


def test_runs_without_scatter_differ_by_what_they_differ() -> None:
    same, apart = welch([0.5, 0.5], [0.5, 0.5]), welch([0.75, 0.75], [0.5, 0.5])
    assert (same.low, same.high, same.p_value, same.excludes_zero) == (0.0, 0.0, 1.0, False)
    assert (apart.low, apart.high, apart.p_value, apart.excludes_zero) == (0.25, 0.25, 0.0, True)


@pytest.mark.parametrize("scattering", [0, 1])
def test_where_one_side_does_not_scatter_the_other_one_does(scattering: int) -> None:
    """As where every run of a baseline has the same accuracy: the interval is that of the other side's mean alone."""
    sides = [[0.5] * 5, [0.5] * 5]
    sides[scattering] = [0.4, 0.6, 0.45, 0.7, 0.55]
    ours, theirs = welch(*sides), stats.ttest_1samp(sides[scattering], 0.5)
    ends = sorted((-1) ** scattering * (end - 0.5) for end in theirs.confidence_interval(0.95))
    assert (ours.low, ours.high) == pytest.approx(ends)
    assert (ours.p_value, ours.degrees) == pytest.approx((theirs.pvalue, 4.0))
    assert not ours.excludes_zero


def test_equal_runs_are_equal_however_many_there_are(seed: int) -> None:
    """The mean of equal numbers is not always that number: here the means of 8 and of 7 differ by a rounding."""
    draw = np.random.default_rng(seed)
    for value in (0.1243366186504928, *draw.random(300), *draw.normal(0, 1e3, 300)):
        first, second = draw.integers(2, 40, 2)
        same = welch([value] * first, [value] * second)
        assert (same.low, same.high, same.p_value, same.excludes_zero, same.seed_sd) == (0.0, 0.0, 1.0, False, 0.0)
        assert mean_interval([value] * first) == (value, value, value)
    same = welch([0.1243366186504928] * 8, [0.1243366186504928] * 7)
    assert (same.difference, same.excludes_zero) == (0.0, False)


@pytest.mark.parametrize(("seeds", "half"), [(5, 1.46), (8, 1.07)])
def test_what_seeds_can_tell_before_anything_is_spent(seeds: int, half: float) -> None:
    assert half_width_in_sd(seeds) == pytest.approx(half, abs=0.005)


def found_of(seeds: int, difference: float, draw: np.random.Generator, count: int) -> float:
    """Return the share of simulated comparisons in which Welch's interval lies above zero."""
    first, second = draw.normal(difference, 1, (count, seeds)), draw.normal(0, 1, (count, seeds))
    found = stats.ttest_ind(first, second, axis=1, equal_var=False)
    return float(np.mean((found.pvalue < 0.05) & (found.statistic > 0)))


@pytest.mark.parametrize("seeds", [2, 3, 5, 8])
@pytest.mark.parametrize("difference", [0.0, 1.0, 2.0, 5.0])
def test_power_is_what_a_simulation_finds(seeds: int, difference: float) -> None:
    """With two and three seeds, too, where Student's test, which knows that both scatter alike, finds twice as many."""
    count = 40_000
    share = found_of(seeds, difference, np.random.default_rng(5), count)
    assert power(seeds, difference) == pytest.approx(share, abs=4 * math.sqrt(0.25 / count))


def test_the_smallest_difference_is_found_in_a_simulation() -> None:
    for seeds in (2, 3, 8):
        share = found_of(seeds, smallest_found(seeds, 0.8), np.random.default_rng(6), 40_000)
        assert share == pytest.approx(0.8, abs=4 * math.sqrt(0.16 / 40_000))


def test_the_smallest_difference_is_found_with_the_chance_asked_for() -> None:
    for seeds in (2, 5, 8, 16):
        assert power(seeds, smallest_found(seeds, 0.8)) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_or_broken_runs_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers"):
        welch(values, [1.0, 2.0])


def test_one_seed_tells_nothing() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        half_width_in_sd(1)
