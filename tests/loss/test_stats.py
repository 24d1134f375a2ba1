"""Per-token statistics against the reference and against properties they must have."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankray.errors import LossError
from rankray.loss import TokenStats, reference, token_stats
from rankray.loss.knobs import Knobs
from rankray.loss.stats import CHUNK_TOKENS
from rankray.loss.weights import expected_rank_bound

logit_rows = st.lists(st.floats(-30, 30), min_size=2, max_size=60)


def columns_of(*stats: TokenStats) -> list[tuple[torch.Tensor, ...]]:
    """The statistics that `token_stats` makes, side by side."""
    assert all(each.log_ratio_N is None for each in stats)
    return list(zip(*(each[:-1] for each in stats), strict=True))


def random_logits(rows: int, vocabulary: int, spread: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    logits_NV = torch.randn(rows, vocabulary, generator=generator) * spread
    return logits_NV.to(dtype), torch.randint(0, vocabulary, (rows,), generator=generator)


shapes = pytest.mark.parametrize(
    ("vocabulary", "spread"),
    [(2, 1.0), (7, 3.0), (19, 5.0), (400, 0.01), (9000, 0.0), (9000, 1.1), (9000, 2.0), (9000, 6.0)],
)


@shapes
def test_float64_agrees_with_the_reference(vocabulary, spread):
    logits_NV, target_N = random_logits(40, vocabulary, spread, torch.float64)
    for mine, true in columns_of(token_stats(logits_NV, target_N), reference.token_stats(logits_NV, target_N)):
        torch.testing.assert_close(mine, true, rtol=1e-13, atol=1e-13)


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_statistic_is_as_good_as_the_naive_one(vocabulary, spread, dtype, naive_token_stats, no_worse):
    logits_NV, target_N = random_logits(40, vocabulary, spread, dtype)
    wide_NV = logits_NV.to(torch.promote_types(dtype, torch.float32))
    ours, naive = token_stats(logits_NV, target_N), naive_token_stats(wide_NV, target_N)
    truth = reference.token_stats(logits_NV, target_N)
    assert torch.equal(ours.rank_N.double(), truth.rank_N)
    for mine, simple, true in columns_of(ours, naive, truth):
        assert mine.dtype == wide_NV.dtype
        no_worse(mine, simple, true)


def test_rows_spanning_several_chunks_are_those_of_each_row_alone():
    logits_NV, target_N = random_logits(601, 30, 2.0, torch.float64)
    whole = token_stats(logits_NV, target_N)
    for row in (0, 255, 256, 511, 512, 600):
        alone = token_stats(logits_NV[row : row + 1], target_N[row : row + 1])
        for column, single in columns_of(whole, alone):
            torch.testing.assert_close(column[row : row + 1], single, rtol=1e-13, atol=1e-13)


def test_the_input_is_left_alone_and_nothing_is_differentiable():
    logits_NV, target_N = random_logits(5, 11, 1.0, torch.float32)
    logits_NV.requires_grad_()
    before = logits_NV.detach().clone()
    stats = token_stats(logits_NV, target_N)
    assert torch.equal(logits_NV.detach(), before)
    assert not any(column.requires_grad for (column,) in columns_of(stats))


def test_ties_count_against_the_target():
    stats = token_stats(torch.tensor([[1.0, 1.0, 1.0, 0.0], [3.0, 1.0, 1.0, 0.0]]), torch.tensor([0, 1]))
    assert stats.rank_N.tolist() == [3.0, 3.0]
    flat = token_stats(torch.zeros(1, 8), torch.tensor([5]))
    assert flat.rank_N.item() == 8.0
    assert flat.entropy_bits_N.item() == pytest.approx(3.0, abs=1e-6)
    assert flat.expected_rank_N.item() == pytest.approx(4.5, abs=1e-6)


def test_a_certain_prediction():
    logits_NV = torch.full((2, 30), -1.0e6)
    logits_NV[:, 3] = 0.0
    stats = token_stats(logits_NV, torch.tensor([3, 4]))
    assert stats.log_prob_N.tolist() == [0.0, -1.0e6]
    assert stats.entropy_bits_N.tolist() == [0.0, 0.0]
    assert stats.rank_N.tolist() == [1.0, 30.0]
    assert stats.expected_rank_N.tolist() == [1.0, 1.0]
    assert stats.top_entropy_nats_N.tolist() == [0.0, 0.0]
    assert stats.prob_square_sum_N.tolist() == [1.0, 1.0]


def test_a_logit_of_minus_infinity_is_a_token_of_probability_zero():
    logits_NV = torch.tensor([[0.0, 1.0, -math.inf, 2.0]])
    with_hole, without = (
        token_stats(logits_NV, torch.tensor([1])),
        token_stats(logits_NV[:, [0, 1, 3]], torch.tensor([1])),
    )
    for column, other in columns_of(with_hole, without):
        torch.testing.assert_close(column, other)
    assert token_stats(logits_NV, torch.tensor([2])).log_prob_N.item() == -math.inf


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_logit_is_never_dropped(bad):
    logits_NV = torch.tensor([[0.0, bad, 1.0], [0.0, 1.0, 2.0]])
    stats = token_stats(logits_NV, torch.tensor([0, 0]))
    for column in (stats.log_prob_N, stats.entropy_bits_N, stats.expected_rank_N, stats.top_entropy_nats_N):
        assert not column[0].isfinite()
        assert column[1].isfinite()


@given(logit_rows, st.data())
@settings(max_examples=60, deadline=None)
def test_rank_is_at_most_one_over_the_probability(row, data):
    target = data.draw(st.integers(0, len(row) - 1))
    stats = token_stats(torch.tensor([row], dtype=torch.float64), torch.tensor([target]))
    assert stats.rank_N.item() * stats.log_prob_N.exp().item() <= 1 + 1e-12


@given(logit_rows)
@settings(max_examples=60, deadline=None)
def test_the_bound_is_below_the_expected_rank(row):
    stats = token_stats(torch.tensor([row], dtype=torch.float64), torch.tensor([0]))
    assert expected_rank_bound(stats, Knobs()).item() <= stats.expected_rank_N.item() * (1 + 1e-12)
    if stats.entropy_bits_N.item() >= 2:
        everywhere = expected_rank_bound(stats, Knobs(low_entropy="bound")).item()
        assert everywhere == expected_rank_bound(stats, Knobs()).item()
    assert 1 - 1e-12 <= stats.expected_rank_N.item() <= (len(row) + 1) / 2 + 1e-9


@given(logit_rows, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_vocabulary_does_not_matter(row, random):
    order = list(range(len(row)))
    random.shuffle(order)
    logits_NV = torch.tensor([row], dtype=torch.float64)
    before = token_stats(logits_NV, torch.tensor([order[0]]))
    after = token_stats(logits_NV[:, order], torch.tensor([0]))
    for column, permuted in columns_of(before, after):
        torch.testing.assert_close(column, permuted, rtol=1e-12, atol=1e-12)


def test_no_rows():
    stats = token_stats(torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert [len(column) for column in stats if column is not None] == [0] * 7


def test_stats_can_be_written_by_hand():
    assert TokenStats(*torch.ones(4, 2)).top_entropy_nats_N is None


@pytest.mark.parametrize(
    ("shape", "targets", "says"),
    [
        ((3, 4), [0, 1], "flatten"),
        ((2, 4), [0, 4], "0 to 3"),
        ((2, 4), [-100, 1], "0 to 3, the rows of the head; leave out tokens to ignore, and check"),
        ((4,), [0], "flatten"),
    ],
)
def test_errors_say_what_is_allowed(shape, targets, says):
    with pytest.raises(LossError, match=says):
        token_stats(torch.zeros(shape), torch.tensor(targets))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8], ids=str)
def test_targets_may_be_integers_of_any_size(dtype):
    generator = torch.Generator().manual_seed(5)
    logits_NV = torch.randn(CHUNK_TOKENS + 3, 6, generator=generator)
    target_N = torch.randint(0, 6, (len(logits_NV),), generator=generator)
    found, expected = token_stats(logits_NV, target_N.to(dtype)), token_stats(logits_NV, target_N)
    assert all(torch.equal(a, b) for a, b in zip(found[:7], expected[:7], strict=True))
