"""What a weight may look at: the statistics of N predictions. Importing this does not import torch.

Shapes: N tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


IGNORED = -100
"""Label of a token that is not supervised."""


class TokenStats(NamedTuple):
    """Statistics of N predictions, each an (N,) tensor; `rankray.loss.token_stats` defines them.

    A statistic that was not asked for is NaN in every place, or None, never a stale number.
    `max_prob_N` costs nothing and is always there, but in statistics made by hand.
    """

    log_prob_N: Tensor
    entropy_bits_N: Tensor
    rank_N: Tensor
    expected_rank_N: Tensor
    top_entropy_nats_N: Tensor | None = None
    max_prob_N: Tensor | None = None
    prob_square_sum_N: Tensor | None = None
    log_ratio_N: Tensor | None = None
    """Only for iw_sft, and made from two models' statistics by the caller: `weights.sequence_log_ratio`."""

    def replaced(self, **columns: Tensor) -> TokenStats:
        """Return the same with other columns for those named."""
        return self._replace(**columns)


ALL_STATS = frozenset({"entropy_bits_N", "rank_N", "expected_rank_N", "top_entropy_nats_N", "prob_square_sum_N"})
"""The statistics that cost a pass over the logits; `log_prob_N` and `max_prob_N` are always there."""
