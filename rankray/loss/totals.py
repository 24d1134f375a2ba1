"""The sums a trainer logs beside a weighted loss, cheap enough to be there always.

Shapes: N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEAR_ONE = 0.05


@dataclass(frozen=True)
class LossStats:
    """Detached sums over supervised tokens, each a 0-d tensor: add them over batches, all-reduce them over ranks.

    Sums, not means, so that `a + b` and a reduction of `vector()` are right whatever the batch sizes. The relative
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
    """Tokens with |S - 1| <= 0.05: where rri did nothing."""

    @classmethod
    def of(cls, log_prob_N: Tensor, weight_N: Tensor, scale_N: Tensor, correct_N: Tensor) -> LossStats:
        """Sum up per-token values; float64 where the device has it."""
        wide = torch.float32 if log_prob_N.device.type == "mps" else torch.float64
        nll_N, weight_N, scale_N = -log_prob_N.to(wide), weight_N.to(wide), scale_N.to(wide)
        return cls(
            token_count=torch.tensor(float(len(nll_N)), dtype=wide, device=nll_N.device),
            nll_sum=nll_N.sum(),
            weighted_sum=(weight_N * nll_N).sum(),
            correct_count=correct_N.sum().to(wide),
            weight_sum=weight_N.sum(),
            weight_square_sum=weight_N.square().sum(),
            scale_sum=scale_N.sum(),
            scale_near_one_count=((scale_N - 1).abs() <= NEAR_ONE).sum().to(wide),
        )

    def vector(self) -> Tensor:
        """The fields in order as one (8,) tensor: what to all-reduce (sum) across ranks."""
        return torch.stack([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def from_vector(cls, vector: Tensor) -> LossStats:
        """Inverse of `vector`."""
        return cls(*vector.unbind())

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
    def effective_share(self) -> float:
        """(sum w)^2 / (n * sum w^2), in (0, 1]: the share of the tokens that carries the batch's weight."""
        return self._per_token(self.weight_sum.square() / self.weight_square_sum)

    def _per_token(self, total: Tensor) -> float:
        return float(total / self.token_count)
