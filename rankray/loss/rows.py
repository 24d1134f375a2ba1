"""The statistics of a chunk on a CPU, a few rows at a time: a row is read from memory once and then stays in the cache.

Shapes: C tokens of one chunk, B rows of a tile, V vocabulary; a trailing 1 is a kept dimension.

torch works on a tile with all its threads. A row's result depends on that row alone: neither the number of threads nor
the size of the tiles changes a bit of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rankray.loss.ranking import expected_rank_counter, row_sums

TILE_NUMBERS = 262_144
"""Logits per tile and thread (whole rows, at least one): few enough to fit the caches, and enough that the cost of
calling torch does not matter."""


class Readings(NamedTuple):
    """What was read from the rows, each (C,), in the dtype of the logits; NaN where it was not asked for."""

    log_prob_C: Tensor
    entropy_nats_C: Tensor
    rank_C: Tensor
    expected_rank_C: Tensor
    max_prob_C: Tensor
    """Always there."""
    correct_C: Tensor
    """1 where the target is the greedy choice (the first one of equal largest logits), else 0."""
    prob_square_sum_C: Tensor


class RowReader:
    """Reads chunks of rows and overwrites them with their probabilities; owns the memory for one tile.

    Args:
        like_CV: a chunk of the largest size that it will get, on the CPU, float32 or float64.
        wanted: of "entropy_bits_N", "rank_N", "expected_rank_N" and "prob_square_sum_N", what to compute.
        exact_ranks: sort for the expected rank even where counting would be accurate enough.
        from_16_bits: the logits will be numbers of 16 bits.
    """

    def __init__(
        self, like_CV: Tensor, wanted: frozenset[str], exact_ranks: bool = False, from_16_bits: bool = False
    ) -> None:
        rows, vocabulary = like_CV.shape
        self.tile = min(rows, max(1, TILE_NUMBERS * torch.get_num_threads() // vocabulary))
        self.wanted = wanted
        self.scratch_BV = like_CV.new_empty(self.tile, vocabulary)
        self.expected_rank = None
        if "expected_rank_N" in wanted:
            self.expected_rank = expected_rank_counter(self.scratch_BV, exact_ranks, from_16_bits)

    def __call__(self, logits_CV: Tensor, label_C: Tensor) -> Readings:
        """Read every row; `stats.ChunkReader` documents the result.

        Args:
            logits_CV: contiguous; overwritten.
            label_C: index of the true token.
        """
        target_C1 = logits_CV.gather(1, label_C.unsqueeze(1))
        found_7C = logits_CV.new_full((7, len(label_C)), math.nan)
        parts = zip(*(torch.split(part, self.tile) for part in (logits_CV, target_C1, found_7C.t())), strict=True)
        top_C = torch.cat([self._read(logits_BV, target_B1, found_B7.t()) for logits_BV, target_B1, found_B7 in parts])
        top_logit_C, top_prob_C, total_C, rank_C, expected_rank_C, moment_C, square_C = found_7C.double()
        log_norm_C = total_C.log() - top_prob_C.log()
        readings = Readings(
            log_prob_C=target_C1.squeeze(1).double() - top_logit_C - log_norm_C,
            entropy_nats_C=log_norm_C - moment_C / total_C,
            rank_C=rank_C.clamp(min=1),
            expected_rank_C=expected_rank_C / total_C,
            max_prob_C=top_prob_C / total_C,
            correct_C=top_C == label_C,
            prob_square_sum_C=square_C / total_C.square(),
        )
        return Readings(*(column_C.to(logits_CV.dtype) for column_C in readings))

    def _read(self, logits_BV: Tensor, target_B1: Tensor, found_7B: Tensor) -> Tensor:
        """Read one tile; return where the largest logits are, and fill `found_7B` in the order `__call__` unpacks."""
        shifted_BV = self.scratch_BV[: len(logits_BV)]
        top_logit_B, top_prob_B, total_B, rank_B, expected_rank_B, moment_B, square_B = found_7B
        if "rank_N" in self.wanted:
            rank_B.copy_(row_sums(torch.ge(logits_BV, target_B1, out=shifted_BV)))
        top_B = torch.from_numpy(logits_BV.numpy().argmax(-1))  # many times faster than torch's
        top_B1 = top_B.unsqueeze(1)
        top_logit_B1 = logits_BV.gather(1, top_B1)
        top_logit_B.copy_(top_logit_B1.squeeze(1))
        torch.sub(logits_BV, top_logit_B1, out=shifted_BV)
        prob_BV = torch.softmax(shifted_BV, -1, out=logits_BV)
        top_prob_B.copy_(prob_BV.gather(1, top_B1).squeeze(1))
        total_B.copy_(row_sums(prob_BV))  # 1, but for the rounding of torch's softmax over a large vocabulary
        if self.expected_rank is not None:
            expected_rank_B.copy_(self.expected_rank(prob_BV, shifted_BV))
        if "entropy_bits_N" in self.wanted:
            moment_B.copy_(row_sums(shifted_BV.mul_(prob_BV)))
            if moment_B.isnan().any():  # count -inf * 0 as 0; a NaN row still has a NaN norm
                moment_B.copy_(row_sums(shifted_BV.nan_to_num_(nan=0.0)))
        if "prob_square_sum_N" in self.wanted:
            square_B.copy_(row_sums(torch.mul(prob_BV, prob_BV, out=shifted_BV)))
        prob_BV.div_(total_B.unsqueeze(1))
        return top_B
