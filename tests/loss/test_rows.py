from __future__ import annotations

import math
import os

import numpy as np
import pytest
import torch

from rankray.loss import rows
from rankray.loss.rows import over_rows, read_rows
from rankray.loss.stats import _read_chunk

EVERYTHING = frozenset({"entropy_bits_N", "rank_N", "expected_rank_N"})


def some_rows(count: int, vocabulary: int = 6000, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(8)
    logits_CV = 2 * torch.randn(count, vocabulary, generator=generator, dtype=dtype)
    label_C = torch.randint(0, vocabulary, (count,), generator=generator)
    label_C[::2] = logits_CV.argmax(-1)[::2]
    return logits_CV, label_C


@pytest.mark.parametrize("vocabulary", [2, 50, 6000])
@pytest.mark.parametrize("wanted", [EVERYTHING, frozenset({"rank_N"}), frozenset()], ids=len)
def test_numpy_and_torch_read_the_same(vocabulary, wanted):
    logits_CV, label_C = some_rows(30, vocabulary, torch.float64)
    mine_CV, other_CV = logits_CV.clone(), logits_CV.clone()
    mine, other = read_rows(mine_CV, label_C, wanted), _read_chunk(other_CV, label_C, wanted)
    for column, expected in zip(mine, other, strict=True):
        torch.testing.assert_close(column, expected, rtol=1e-12, atol=1e-13, equal_nan=True)
    torch.testing.assert_close(mine_CV, logits_CV.softmax(-1), rtol=1e-12, atol=0)
    torch.testing.assert_close(other_CV, logits_CV.softmax(-1), rtol=1e-12, atol=0)


def test_ties_count_against_the_target_and_the_first_of_several_largest_is_greedy():
    logits_CV = torch.tensor([[1.0, 1.0, 0.0, -math.inf], [2.0, 1.0, 0.0, -math.inf], [math.nan] * 4])
    for target, ranks, correct in ((1, [2.0, 2.0, 1.0], 0), (3, [4.0, 4.0, 1.0], 0), (0, [2.0, 1.0, 1.0], 2)):
        found = read_rows(logits_CV.clone(), torch.full((3,), target), EVERYTHING)
        assert found.rank_C.tolist() == ranks
        assert found.correct_C[:2].sum() == correct


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_broken_row_is_nan_and_harms_no_other_and_warns_of_nothing(bad, recwarn):
    logits_CV, label_C = some_rows(5)
    logits_CV[2] = bad
    found = read_rows(logits_CV.clone(), label_C, EVERYTHING)
    for column in (found.log_prob_C, found.entropy_nats_C, found.expected_rank_C):
        assert column.isnan().tolist() == [False, False, True, False, False]
    assert not recwarn.list


def test_a_large_vocabulary_is_summed_up_to_the_last_digits():
    logits_CV = some_rows(2, 262_144)[0] * 3
    prob_CV = logits_CV.clone()
    read_rows(prob_CV, torch.zeros(2, dtype=torch.long), frozenset())
    error_CV = prob_CV.double() / logits_CV.double().softmax(-1) - 1
    assert error_CV.mean(-1).abs().max() < 2 * torch.finfo(torch.float32).eps


def test_an_offset_of_all_logits_changes_nothing():
    logits_CV, label_C = some_rows(4)
    logits_CV = (logits_CV * 64).round() / 64  # the sums below are exact
    found, moved = (read_rows(logits_CV + offset, label_C, EVERYTHING) for offset in (0.0, 4096.0))
    assert all(torch.equal(column, other) for column, other in zip(found, moved, strict=True))


@pytest.fixture
def three_threads(monkeypatch):
    monkeypatch.setattr(rows, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    rows._pool.cache_clear()
    yield
    rows._pool.cache_clear()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_neither_threads_nor_tiles_change_a_bit(count, three_threads, monkeypatch):
    logits_CV, label_C = some_rows(count)
    for exact in (False, True):
        runs = []
        for threads, tile in ((3, 65_536), (1, 65_536), (1, 1), (2, 20_000)):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            monkeypatch.setattr(rows, "TILE_NUMBERS", tile)
            given_CV = logits_CV.clone()
            runs.append([*read_rows(given_CV, label_C, EVERYTHING, exact), given_CV])
        for run in runs[1:]:
            assert all(torch.equal(column, other) for column, other in zip(run, runs[0], strict=True))


def test_an_error_in_a_thread_is_raised(three_threads):
    def fails(rows):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_rows(fails, np.ones((6, 4)))


def test_a_forked_process_has_threads_of_its_own(three_threads):
    numbers = np.arange(24.0).reshape(6, 4)
    assert over_rows(lambda part: part.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
    child = os.fork()
    if child == 0:
        right = over_rows(lambda part: part.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
