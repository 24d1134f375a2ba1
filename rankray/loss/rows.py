"""The statistics of a chunk on a CPU, a few rows at a time: a row is read from memory once and then stays in the cache.

Shapes: C tokens of one chunk, B rows of a tile, V vocabulary; a trailing 1 is a kept dimension.

numpy does the work, on as many threads as torch uses. A row's result depends on that row alone, so neither the threads
nor the tiles change a bit of it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rankray.loss.ranking import FAR_BELOW, blocked_dot, expected_rank_counter

TILE_NUMBERS = 65_536
"""Logits of a tile, which is whole rows and at least one: they and their probabilities fit a core's own cache."""

WORTH_A_THREAD = 200_000
"""Logits below which starting a thread costs more than it saves."""


class Readings(NamedTuple):
    """What the rows gave, each (C,), in the dtype of the logits; NaN where it was not asked for."""

    log_prob_C: Tensor
    entropy_nats_C: Tensor
    rank_C: Tensor
    expected_rank_C: Tensor
    correct_C: Tensor
    """1 where the target is the greedy choice, which is the first of several largest; else 0."""


def read_rows(
    logits_CV: Tensor,
    label_C: Tensor,
    wanted: frozenset[str],
    exact_ranks: bool = False,
    from_16_bits: bool = False,
) -> Readings:
    """Read every row and leave its probabilities in its place; `stats.chunk_stats` says what comes out.

    Args:
        logits_CV: on the CPU, contiguous, float32 or float64; overwritten.
        label_C: index of the true token.
        wanted: of "entropy_bits_N", "rank_N" and "expected_rank_N", what to compute.
        exact_ranks: sort for the expected rank even where counting would do.
        from_16_bits: the logits were numbers of 16 bits.
    """
    target_C = logits_CV.gather(1, label_C.unsqueeze(1)).squeeze(1)
    read = partial(_read, wanted=wanted, exact_ranks=exact_ranks, from_16_bits=from_16_bits)
    found_C5 = over_rows(read, logits_CV.numpy(), label_C.numpy(), target_C.numpy())
    return Readings(*torch.from_numpy(found_C5).to(logits_CV.dtype).unbind(1))


def _read(
    logits_CV: np.ndarray,
    label_C: np.ndarray,
    target_C: np.ndarray,
    *,
    wanted: frozenset[str],
    exact_ranks: bool,
    from_16_bits: bool,
) -> np.ndarray:
    """One thread's rows: the columns of `Readings`, (C, 5), float64."""
    rows, vocabulary = logits_CV.shape
    tile = min(rows, max(1, TILE_NUMBERS // vocabulary))
    scratch_BV = np.empty((tile, vocabulary), logits_CV.dtype)
    expected_rank = expected_rank_counter(logits_CV.dtype, vocabulary, exact_ranks, from_16_bits)
    found_C5 = np.full((rows, 5), math.nan)
    with np.errstate(all="ignore"):
        for first in range(0, rows, tile):
            part = slice(first, first + tile)
            logits_BV, found_B5 = logits_CV[part], found_C5[part]
            shifted_BV = scratch_BV[: len(logits_BV)]
            if "rank_N" in wanted:
                found_B5[:, 2] = _counts(logits_BV >= target_C[part, None])
            top_B = logits_BV.argmax(-1)
            top_logit_B1 = np.take_along_axis(logits_BV, top_B[:, None], -1)
            np.subtract(logits_BV, top_logit_B1, out=shifted_BV)
            mass_BV = np.exp(shifted_BV, out=logits_BV)
            total_B = mass_BV.sum(-1).astype(np.float64)
            log_total_B = np.log(total_B)
            found_B5[:, 0] = target_C[part] - top_logit_B1[:, 0] - log_total_B
            if "entropy_bits_N" in wanted:
                found_B5[:, 1] = log_total_B - _moments(mass_BV, shifted_BV) / total_B
            if "expected_rank_N" in wanted:
                found_B5[:, 3] = expected_rank(mass_BV, shifted_BV) / total_B
            found_B5[:, 4] = top_B == label_C[part]
            mass_BV *= (1.0 / total_B).astype(mass_BV.dtype)[:, None]
    return found_C5


def _counts(is_at_least_BV: np.ndarray) -> list[int]:
    """Same value as `is_at_least_BV.sum(-1)`, at least 1; many times faster."""
    return [max(1, int(np.count_nonzero(row_V))) for row_V in is_at_least_BV]


def _moments(mass_BV: np.ndarray, shifted_BV: np.ndarray) -> np.ndarray:
    """Same value as `(mass_BV * shifted_BV).sum(-1)`, a mass of 0 times -inf being 0; clamps such a -inf."""
    moment_B = blocked_dot(mass_BV, shifted_BV)
    if np.isnan(moment_B).any():
        moment_B = blocked_dot(mass_BV, np.maximum(shifted_BV, FAR_BELOW, out=shifted_BV))
    return moment_B


def over_rows(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Same value as `function(*arrays)`, its rows shared out among as many threads as torch uses.

    numpy leaves the interpreter's lock while it works on a row, so the threads do work side by side.

    Args:
        function: makes one result per row, from that row alone.
        arrays: equally many rows each.
    """
    threads = min(torch.get_num_threads(), len(arrays[0]), arrays[0].size // WORTH_A_THREAD)
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
