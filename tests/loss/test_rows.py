"""Statistics of rows on a CPU: independent of tiles, threads and neighbouring rows."""

from __future__ import annotations

import math

import pytest
import torch

from rankray.loss import rows
from rankray.loss.rows import Readings, RowReader
from rankray.loss.stats import _read_chunk

EVERYTHING = frozenset({"entropy_bits_N", "rank_N", "expected_rank_N", "prob_square_sum_N"})


def some_rows(count: int, vocabulary: int = 6000, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(8)
    logits_CV = 2 * torch.randn(count, vocabulary, generator=generator, dtype=dtype)
    label_C = torch.randint(0, vocabulary, (count,), generator=generator)
    label_C[::2] = logits_CV.argmax(-1)[::2]
    return logits_CV, label_C


def read_rows(logits_CV: torch.Tensor, label_C: torch.Tensor, wanted: frozenset[str], exact: bool = False) -> Readings:
    return RowReader(logits_CV, wanted, exact)(logits_CV, label_C)


@pytest.mark.parametrize("vocabulary", [2, 50, 6000])
@pytest.mark.parametrize("wanted", [EVERYTHING, frozenset({"rank_N"}), frozenset()], ids=len)
def test_in_tiles_and_at_once_the_same_is_read(vocabulary, wanted):
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


def test_a_reader_also_reads_smaller_chunks():
    logits_CV, label_C = some_rows(7)
    reader = RowReader(logits_CV, EVERYTHING)
    parts = [reader(logits_CV[part].clone(), label_C[part]) for part in (slice(0, 4), slice(4, 7))]
    whole = read_rows(logits_CV, label_C, EVERYTHING)
    for columns in zip(whole, *parts, strict=True):
        assert torch.equal(columns[0], torch.cat(columns[1:]))


@pytest.fixture
def threads():
    """Set the number of torch's threads, and restore it at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("vocabulary", [6000, 70_000])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_neither_threads_nor_tiles_change_a_bit(count, vocabulary, threads, monkeypatch):
    """70,000 tokens are enough for torch to split the sum of a single row among its threads."""
    logits_CV, label_C = some_rows(count, vocabulary)
    for exact in (False, True):
        runs = []
        for number, tile in ((3, 65_536), (1, 65_536), (1, 1), (2, 20_000), (4, 10_000_000)):
            threads(number)
            monkeypatch.setattr(rows, "TILE_NUMBERS", tile)
            given_CV = logits_CV.clone()
            runs.append([*read_rows(given_CV, label_C, EVERYTHING, exact), given_CV])
        for run in runs[1:]:
            assert all(torch.equal(column, other) for column, other in zip(run, runs[0], strict=True))
