"""The sums beside the loss, and the quantiles read from them."""

from __future__ import annotations

import math

import pytest
import torch

from rankray.loss import LossStats
from rankray.loss.totals import BUCKETS


def stats_of(scale_N: torch.Tensor, weight_N: torch.Tensor | None = None) -> LossStats:
    weight_N = scale_N if weight_N is None else weight_N
    return LossStats.of(torch.full_like(scale_N, -1.0), weight_N, scale_N, torch.zeros_like(scale_N).bool())


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_quantiles_are_within_half_a_bucket(share):
    generator = torch.Generator().manual_seed(1)
    scale_N = torch.exp2(3 * torch.randn(4001, generator=generator, dtype=torch.float64)).clamp(2**-15, 2**15)
    truth = scale_N.quantile(share).item()
    assert stats_of(scale_N).scale_quantile(share) == pytest.approx(truth, rel=2 ** (1 / 64) - 1 + 1e-9)


def test_a_scale_of_one_is_one_exactly():
    assert [stats_of(torch.ones(9)).scale_quantile(share) for share in (0.0, 0.5, 1.0)] == [1.0] * 3


def test_the_histogram_counts_what_numpy_counts():
    """Bars half an octave wide, in log2 S around multiples of a half; no S lies on an edge."""
    generator = torch.Generator().manual_seed(3)
    place_N = (torch.randn(4001, generator=generator, dtype=torch.float64) * 2 * 32).round() / 32 + 0.001
    found = stats_of(place_N.exp2()).scale_spread()
    edges_B = torch.arange(-20.25, 20.5, 0.5, dtype=torch.float64)
    counts_B = torch.histogram(place_N, edges_B).hist
    full = counts_B.nonzero().flatten()
    assert found["first"] == 2 * (edges_B[full[0]] + 0.25)
    assert found["shares"] == pytest.approx((counts_B[full[0] : full[-1] + 1] / 4001).tolist(), abs=5e-5)
    assert len(found["shares"]) < 40, "a few numbers"


def test_the_histogram_of_ones_is_one_bar_and_of_nothing_is_empty():
    assert stats_of(torch.ones(9)).scale_spread() == {"first": 0, "shares": [1.0]}
    assert stats_of(torch.empty(0)).scale_spread() == {"first": 0, "shares": []}
    extremes = stats_of(torch.tensor([2.0**-20, 2.0**20, math.nan], dtype=torch.float64)).scale_spread()
    assert (extremes["first"], extremes["shares"][0], extremes["shares"][-1]) == (-32, 0.3333, 0.6667)


def test_quantiles_of_two_batches_are_those_of_both():
    generator = torch.Generator().manual_seed(2)
    scale_N = torch.exp2(torch.randn(500, generator=generator))
    both = stats_of(scale_N[:120]) + stats_of(scale_N[120:])
    whole = stats_of(scale_N)
    for share in (0.05, 0.5, 0.95):
        assert both.scale_quantile(share) == whole.scale_quantile(share)
    travelled = LossStats.from_vector(torch.stack([stats_of(scale_N).vector()] * 2).sum(0))  # as all-reduce does
    assert travelled.scale_quantile(0.5) == whole.scale_quantile(0.5)
    assert travelled.token_count == 1000


def test_the_outermost_buckets_contain_everything_beyond():
    stats = stats_of(torch.tensor([0.0, 1e-30, 1e30, math.inf, math.nan]))
    assert stats.scale_counts_B[[0, -1]].tolist() == [2.0, 3.0]
    assert stats.scale_counts_B.sum() == 5
    assert (stats.scale_quantile(0.0), stats.scale_quantile(1.0)) == (2.0**-16, 2.0**16)
    assert len(stats.scale_counts_B) == BUCKETS


def test_without_a_token_there_is_no_quantile():
    assert math.isnan(stats_of(torch.empty(0)).scale_quantile(0.5))


def test_shares_and_effective_tokens():
    stats = stats_of(torch.tensor([1.0, 0.96, 1.06, 2.0]), torch.tensor([1.0, 1.0, 2.0, 4.0]))
    assert stats.scale_near_one_share == 0.5
    assert stats.effective_tokens == pytest.approx(64 / 22)
    assert stats.effective_share == pytest.approx(16 / 22)
    assert stats.mean_weight == 2.0
    assert stats_of(torch.ones(7)).effective_tokens == 7.0


def test_the_sums_by_hand():
    log_prob_N = torch.tensor([-0.5, -2.0, -4.0])
    stats = LossStats.of(
        log_prob_N,
        torch.tensor([0.5, 3.0, 0.0]),
        torch.tensor([1.0, 4.0, 0.5]),
        torch.tensor([True, False, True]),
        torch.tensor([0.25, 0.5, 0.0]),
    )
    assert (float(stats.token_count), float(stats.nll_sum), float(stats.weighted_sum)) == (3.0, 6.5, 6.25)
    assert (float(stats.weight_sum), float(stats.weight_square_sum), float(stats.kl_sum)) == (3.5, 9.25, 0.75)
    assert (stats.nll, stats.token_accuracy, stats.mean_scale) == pytest.approx((6.5 / 3, 2 / 3, 5.5 / 3))


def test_sums_of_a_checkpoint_from_before_there_was_a_divergence():
    stats = stats_of(torch.tensor([0.5, 1.0, 8.0]))
    vector = stats.vector()
    earlier = LossStats.from_vector(torch.cat([vector[: -BUCKETS - 1], vector[-BUCKETS:]]))
    assert torch.equal(earlier.vector(), vector)
    assert earlier.scale_quantile(1.0) == 8.0
