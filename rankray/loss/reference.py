"""The oracle: every objective with full logits, in float64, written as in the papers.

Shapes: N tokens, V vocabulary, H hidden.

It shares nothing with the fused pass, is not fast, and uses log space only where the paper does. The rest of
`rankray.loss` is correct where it agrees with this file.

Source: arXiv:2602.01745 (rri), arXiv:2508.05629 (dft), arXiv:2509.20758 (talr), arXiv:2601.02151 (eaft),
arXiv:2510.00526 (power); ProFit (threshold), DEFT (deft) and iw-SFT (iw_sft) by their public code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from rankray.loss.anchor import Anchor
from rankray.loss.tokens import TokenStats


def token_stats(logits_NV: Tensor, target_N: Tensor) -> TokenStats:
    """p_t, H, R, E[R] and the top-20 entropy of every row, float64, detached; see `rankray.loss.token_stats`."""
    logits_NV = logits_NV.detach().double()
    log_prob_NV = logits_NV.log_softmax(-1)
    prob_NV = log_prob_NV.exp()
    log_prob_N = log_prob_NV.gather(1, target_N[:, None])[:, 0]

    entropy_bits_N = -torch.where(prob_NV > 0, prob_NV * log_prob_NV, 0.0).sum(-1) / torch.tensor(2.0).double().log()
    rank_N = (logits_NV >= logits_NV.gather(1, target_N[:, None])).sum(-1).double()
    sorted_NV = prob_NV.sort(-1, descending=True).values
    rank_V = torch.arange(1, logits_NV.shape[1] + 1, dtype=torch.float64)
    expected_rank_N = (sorted_NV * rank_V).sum(-1)

    top_NK = sorted_NV[:, :20] / sorted_NV[:, :20].sum(-1, keepdim=True)
    top_entropy_nats_N = -torch.where(top_NK > 0, top_NK * top_NK.log(), 0.0).sum(-1)
    square_sum_N = (prob_NV**2).sum(-1)
    max_prob_N = sorted_NV[:, 0]
    return TokenStats(log_prob_N, entropy_bits_N, rank_N, expected_rank_N, top_entropy_nats_N, max_prob_N, square_sum_N)


def f(x: Tensor) -> Tensor:
    """Value of a rank: 1 for rank 1, smaller for a worse rank."""
    return 1 / torch.log2(x + 1)


def s(stats: TokenStats, low_entropy: str) -> Tensor:
    """Lower bound of the expected rank."""
    bound = 2**stats.entropy_bits_N / 4 + 1
    if low_entropy == "bound":
        return bound
    assert stats.max_prob_N is not None
    return torch.where(stats.entropy_bits_N < 2, 2 - stats.max_prob_N, bound)


def indicator(
    stats: TokenStats,
    form: str,
    temperature: float,
    entropy_weight: float,
    low_entropy: str,
    min_competence: float,
) -> Tensor:
    """The Relative Rank Indicator I: above 1 where the token was predicted better than expected."""
    one = torch.ones(())
    if form == "exact":
        better = (f(stats.rank_N) - f(one)) - entropy_weight * (f(stats.expected_rank_N) - f(one))
        return 2 ** (better / temperature)
    bound = s(stats, low_entropy)
    k = torch.log2(torch.maximum(stats.rank_N, bound) + 1) ** -2
    log2_prob = stats.log_prob_N / torch.tensor(2.0).double().log()
    log2_competence = log2_prob + entropy_weight * torch.log2(bound)
    return 2 ** (
        k / temperature * log2_competence.clamp(min=torch.tensor(min_competence, dtype=torch.float64).log2().item())
    )


def token_weights(
    stats: TokenStats,
    objective: str = "rri",
    *,
    form: str = "bound",
    base: str = "prob",
    temperature: float = 1.0,
    entropy_weight: float = 1.0,
    low_entropy: str = "max_prob",
    min_competence: float = 1e-6,
    max_scale: float | None = None,
    min_weight: float = 0.0,
    talr_temperature: float | str = "auto",
    alpha: float = 1.0,
    eaft_scale: float = 3.0,
    q: float = 0.1,
    direction: str = "above",
    iw_power: float = 2.0,
    iw_clip: float = 16.0,
    reference_log_prob_N: Tensor | None = None,
    sequence_N: Tensor | None = None,
) -> Tensor:
    """The weight of every token, float64; see `rankray.loss.token_weights`."""
    prob_N = stats.log_prob_N.exp()
    if objective == "sft":
        return torch.ones_like(prob_N)
    if objective == "dft":
        return prob_N
    if objective == "rri":
        scale_N = 1 / indicator(stats, form, temperature, entropy_weight, low_entropy, min_competence)
        if max_scale is not None:
            scale_N = scale_N.clamp(max=max_scale)
        return scale_N * (prob_N if base == "prob" else 1)
    if objective == "talr":
        if talr_temperature == "auto":
            talr_temperature = median_nll(-stats.log_prob_N, sequence_N)
        return (prob_N ** (1 / float(talr_temperature))).clamp(min=min_weight)
    if objective == "eaft":
        assert stats.top_entropy_nats_N is not None
        return (stats.top_entropy_nats_N / eaft_scale) ** alpha
    if objective == "power":
        return prob_N**alpha
    if objective == "threshold":
        return ((prob_N >= q) == (direction == "above")).double()
    if objective == "deft":
        assert stats.prob_square_sum_N is not None
        return prob_N**stats.prob_square_sum_N
    if objective == "iw_sft":
        assert reference_log_prob_N is not None
        return iw_sft_weights(stats.log_prob_N - reference_log_prob_N, sequence_N, iw_power, iw_clip)
    raise KeyError(objective)


def iw_sft_weights(ratio_N: Tensor, sequence_N: Tensor | None, iw_power: float, iw_clip: float) -> Tensor:
    """The weight of every token: its sequence's."""
    weight_N = torch.empty_like(ratio_N)
    if sequence_N is None:
        sequence_N = torch.zeros_like(ratio_N)
    for sequence in torch.unique(sequence_N):
        mine_N = sequence_N == sequence
        weight_N[mine_N] = torch.exp(iw_power * ratio_N[mine_N].mean()).clamp(0, iw_clip)
    return weight_N


