"""The rank of the target and the rank that was to be expected, row by row.

Shapes: C tokens of one chunk, V vocabulary; a trailing 1 is a kept dimension.

On a CPU numpy does the work, on as many threads as torch uses (`over_rows`): a row's result depends on that row alone,
so the number of threads changes no bit of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SORTED_UP_TO = 4096
"""Vocabularies below this are sorted: the buckets' fixed cost does not pay."""

BUCKETS = 16384
SPAN_NATS = 40.0

WORTH_A_THREAD = 200_000
"""Numbers below which starting a thread costs more than it saves."""

TOLERANCE = 1e-5
"""Relative error of E[R] above which a row is sorted after all; it moves log2 I by less than this over temperature."""


def count_at_least(logits_CV: Tensor, target_logit_C1: Tensor) -> Tensor:
    """Same value as `(logits_CV >= target_logit_C1).sum(-1)`, at least 1, in the dtype of the logits.

    Args:
        logits_CV: contiguous; not modified.
        target_logit_C1: the logit of the target, an element of its row.
    """
    if logits_CV.device.type != "cpu":
        return (logits_CV >= target_logit_C1).sum(-1).clamp_(min=1).to(logits_CV.dtype)
    return torch.from_numpy(over_rows(_counts_at_least, logits_CV.numpy(), target_logit_C1.numpy()))


def _counts_at_least(logits_BV: np.ndarray, target_logit_B1: np.ndarray) -> np.ndarray:
    above_V = np.empty(logits_BV.shape[1], dtype=bool)
    counts = []
    for row_V, target_logit in zip(logits_BV, target_logit_B1, strict=True):
        counts.append(max(1, np.count_nonzero(np.greater_equal(row_V, target_logit, out=above_V))))
    return np.array(counts, dtype=logits_BV.dtype)


