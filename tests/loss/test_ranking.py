"""The expected rank: counting in buckets, sorting, and the error bound between them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankray.loss import ranking, reference, token_stats, token_weights
from rankray.loss.ranking import expected_rank_counter

VOCABULARY = 6000


def rows_of(kind: str, rows: int = 24) -> torch.Tensor:
    """Rows that are easy and hard to count in buckets, float32."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(rows, VOCABULARY, generator=generator)
    if kind == "zipf":
        return 0.1 * noise - 1.1 * torch.log(torch.arange(1.0, VOCABULARY + 1))
    if kind == "cluster":  # all but one in a bucket or two, where the order inside decides
        noise[:, 0] = 8000.0
        return noise * 1e-3
    if kind == "lopsided":  # one token of a bucket has most of its mass, the others most of its count
        logits = torch.where(torch.rand(rows, VOCABULARY, generator=generator) < 0.001, 0.0, -2.4e-3)
        logits[:, :2] = torch.tensor([9.0, -40.0])
        return logits
    if kind == "masked":
        noise[:, -50:] = -1.0e4
        return 2 * noise
    if kind == "peaky":
        noise[:, :4] += 6.0
        return 2.5 * noise
    return noise * {"equal": 0.0, "flat": 0.01, "random": 1.1, "sharp": 6.0, "certain": 40.0}[kind]


