from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankray.analysis.sequential import SPENDING, look_levels


@pytest.mark.parametrize(
    ("spending", "limits"),
    [("obrien_fleming", [4.3326, 2.9631, 2.3590, 2.0141]), ("pocock", [2.3682, 2.3675, 2.3583, 2.3500])],
)
def test_the_levels_are_the_published_ones(spending: str, limits: list[float]) -> None:
    """Four equal looks, two-sided 5 %: as limits in standard deviations; see Reboussin et al., ld98 (2000)."""
    levels = look_levels([4, 8, 12, 16], 0.05, spending)
    assert [float(stats.norm.isf(level / 2)) for level in levels] == pytest.approx(limits, abs=2e-4)


@pytest.mark.parametrize("spending", SPENDING)
@pytest.mark.parametrize("looks", [[4, 8, 12, 16], [3, 5, 20], [8], [2, 16]])
def test_all_looks_together_err_as_often_as_one_would(spending: str, looks: list[int]) -> None:
    levels = look_levels(looks, 0.05, spending)
    draw = np.random.default_rng(11).normal(size=(60_000, looks[-1]))
    sums = draw.cumsum(axis=1)
    stopped = np.zeros(len(draw), bool)
    for look, level in zip(looks, levels, strict=True):
        stopped |= abs(sums[:, look - 1]) / np.sqrt(look) > stats.norm.isf(level / 2)
    assert stopped.mean() == pytest.approx(0.05, abs=4 * np.sqrt(0.05 / 60_000))


def test_one_look_has_the_whole_level() -> None:
    assert look_levels([8], 0.05) == pytest.approx([0.05], rel=1e-9)


@pytest.mark.parametrize("looks", [[], [8, 4], [4, 4], [0, 4]])
def test_looks_increase(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="increasing numbers of seeds"):
        look_levels(looks)


@pytest.mark.parametrize("looks", [[2.5, 4], [4.0, 8.0], [True, 4], ["4", "8"]])
def test_looks_are_whole_numbers(looks: list[int]) -> None:
    with pytest.raises(ValueError, match="allowed: whole numbers"):
        look_levels(looks)