def median_nll(nll_N: Tensor, sequence_N: Tensor | None) -> float:
    """Median over sequences of their mean NLL, nats; not quite 0 where every prediction is certain."""
    if sequence_N is None:
        sequence_N = torch.zeros_like(nll_N)
    means = [nll_N[sequence_N == sequence].mean() for sequence in torch.unique(sequence_N)]
    return max(float(torch.stack(means).quantile(0.5)), 1e-300)


def logits(
    hidden_NH: Tensor,
    head_VH: Tensor,
    bias_V: Tensor | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
) -> Tensor:
    """All the logits, (N, V), float64, differentiable."""
    logits_NV = linear(hidden_NH.double(), head_VH.double(), None if bias_V is None else bias_V.double()) * logit_scale
    return logits_NV if logit_softcap is None else logit_softcap * torch.tanh(logits_NV / logit_softcap)


def weighted_nll(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    objective: str = "rri",
    bias_V: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    sequence_N: Tensor | None = None,
    base_stats: TokenStats | None = None,
    anchor: Anchor | None = None,
    kl_weight: float = 0.0,
    kl_direction: str = "forward",
    token_weight_N: Tensor | None = None,
    **knobs: object,
) -> Tensor:
    """The loss, float64, differentiable with respect to hidden, head and bias; see `rankray.loss.weighted_nll`.

    `base_stats`, if it is given, is what the weights look at. `token_weight_N` multiplies them.
    """
    keep_N = label_N != -100
    if not keep_N.any():
        loss = hidden_NH[:0].double().sum() + head_VH[:0].double().sum()
        return loss if bias_V is None else loss + bias_V[:0].double().sum()
    logits_NV = logits(hidden_NH[keep_N], head_VH, bias_V, logit_scale, logit_softcap)
    stats = token_stats(logits_NV, label_N[keep_N])
    if base_stats is not None:
        base = TokenStats(*(None if column is None else column[keep_N].double() for column in base_stats))  # type: ignore[arg-type]
        if objective == "iw_sft":
            knobs = {**knobs, "reference_log_prob_N": base.log_prob_N}
        else:
            stats = base
    sequence_N = None if sequence_N is None else sequence_N[keep_N]
    weight_N = token_weights(stats, objective, sequence_N=sequence_N, **knobs).detach()  # type: ignore[arg-type]
    if token_weight_N is not None:
        weight_N = weight_N * token_weight_N[keep_N].double()
    nll_N = -logits_NV.log_softmax(-1).gather(1, label_N[keep_N][:, None])[:, 0]
    items = keep_N.sum() if num_items is None else num_items
    loss = (weight_N * nll_N).sum()
    if anchor is not None:
        theirs_NV = logits(anchor.hidden_NH[keep_N], anchor.head_VH, anchor.bias_V, logit_scale, logit_softcap)
        loss = loss + kl_weight * divergence_N(logits_NV, theirs_NV.detach(), kl_direction).sum()
    return loss / items


def divergence_N(logits_NV: Tensor, reference_NV: Tensor, direction: str) -> Tensor:
    """KL(ref || model) or KL(model || ref) of every row, nats."""
    log_prob_NV, log_reference_NV = logits_NV.log_softmax(-1), reference_NV.log_softmax(-1)
    if direction == "forward":
        return (log_reference_NV.exp() * (log_reference_NV - log_prob_NV)).sum(-1)
    return (log_prob_NV.exp() * (log_prob_NV - log_reference_NV)).sum(-1)