def over_rows(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Same value as `function(*arrays)`, its rows shared out among as many threads as torch uses.

    numpy leaves the interpreter's lock while it works on a row, so the threads do work side by side.

    Args:
        function: makes one result per row, from that row alone.
        arrays: equally many rows each.
    """
    threads = min(torch.get_num_threads(), arrays[0].size // WORTH_A_THREAD)
    if threads < 2:
        return function(*arrays)
    parts = [np.array_split(array, threads) for array in arrays]
    first, *others = zip(*parts, strict=True)
    waiting = [_pool(threads - 1).submit(function, *part) for part in others]
    done = function(*first)
    return np.concatenate([done, *(future.result() for future in waiting)])


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rankray-rows")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a pool's threads do not live on in a forked process


def blocked_dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Same value as `(left * right).sum(-1)`, in float64: blocks of 256 in the arrays' dtype, their sums in float64.

    As fast as a BLAS dot, whose single-precision sum over a large vocabulary would lose two digits.
    """
    whole = left.shape[-1] // 256 * 256
    blocks = (*left.shape[:-1], whole // 256, 256)
    head = np.vecdot(left[..., :whole].reshape(blocks), right[..., :whole].reshape(blocks)).sum(-1, dtype=np.float64)
    return np.asarray(head + np.vecdot(left[..., whole:], right[..., whole:]))


def expected_rank(prob_CV: Tensor, shifted_CV: Tensor, exact: bool = False) -> Tensor:
    """Same value as `(sort(prob_CV, descending) * arange(1, V + 1)).sum(-1)`; overwrites `shifted_CV`.

    On a CPU in float32 a large vocabulary is counted into buckets instead of sorted, four times faster, wherever that
    is provably as good (see `_bucketed`); everything else is sorted.

    Args:
        prob_CV: probabilities; not modified.
        shifted_CV: their logits less the row's largest, all finite or all NaN: log(prob_CV) up to a constant.
        exact: sort every row.
    """
    if prob_CV.device.type != "cpu":
        ranks_V = torch.arange(prob_CV.shape[1], 0, -1, dtype=prob_CV.dtype, device=prob_CV.device)
        return prob_CV.sort(-1).values.mul_(ranks_V).sum(-1)
    counts = prob_CV.dtype == torch.float32 and prob_CV.shape[1] >= SORTED_UP_TO and not exact
    rows = _counted_rows if counts else _sorted_rows
    return torch.from_numpy(over_rows(rows, prob_CV.numpy(), shifted_CV.numpy())).to(prob_CV.dtype)


def _sorted_rows(prob_BV: np.ndarray, scratch_BV: np.ndarray) -> np.ndarray:
    scratch_BV[:] = prob_BV
    scratch_BV.sort(axis=-1)
    ranks_V = np.arange(prob_BV.shape[1], 0.0, -1.0, dtype=prob_BV.dtype)
    return blocked_dot(scratch_BV, np.broadcast_to(ranks_V, prob_BV.shape))


def _counted_rows(prob_BV: np.ndarray, shifted_BV: np.ndarray) -> np.ndarray:
    scratch = _Scratch.of(prob_BV.shape[1])
    rows: Sequence[float] = [_row_expected_rank(*row, scratch) for row in zip(prob_BV, shifted_BV, strict=True)]
    return np.array(rows)


@dataclass
class _Scratch:
    """Memory for one row, reused by all of them. B buckets."""

    position_V: np.ndarray
    narrow_key_V: np.ndarray
    key_V: np.ndarray
    rank_V: np.ndarray
    minus_B: np.ndarray

    @classmethod
    def of(cls, vocabulary: int) -> _Scratch:
        return cls(
            position_V=np.empty(vocabulary, np.float32),
            narrow_key_V=np.empty(vocabulary, np.int32),
            key_V=np.empty(vocabulary, np.intp),
            rank_V=np.empty(vocabulary, np.float32),
            minus_B=-np.arange(BUCKETS, dtype=np.float32),
        )


def _row_expected_rank(prob_V: np.ndarray, shifted_V: np.ndarray, scratch: _Scratch) -> float:
    lowest = float(shifted_V.min())
    if lowest < 0.0:
        value, error = _bucketed(prob_V, shifted_V, lowest, scratch)
        if error <= TOLERANCE * value:
            return value
    if lowest != lowest:
        return lowest
    ascending_V = np.sort(prob_V)
    return float(np.dot(ascending_V.astype(np.float64), np.arange(len(prob_V), 0.0, -1.0)))


def _bucketed(prob_V: np.ndarray, shifted_V: np.ndarray, lowest: float, scratch: _Scratch) -> tuple[float, float]:
    """The expected rank from counts in buckets of equal width in log-probability, and a bound of its error.

    Tokens of a bucket share its middle rank. What that costs is known: inside a bucket of n tokens and width d (nats),
    whose probabilities are at most q, sum(p * rank) is within d * q * n^2 / 8 of the middle rank's, and within
    d * q * n * (n - 1) / 4 after the correction for tokens spread evenly, d * (n - 1) / 12 ranks. A bucket that holds
    one token is exact. Tokens below `SPAN_NATS` share the last bucket: their mass is nothing.
    """
    width = min(-lowest, SPAN_NATS) / (BUCKETS - 1)
    np.multiply(shifted_V, np.float32(-1.0 / width), out=scratch.position_V)
    if lowest < -SPAN_NATS:
        np.minimum(scratch.position_V, np.float32(BUCKETS - 1), out=scratch.position_V)
    np.copyto(scratch.narrow_key_V, scratch.position_V, casting="unsafe")
    np.copyto(scratch.key_V, scratch.narrow_key_V)
    count_B = np.bincount(scratch.key_V, minlength=BUCKETS)
    others_B = (count_B - 1).astype(np.float32)
    rank_B = count_B.cumsum().astype(np.float32) - others_B * np.float32(0.5 + width / 12)
    value = float(blocked_dot(rank_B.take(scratch.key_V, out=scratch.rank_V, mode="clip"), prob_V))

    highest_B = np.exp(scratch.minus_B * np.float32(width))
    pairs = float(np.dot(others_B * (others_B + 1), highest_B[: len(others_B)]))
    return value, width / 4 * float(prob_V.max()) * pairs
