"""The weighted token losses: statistics, weights, the fused chunked pass, and the oracle to check them against.

Usable on its own: needs torch, numpy and pydantic, but neither transformers nor Ray. Names load on first use, so
importing `rankray.loss` costs nothing until one of them is used.

    token_stats(logits_NV, target_N)                      what a weight may look at, per token
    token_weights(stats, objective, **settings)           the weight of each token, stop-gradient
    weighted_nll(hidden_NH, head_VH, label_N, ...)        the loss, without materialising all logits
    weighted_nll_with_stats(...)                          the same, and the sums a trainer logs, at no extra cost
    head_stats(hidden_NH, head_VH, label_N)               the statistics of `token_stats`, without all logits
    plain_stats(hidden_NH, head_VH, label_N)              evaluation: plain NLL and accuracy, no gradients
    plain_tokens(hidden_NH, head_VH, label_N)             the same per token: ln p_t, and greedy or not
    Knobs                                                 the settings: the `loss:` block of a configuration
    WEIGHTS                                               objective name -> weight function: the extension point
    Anchor                                                hidden states and head of a reference model, for kl_weight
    reference                                             the same in float64, with full logits, as in the paper
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.loss import reference
    from rankray.loss.anchor import Anchor
    from rankray.loss.chunked import head_stats, plain_stats, plain_tokens, weighted_nll, weighted_nll_with_stats
    from rankray.loss.knobs import Knobs
    from rankray.loss.stats import token_stats
    from rankray.loss.tokens import TokenStats
    from rankray.loss.totals import LossStats
    from rankray.loss.weights import WEIGHTS, token_weights

__all__ = [
    "WEIGHTS",
    "Anchor",
    "Knobs",
    "LossStats",
    "TokenStats",
    "head_stats",
    "plain_stats",
    "plain_tokens",
    "reference",
    "token_stats",
    "token_weights",
    "weighted_nll",
    "weighted_nll_with_stats",
]

_HOME = {
    "WEIGHTS": "weights",
    "Anchor": "anchor",
    "Knobs": "knobs",
    "LossStats": "totals",
    "TokenStats": "tokens",
    "head_stats": "chunked",
    "plain_stats": "chunked",
    "plain_tokens": "chunked",
    "token_stats": "stats",
    "token_weights": "weights",
    "weighted_nll": "chunked",
    "weighted_nll_with_stats": "chunked",
}


def __getattr__(name: str) -> Any:
    if name == "reference":
        return importlib.import_module("rankray.loss.reference")
    if name not in _HOME:
        raise AttributeError(f"module 'rankray.loss' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rankray.loss.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
