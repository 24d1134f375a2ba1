"""The sums a trainer logs beside a weighted loss, cheap enough to compute always.

Shapes: N tokens, B buckets of the relative scale.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

NEAR_ONE = 0.05

BUCKETS_PER_OCTAVE = 32
OCTAVES = 16
BARS_PER_OCTAVE = 2
"""Bars of `scale_spread`, equally wide in log2 S, one of them around S = 1."""
BUCKETS = 2 * OCTAVES * BUCKETS_PER_OCTAVE + 1
"""Buckets of S, equally wide in log2 S, the middle one around S = 1; the outermost contain all beyond 2^±16."""


@dataclass(frozen=True)
class LossStats:
    """Detached sums over supervised tokens, 0-d tensors and one of counts: add over batches, all-reduce over ranks.

    Sums, not means, so that `a + b` and a reduction of `vector()` are correct for any batch sizes. The relative
    scale S is rri's; for the other objectives it is 1.
    """

    token_count: Tensor
    """Supervised tokens."""
    nll_sum: Tensor
    """Sum of the plain -ln p_t, nats."""
    weighted_sum: Tensor
    """Sum of w * (-ln p_t), nats: the loss before its denominator."""
    correct_count: Tensor
    """Tokens whose target is the greedy choice."""
    weight_sum: Tensor
    weight_square_sum: Tensor
    scale_sum: Tensor
    """Sum of the relative scale S."""
    scale_near_one_count: Tensor
    """Tokens with |S - 1| <= 0.05: where rri changes next to nothing."""
    kl_sum: Tensor
    """Sum of the divergence from the reference model, nats; 0 without one."""
    scale_counts_B: Tensor
    """Tokens by log2 S, rounded to a 32nd: source of the quantiles. A NaN is in the last bucket."""

    @classmethod
    def of(
        cls, log_prob_N: Tensor, weight_N: Tensor, scale_N: Tensor, correct_N: Tensor, kl_N: Tensor | None = None
    ) -> LossStats:
        """Sum per-token values, in float64 where the device has it."""
        wide = torch.float32 if log_prob_N.device.type == "mps" else torch.float64
        nll_N, weight_N, scale_N = -log_prob_N.to(wide), weight_N.to(wide), scale_N.to(wide)
        place_N = (scale_N.log2() * BUCKETS_PER_OCTAVE).round().nan_to_num(nan=BUCKETS) + BUCKETS // 2
        return cls(
            token_count=torch.tensor(float(len(nll_N)), dtype=wide, device=nll_N.device),
            nll_sum=nll_N.sum(),
            weighted_sum=(weight_N * nll_N).sum(),
            correct_count=correct_N.sum().to(wide),
            weight_sum=weight_N.sum(),
            weight_square_sum=weight_N.square().sum(),
            scale_sum=scale_N.sum(),
            scale_near_one_count=((scale_N - 1).abs() <= NEAR_ONE).sum().to(wide),
            kl_sum=nll_N.new_zeros(()) if kl_N is None else kl_N.to(wide).sum(),
            scale_counts_B=nll_N.new_zeros(BUCKETS).index_add_(  # unlike bincount, a GPU need not wait for it
                0, place_N.clamp(0, BUCKETS - 1).long(), torch.ones_like(nll_N)
            ),
        )

    def vector(self) -> Tensor:
        """The fields in order as one tensor of fixed length: what to all-reduce (sum) across ranks."""
        return torch.cat([getattr(self, field.name).reshape(-1) for field in fields(self)])

    @classmethod
    def from_vector(cls, vector: Tensor) -> LossStats:
        """Inverse of `vector`; of one without `kl_sum`, as earlier checkpoints hold it, too."""
        if len(vector) == BUCKETS + len(fields(cls)) - 2:
            vector = torch.cat([vector[:-BUCKETS], vector.new_zeros(1), vector[-BUCKETS:]])
        sums = dict(zip((field.name for field in fields(cls)), vector[:-BUCKETS].unbind(), strict=False))
        return cls(**sums, scale_counts_B=vector[-BUCKETS:])

    def __add__(self, other: LossStats) -> LossStats:
        return LossStats.from_vector(self.vector() + other.vector())

    @property
    def nll(self) -> float:
        """Plain NLL, nats per supervised token; NaN where there is none."""
        return self._per_token(self.nll_sum)

    @property
    def token_accuracy(self) -> float:
        """Share of supervised tokens that greedy decoding gets right."""
        return self._per_token(self.correct_count)

    @property
    def mean_weight(self) -> float:
        """Mean token weight w."""
        return self._per_token(self.weight_sum)

    @property
    def mean_scale(self) -> float:
        """Mean relative scale S."""
        return self._per_token(self.scale_sum)

    @property
    def scale_near_one_share(self) -> float:
        """Share of supervised tokens with |S - 1| <= 0.05."""
        return self._per_token(self.scale_near_one_count)

    @property
    def effective_tokens(self) -> float:
        """(sum w)^2 / sum w^2: how many equally weighted tokens would carry as much."""
        return float(self.weight_sum.square() / self.weight_square_sum)

    @property
    def effective_share(self) -> float:
        """(sum w)^2 / (n * sum w^2), in (0, 1]: the share of the tokens that carries the batch's weight."""
        return self._per_token(self.weight_sum.square() / self.weight_square_sum)

    def scale_quantile(self, share: float) -> float:
        """The S that a share of the tokens does not exceed, to within 1.1% (half a bucket); NaN where there is none.

        Below 2^-16 and above 2^16 the bucket's S is returned.

        Args:
            share: from 0 to 1; at 0 the smallest S, at 1 the largest.
        """
        assert 0.0 <= share <= 1.0
        if not self.token_count > 0:
            return float("nan")
        below_B = self.scale_counts_B.cumsum(0)
        wanted = max(1.0, share * float(below_B[-1]))
        bucket = int((below_B < wanted).sum())
        return float(2.0 ** ((bucket - BUCKETS // 2) / BUCKETS_PER_OCTAVE))

    def scale_spread(self) -> dict[str, Any]:
        """Return a small histogram of S, `{"first", "shares"}`; the shares are of the tokens, and empty where is none.

        Bar `first + i` holds the tokens whose log2 S lies within a quarter of (first + i) / 2; shares are rounded to
        four digits, and empty bars at both ends are left out.
        """
        width = BUCKETS_PER_OCTAVE // BARS_PER_OCTAVE
        most = OCTAVES * BARS_PER_OCTAVE
        counts = [0.0] * (2 * most + 1)
        for bucket, count in enumerate(self.scale_counts_B.tolist()):
            counts[(bucket - BUCKETS // 2 + width // 2) // width + most] += count
        total = sum(counts)
        full = [index for index, count in enumerate(counts) if count]
        if not full:
            return {"first": 0, "shares": []}
        shares = [round(count / total, 4) for count in counts[full[0] : full[-1] + 1]]
        return {"first": full[0] - most, "shares": shares}

    def _per_token(self, total: Tensor) -> float:
        return float(total / self.token_count)