def prepared(logits_CV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities and shifted logits, as `rows` passes them."""
    shifted_CV = logits_CV - logits_CV.amax(-1, keepdim=True)
    return shifted_CV.softmax(-1), shifted_CV


def counted(logits_CV: torch.Tensor, exact: bool = False) -> torch.Tensor:
    prob_CV, shifted_CV = prepared(logits_CV)
    return expected_rank_counter(prob_CV, exact)(prob_CV, shifted_CV) / prob_CV.sum(-1)


def by_sorting(prob_CV: torch.Tensor) -> torch.Tensor:
    ranks_V = torch.arange(1, prob_CV.shape[1] + 1, dtype=prob_CV.dtype)
    return (prob_CV.sort(-1, descending=True).values * ranks_V).sum(-1)


KINDS = ["equal", "flat", "random", "sharp", "certain", "zipf", "cluster", "lopsided", "masked", "peaky"]


@pytest.mark.parametrize("kind", KINDS)
def test_expected_rank_is_as_good_as_sorting_in_float32(kind, no_worse):
    logits_CV = rows_of(kind)
    no_worse(counted(logits_CV), by_sorting(logits_CV.softmax(-1)), by_sorting(logits_CV.double().softmax(-1)))


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "equal"])
def test_the_buckets_know_their_error(kind, sorts):
    prob_CV, shifted_CV = prepared(rows_of(kind))
    buckets = ranking._Buckets(prob_CV, 1.0)
    value_C, error_C = buckets.count(prob_CV, shifted_CV, shifted_CV.amin(-1))
    truth_C = by_sorting(prob_CV.double())
    for row, truth in enumerate(truth_C.tolist()):
        value, error = buckets.sort_first(row, prob_CV) if sorts else (value_C[row].item(), error_C[row].item())
        # 1.01: positions are rounded, so that buckets overlap by a thousandth; 2 eps: ranks are stored in float32
        assert abs(value - truth) <= 1.01 * error + 2 * np.finfo(np.float32).eps * truth


def test_where_the_buckets_are_too_coarse_rows_are_sorted(monkeypatch):
    logits_CV = rows_of("lopsided")
    truth_C = by_sorting(logits_CV.double().softmax(-1))
    monkeypatch.setattr(ranking, "TOLERANCE", math.inf)
    coarse_C = counted(logits_CV)
    monkeypatch.undo()
    assert (coarse_C / truth_C - 1).abs().min() > ranking.TOLERANCE
    assert (counted(logits_CV) / truth_C - 1).abs().max() < ranking.TOLERANCE / 10


@pytest.mark.parametrize("kind", ["sharp", "two-point", "certain"])
def test_where_few_tokens_decide_nothing_is_counted_coarsely(kind):
    logits_CV = rows_of(kind) if kind != "two-point" else distribution(kind, VOCABULARY)
    prob_CV, shifted_CV = prepared(logits_CV)
    buckets = ranking._Buckets(prob_CV, 1.0)
    buckets.count(prob_CV, shifted_CV, shifted_CV.amin(-1))
    for row in range(len(prob_CV)):
        value, error = buckets.sort_first(row, prob_CV)
        assert error < ranking.TOLERANCE * value


def test_only_what_counting_leaves_coarse_is_sorted(monkeypatch):
    """A flat row and one of two likely tokens: only the first tokens of the second row are sorted."""
    logits_CV = torch.cat([rows_of("random", 1), distribution("two-point", VOCABULARY)[:1]])
    refined = []
    sort_first = ranking._Buckets.sort_first
    monkeypatch.setattr(
        ranking._Buckets, "sort_first", lambda self, row, prob_CV: refined.append(row) or sort_first(self, row, prob_CV)
    )
    monkeypatch.setattr(ranking, "_sorted", None)
    truth_C = by_sorting(logits_CV.double().softmax(-1))
    assert (counted(logits_CV) / truth_C - 1).abs().max() < ranking.TOLERANCE
    assert refined == [1]


def test_a_row_of_nan_stays_nan_and_harms_no_other():
    logits_CV = rows_of("random", rows=3)
    logits_CV[1, 5] = math.nan
    assert counted(logits_CV).isnan().tolist() == [False, True, False]


def test_tokens_of_probability_zero_are_the_last():
    logits_CV = rows_of("random", rows=3)
    logits_CV[0, 40:3000] = -math.inf
    logits_CV[1, 1:] = -math.inf
    without_CV = torch.cat([logits_CV[:1, :40], logits_CV[:1, 3000:]], -1)
    torch.testing.assert_close(counted(logits_CV)[:1], by_sorting(without_CV.double().softmax(-1)).float())
    assert counted(logits_CV)[1].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_vocabularies_and_float64_are_sorted(dtype):
    logits_CV = torch.randn(5, 70, dtype=dtype)
    torch.testing.assert_close(counted(logits_CV), by_sorting(logits_CV.softmax(-1)))


def distribution(name: str, vocabulary: int = 32_000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(16, vocabulary, generator=generator)
    if name == "zipf":
        return 0.05 * noise - 1.1 * torch.log(torch.arange(1.0, vocabulary + 1))
    if name == "two-point":
        rows = torch.full((16, vocabulary), -80.0)
        rows[:, 7], rows[:, 900] = 5.0, 5.0 + torch.linspace(-0.004, 0.004, 16)
        return rows
    return noise * {"peaky": 6.0, "flat": 0.003}[name]


@pytest.mark.parametrize("name", ["peaky", "flat", "zipf", "two-point"])
def test_the_exact_scale_is_within_a_thousandth_and_sorted_ranks_are_exact(name):
    logits_NV = distribution(name)
    target_N = torch.arange(16) * 60
    exact = {"form": "exact", "base": "one"}
    truth = reference.token_weights(reference.token_stats(logits_NV, target_N), **exact)
    scale_N = token_weights(token_stats(logits_NV, target_N), **exact)
    assert (scale_N / truth - 1).abs().max() < 1e-5  # asked for: 1e-3
    ranks_N = token_stats(logits_NV, target_N, exact_ranks=True).expected_rank_N
    torch.testing.assert_close(ranks_N.double(), by_sorting(logits_NV.double().softmax(-1)), rtol=1e-6, atol=0)


def test_sorting_on_request_counts_nothing(monkeypatch):
    logits_CV = rows_of("random")
    monkeypatch.setattr(ranking, "_Buckets", None)
    assert (counted(logits_CV, exact=True) / by_sorting(logits_CV.double().softmax(-1)) - 1).abs().max() < 1e-6
