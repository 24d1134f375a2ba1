from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from rankray.loss import ranking, reference, token_stats, token_weights
from rankray.loss.ranking import count_at_least, expected_rank, over_rows

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
    if kind == "lopsided":  # one token of a bucket carries the mass of it, the others its number
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
    shifted_CV = (logits_CV - logits_CV.amax(-1, keepdim=True)).clamp(min=-1e4)
    return logits_CV.softmax(-1), shifted_CV


def by_sorting(prob_CV: torch.Tensor) -> torch.Tensor:
    ranks_V = torch.arange(1, prob_CV.shape[1] + 1, dtype=prob_CV.dtype)
    return (prob_CV.sort(-1, descending=True).values * ranks_V).sum(-1)


KINDS = ["equal", "flat", "random", "sharp", "certain", "zipf", "cluster", "lopsided", "masked", "peaky"]


@pytest.mark.parametrize("kind", KINDS)
def test_expected_rank_is_as_good_as_sorting_in_float32(kind, no_worse):
    logits_CV = rows_of(kind)
    prob_CV, shifted_CV = prepared(logits_CV)
    no_worse(expected_rank(prob_CV, shifted_CV), by_sorting(prob_CV), by_sorting(logits_CV.double().softmax(-1)))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "equal"])
def test_the_buckets_know_their_error(kind):
    prob_CV, shifted_CV = prepared(rows_of(kind))
    scratch = ranking._Scratch.of(VOCABULARY)
    for prob_V, shifted_V in zip(prob_CV.numpy(), shifted_CV.numpy(), strict=True):
        _, error = ranking._bucketed(prob_V, shifted_V, float(shifted_V.min()), scratch)
        value = np.dot(scratch.rank_V.astype(np.float64), prob_V.astype(np.float64))
        truth = by_sorting(torch.from_numpy(prob_V).double()[None]).item()
        # 1.01: positions are rounded, so that buckets overlap by a thousandth; 2 eps: ranks are held in float32
        assert abs(value - truth) <= 1.01 * error + 2 * np.finfo(np.float32).eps * truth


def test_where_the_buckets_are_too_coarse_rows_are_sorted(monkeypatch):
    prob_CV, shifted_CV = prepared(rows_of("lopsided"))
    monkeypatch.setattr(ranking, "TOLERANCE", math.inf)
    coarse_C = expected_rank(prob_CV, shifted_CV.clone())
    monkeypatch.undo()
    truth_C = by_sorting(prob_CV.double())
    fine_C = expected_rank(prob_CV, shifted_CV.clone())
    assert (coarse_C / truth_C - 1).abs().min() > ranking.TOLERANCE
    assert (fine_C / truth_C - 1).abs().max() < ranking.TOLERANCE / 10


def test_a_row_of_nan_stays_nan_and_harms_no_other():
    logits_CV = rows_of("random", rows=3)
    logits_CV[1, 5] = math.nan
    prob_CV, shifted_CV = prepared(logits_CV)
    assert expected_rank(prob_CV, shifted_CV).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_vocabularies_and_float64_are_sorted(dtype):
    prob_CV, shifted_CV = prepared(torch.randn(5, 70, dtype=dtype))
    torch.testing.assert_close(expected_rank(prob_CV, shifted_CV), by_sorting(prob_CV))


def test_count_at_least_counts_ties_and_the_target_itself():
    logits_CV = torch.tensor([[1.0, 1.0, 0.0, -math.inf], [2.0, 1.0, 0.0, -math.inf], [math.nan] * 4])
    assert count_at_least(logits_CV, logits_CV[:, 1:2]).tolist() == [2.0, 2.0, 1.0]
    assert count_at_least(logits_CV, logits_CV[:, 3:4]).tolist() == [4.0, 4.0, 1.0]


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
    counted = token_weights(token_stats(logits_NV, target_N), **exact)
    assert (counted / truth - 1).abs().max() < 1e-5  # asked for: 1e-3
    ranks_N = token_stats(logits_NV, target_N, exact_ranks=True).expected_rank_N
    prob_NV = logits_NV.softmax(-1)
    torch.testing.assert_close(ranks_N.double(), by_sorting(prob_NV.double()), rtol=1e-6, atol=0)


def test_sorting_on_request_counts_nothing(monkeypatch):
    prob_CV, shifted_CV = prepared(rows_of("random"))
    truth_C = by_sorting(prob_CV.double())
    monkeypatch.setattr(ranking, "_counted_rows", None)
    assert (expected_rank(prob_CV, shifted_CV, exact=True) / truth_C - 1).abs().max() < 1e-6


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(ranking, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    ranking._pool.cache_clear()
    yield
    ranking._pool.cache_clear()


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_threads_change_no_bit(rows, three_threads, monkeypatch):
    logits_CV = rows_of("random", rows=rows)
    prob_CV, shifted_CV = prepared(logits_CV)
    for sort in (False, True):
        many = expected_rank(prob_CV, shifted_CV.clone(), sort)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: 1)
            alone = expected_rank(prob_CV, shifted_CV.clone(), sort)
        assert torch.equal(many, alone)
    assert torch.equal(count_at_least(logits_CV, logits_CV[:, 5:6]), (logits_CV >= logits_CV[:, 5:6]).sum(-1).float())


def test_an_error_in_a_thread_is_raised(three_threads):
    def fails(rows):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_rows(fails, np.ones((6, 4)))


def test_a_forked_process_has_threads_of_its_own(three_threads):
    numbers = np.arange(24.0).reshape(6, 4)
    assert over_rows(lambda rows: rows.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
    child = os.fork()
    if child == 0:
        right = over_rows(lambda rows: rows.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
