"""The expected rank, E[R] = sum over k of k * p_(k), tile by tile on a CPU.

Shapes: B rows of a tile, V vocabulary, K buckets, T tokens that are sorted; a trailing 1 is a kept dimension.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rankray.loss.threads import over_rows

SORTED_UP_TO = 4096
"""Smaller vocabularies are sorted: the fixed cost of the buckets is not worth it."""

BUCKETS = 8192
SPAN_NATS = 40.0

SORTED_FIRST = 256
"""How many of a row's most probable tokens, at most, are sorted where counting was too coarse; often that is enough."""

TOLERANCE = 1e-5
"""Relative error of E[R] above which a row is sorted; it changes log2 I by less than this divided by temperature."""

FAR_BELOW = -1.0e4
"""A shifted logit at which exp is exactly 0 in every dtype, yet 0 times it is 0 and not NaN (unlike -inf)."""

ExpectedRank = Callable[[Tensor, Tensor], Tensor]
"""prob_BV, shifted_BV -> the sums over k of k * prob_(k), (B,): the expected ranks if each row of prob sums to 1."""


def expected_rank_counter(like_BV: Tensor, exact: bool, from_16_bits: bool = False) -> ExpectedRank:
    """Return a function from probabilities, and from logits minus their row's maximum, to expected ranks.

    Float32 rows of a large vocabulary are counted into buckets, ten times faster than sorting, wherever that is
    provably accurate (see `_Buckets`); everything else is sorted. The function may change the shifted logits where
    they are NaN or far below 0.

    Args:
        like_BV: a tile of the largest size and of the dtype that the function will get.
        exact: sort every row.
        from_16_bits: the logits had 16 bits, so that the tokens of a bucket are ties and not spread evenly.
    """
    if like_BV.dtype == torch.float32 and like_BV.shape[1] >= SORTED_UP_TO and not exact:
        return _Buckets(like_BV, 0.0 if from_16_bits else 1.0)
    return _sorted


def row_sums(numbers_BV: Tensor) -> Tensor:
    """Same value as `numbers_BV.sum(-1)`, where the last bit of a row's sum depends on that row alone.

    torch splits the sum of a single row among its threads, so that the last bit depends on their number; it does not
    do that with several rows.
    """
    several_BV = numbers_BV if len(numbers_BV) > 1 else numbers_BV.expand(2, -1)
    return several_BV.sum(-1)[: len(numbers_BV)]


def _sorted(prob_BV: Tensor, shifted_BV: Tensor) -> Tensor:
    ascending_BV = torch.from_numpy(over_rows(lambda part_BV: np.sort(part_BV, axis=-1), prob_BV.numpy()))
    ranks_V = torch.arange(prob_BV.shape[1], 0, -1, dtype=prob_BV.dtype)
    return row_sums(ascending_BV.mul_(ranks_V))


class _Buckets:
    """Counts tokens in buckets of equal width in log-probability; owns the memory for one tile."""

    def __init__(self, like_BV: Tensor, evenness: float) -> None:
        self.evenness = evenness
        self.share_BV = torch.empty_like(like_BV)
        self.ones_BV = torch.ones_like(like_BV)
        self.narrow_key_BV = torch.empty_like(like_BV, dtype=torch.int32)
        self.key_BV = torch.empty_like(like_BV, dtype=torch.int64)
        self.count_BK, self.rank_BK, self.pairs_BK = like_BV.new_empty(3, len(like_BV), BUCKETS)
        self.bucket_K = torch.arange(BUCKETS, dtype=like_BV.dtype)

    def __call__(self, prob_BV: Tensor, shifted_BV: Tensor) -> Tensor:
        lowest_B = shifted_BV.amin(-1)
        if not bool((lowest_B >= FAR_BELOW).all()):
            shifted_BV.nan_to_num_(nan=0.0).clamp_(min=FAR_BELOW)
            lowest_B = lowest_B.nan_to_num(nan=0.0).clamp_(min=FAR_BELOW)
        value_B, error_B = self.count(prob_BV, shifted_BV, lowest_B)
        for row in _rows_where(~(error_B <= TOLERANCE * value_B)):
            value_B[row], error_B[row] = self.sort_first(row, prob_BV)
        coarse_B = ~(error_B <= TOLERANCE * value_B)
        if coarse_B.any():
            value_B[coarse_B] = _sorted(prob_BV[coarse_B], shifted_BV)
        return value_B

    def count(self, prob_BV: Tensor, shifted_BV: Tensor, lowest_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums from counts, and an upper bound of their errors.

        Tokens of a bucket share its middle rank. The error of that is bounded: inside a bucket of n tokens and width d
        (nats), whose probabilities are at most q, sum(prob * rank) is within d * q * n^2 / 8 of the middle rank's, and
        within d * q * n * (n - 1) / 4 after the correction for tokens spread evenly, d * (n - 1) / 12 ranks. A bucket
        with one token is exact. Tokens further than `SPAN_NATS` below share the last bucket: their mass is negligible.
        """
        rows = len(prob_BV)
        share_BV, narrow_key_BV, key_BV = self.share_BV[:rows], self.narrow_key_BV[:rows], self.key_BV[:rows]
        count_BK, rank_BK, pairs_BK = self.count_BK[:rows], self.rank_BK[:rows], self.pairs_BK[:rows]
        width_B1 = (-lowest_B).clamp_(max=SPAN_NATS).div_(BUCKETS - 1).unsqueeze(1)
        width_B1[width_B1 == 0.0] = 1.0  # all tokens are equal
        position_BV = torch.mul(shifted_BV, -1.0 / width_B1, out=share_BV)
        if bool((lowest_B < -SPAN_NATS).any()):
            position_BV.clamp_(max=BUCKETS - 1)
        key_BV.copy_(narrow_key_BV.copy_(position_BV))  # in two steps: torch has no fast one from float32 to int64
        count_BK.zero_().scatter_add_(1, key_BV, self.ones_BV[:rows])
        torch.cumsum(count_BK, 1, out=rank_BK)
        others_BK = count_BK.sub_(1.0)
        rank_BK.addcmul_(others_BK, 0.5 + self.evenness * width_B1 / 12, value=-1.0)
        value_B = row_sums(torch.gather(rank_BK, 1, key_BV, out=share_BV).mul_(prob_BV))

        scale_B1 = width_B1 / 4 * prob_BV.amax(-1, keepdim=True)
        torch.mul(self.bucket_K, -width_B1, out=pairs_BK).exp_().mul_(scale_B1).mul_(others_BK)
        pairs_BK.addcmul_(pairs_BK, others_BK)
        return value_B, row_sums(pairs_BK)

    def sort_first(self, row: int, prob_BV: Tensor) -> tuple[float, float]:
        """Return a better sum and error bound of a row than `count`: its first `SORTED_FIRST` tokens are sorted."""
        prob_V, share_V, key_V = prob_BV[row].numpy(), self.share_BV[row].numpy(), self.narrow_key_BV[row].numpy()
        last_K = (self.count_BK[row] + 1.0).numpy().cumsum()
        first = np.int32(last_K.searchsorted(SORTED_FIRST, side="right"))
        is_first_V = key_V < first
        share_V[is_first_V] = 0.0
        first_T = np.sort(prob_V[is_first_V]).astype(np.float64)
        value = float(row_sums(self.share_BV[row : row + 1])) + float(first_T @ np.arange(len(first_T), 0.0, -1.0))
        return value, float(self.pairs_BK[row, int(first) :].sum(dtype=torch.float64))


def _rows_where(is_so_B: Tensor) -> list[int]:
    return is_so_B.nonzero().squeeze(1).tolist()
