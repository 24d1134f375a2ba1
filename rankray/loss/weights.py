"""The objectives: from a token's statistics to its weight.

Shapes: N tokens.

A weight function takes `(stats, knobs)` and returns `weight_N`; adding an objective is one line in `WEIGHTS`. One that
does not need every statistic may say so in `NEEDS` and then costs less. Weights are stop-gradient: the caller detaches
the statistics, and the gradient of the loss is `weight * (softmax - onehot)`.

Importing this does not import torch, so that a configuration can ask which objectives there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rankray.errors import LossError
from rankray.loss.tokens import ALL_STATS, TokenStats

if TYPE_CHECKING:
    from torch import Tensor

    from rankray.loss.knobs import Knobs

LN2 = math.log(2.0)
BOUND_FROM_BITS = 2.0
"""Entropy from which on 2^H / 4 + 1 is a lower bound of the expected rank."""
ROUNDING_BITS = 1e-5
"""How far float32 may take the entropy of a distribution of just 2 bits below 2."""


WeightFunction = Callable[[TokenStats, "Knobs"], "Tensor"]


def token_weights(
    stats: TokenStats,
    objective: str | None = None,
    *,
    sequence_N: Tensor | None = None,
    reference_log_prob_N: Tensor | None = None,
    knobs: Knobs | None = None,
    **settings: Any,
) -> Tensor:
    """Return the weight of every token, (N,), stop-gradient, in the dtype of the statistics.

    Same values as:

        sft   1
        dft   p_t
        rri   base / I, capped: base * min(2^(-log2 I), max_scale); `relative_scale` says what I is
        talr  max(p_t^(1/T), min_weight)
        eaft  (H20 / eaft_scale)^alpha, H20 in nats (3: LLaMA-Factory's form; 1: Axolotl's)
        power      p_t^alpha
        threshold  p_t >= q (direction above) or p_t < q (below): 1 or 0
        deft       p_t^(sum p^2)
        iw_sft     min(exp(iw_power * r), iw_clip), r the mean over the token's sequence of ln p_t - ln p_t,base

    but in log space, so that a p_t that underflows still has the right weight. A weight that would overflow is the
    largest finite number of the dtype; a NaN statistic gives a NaN weight.

    Args:
        stats: from `token_stats`, or by hand.
        objective: a key of `WEIGHTS`; None: the default of `Knobs`, rri.
        sequence_N: which sequence each token belongs to, any integers; for iw_sft, and for talr with
            `talr_temperature="auto"`, whose T is the median over sequences of their mean NLL in nats (None: all tokens
            are one sequence). `weighted_nll` gets those NLLs from a first pass without gradients over the same batch,
            not from the previous step; with a number for `talr_temperature` that pass is not needed.
        reference_log_prob_N: the base model's ln p_t, nats; only for iw_sft.
        knobs: settings that were checked before, objective included, in place of `objective` and `settings`.
        settings: fields of `Knobs`; an objective ignores those that it does not use.

    Raises:
        LossError: an objective or setting that does not exist, or a value outside its range.

    Source: arXiv:2602.01745 (rri), arXiv:2508.05629 (dft), arXiv:2509.20758 (talr), arXiv:2601.02151 (eaft),
    arXiv:2510.00526 (power); ProFit (threshold), DEFT (deft) and iw-SFT (iw_sft) by their public code.

    >>> import torch, rankray
    >>> stats = rankray.token_stats(torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([1]))
    >>> [round(float(rankray.token_weights(stats, name)), 3) for name in ("sft", "dft")]
    [1.0, 0.245]
    """
    from rankray.loss.knobs import make_knobs

    knobs = make_knobs(knobs, objective, **settings)
    stats = TokenStats(*(None if column is None else column.detach() for column in stats))  # type: ignore[arg-type]
    others = {"reference_log_prob_N": reference_log_prob_N, "sequence_N": sequence_N}
    for name, given_N in [*others.items(), *zip(TokenStats.__annotations__, stats, strict=True)]:
        if given_N is not None and given_N.shape != stats.log_prob_N.shape:
            raise LossError(
                f"token_weights: {name} {tuple(given_N.shape)} for {len(stats.log_prob_N)} tokens; allowed: one for"
                " each token; give the same tokens"
            )
    if needs_talr_temperature(knobs):
        knobs = knobs.model_copy(update={"talr_temperature": talr_temperature(-stats.log_prob_N, sequence_N)})
    if reference_log_prob_N is not None:
        ratio_N = sequence_log_ratio(stats.log_prob_N, reference_log_prob_N.detach(), sequence_N)
        stats = stats.replaced(log_ratio_N=ratio_N)
    return WEIGHTS[knobs.objective](stats, knobs)


def relative_scale(stats: TokenStats, knobs: Knobs) -> Tensor:
    """Same value as `min(1 / I, max_scale)`, where with f(x) = 1 / log2(x + 1) and s the bound of the expected rank

        exact  log2 I = ((f(R) - f(1)) - entropy_weight * (f(E[R]) - f(1))) / temperature
        bound  log2 I = K / temperature * log2(max(p_t * s^entropy_weight, min_competence)),  K = log2(max(R, s) + 1)^-2

    Source: arXiv:2602.01745, the indicator and its bound; temperature and entropy weight of 1 are the paper. The limit
    and the bound below 2 bits are the authors' training code's.
    """
    return _finite_exp2(_log2_scale(stats, knobs))


def _log2_scale(stats: TokenStats, knobs: Knobs) -> Tensor:
    temperature, entropy_weight = (_fitting(each, stats) for each in (knobs.temperature, knobs.entropy_weight))
    if knobs.form == "exact":
        surprise_N = rank_value(stats.rank_N) - 1.0
        if knobs.entropy_weight != 0.0:
            surprise_N = surprise_N - entropy_weight * (rank_value(stats.expected_rank_N) - 1.0)
        log2_scale_N = -surprise_N / temperature
    else:
        bound_N = expected_rank_bound(stats, knobs)
        log2_ratio_N = stats.log_prob_N / LN2 + entropy_weight * bound_N.log2()
        if knobs.min_competence > 0.0:
            log2_ratio_N = log2_ratio_N.clamp(min=math.log2(knobs.min_competence))
        slope_N = rank_value(stats.rank_N.maximum(bound_N)).square()
        log2_scale_N = -(slope_N / temperature) * log2_ratio_N
    if knobs.max_scale is not None:
        log2_scale_N = log2_scale_N.clamp(max=math.log2(knobs.max_scale))
    return log2_scale_N


def rank_value(rank_N: Tensor) -> Tensor:
    """Return f(x) = 1 / log2(x + 1), so that f(1) = 1 and a worse rank has a smaller value."""
    return 1.0 / (rank_N + 1.0).log2()


def expected_rank_bound(stats: TokenStats, knobs: Knobs) -> Tensor:
    """Return s, a lower bound of E[R]: 2^H / 4 + 1 for H >= 2 bits; below that 2 - p_max, or the same formula.

    Below 2 bits 2^H / 4 + 1 is no bound: a certain token has E[R] = 1, and 2^0 / 4 + 1 = 1.25.

    Raises:
        LossError: `low_entropy: max_prob` and statistics without `max_prob_N`.

    Source: arXiv:2602.01745 for 2 bits and more; the authors' training code below.
    """
    bound_N = stats.entropy_bits_N.exp2() / 4.0 + 1.0
    if knobs.low_entropy == "bound":
        return bound_N
    if stats.max_prob_N is None:
        raise LossError(
            "token_weights: low_entropy max_prob with max_prob_N = None; allowed: the largest probability of each"
            " prediction; take the statistics from token_stats, or set loss.low_entropy to bound"
        )
    return bound_N.where(stats.entropy_bits_N >= BOUND_FROM_BITS - ROUNDING_BITS, 2.0 - stats.max_prob_N)


def _rri(stats: TokenStats, knobs: Knobs) -> Tensor:
    log2_weight_N = _log2_scale(stats, knobs)
    if knobs.base == "prob":
        log2_weight_N = log2_weight_N + stats.log_prob_N / LN2
    return _finite_exp2(log2_weight_N)


def _sft(stats: TokenStats, knobs: Knobs) -> Tensor:
    return stats.log_prob_N.new_ones(stats.log_prob_N.shape)


def _dft(stats: TokenStats, knobs: Knobs) -> Tensor:
    return stats.log_prob_N.exp()


def _talr(stats: TokenStats, knobs: Knobs) -> Tensor:
    assert knobs.talr_temperature != "auto", "the caller resolves auto: it needs the whole batch"
    return (stats.log_prob_N / _fitting(knobs.talr_temperature, stats)).exp().clamp(min=knobs.min_weight)


def _eaft(stats: TokenStats, knobs: Knobs) -> Tensor:
    if stats.top_entropy_nats_N is None:
        raise LossError(
            "token_weights: objective eaft with top_entropy_nats_N = None; allowed: the entropy of the renormalised"
            " top 20 in nats; take the statistics from token_stats"
        )
    weight_N = (stats.top_entropy_nats_N / knobs.eaft_scale).pow(_fitting(knobs.alpha, stats))
    return _finite(weight_N)


def _power(stats: TokenStats, knobs: Knobs) -> Tensor:
    import torch

    log_prob_N = stats.log_prob_N.clamp(min=torch.finfo(stats.log_prob_N.dtype).min)
    return (log_prob_N * _fitting(knobs.alpha, stats)).exp()


def _threshold(stats: TokenStats, knobs: Knobs) -> Tensor:
    """Compare in log space; a p_t that equals q up to rounding counts as q."""
    import torch

    log_prob_N, log_q = stats.log_prob_N, math.log(knobs.q) if knobs.q > 0 else -math.inf
    rounding = 4.0 * torch.finfo(log_prob_N.dtype).eps * (1.0 + abs(log_q)) if knobs.q > 0 else 0.0
    is_above_N = log_prob_N >= log_q - rounding
    counts_N = is_above_N if knobs.direction == "above" else ~is_above_N
    return log_prob_N.where(log_prob_N.isnan(), counts_N.to(log_prob_N.dtype))


def _deft(stats: TokenStats, knobs: Knobs) -> Tensor:
    if stats.prob_square_sum_N is None:
        raise LossError(
            "token_weights: objective deft with prob_square_sum_N = None; allowed: the sum of squared probabilities of"
            " each prediction; take the statistics from token_stats"
        )
    return (stats.log_prob_N * stats.prob_square_sum_N).exp()


def _iw_sft(stats: TokenStats, knobs: Knobs) -> Tensor:
    if stats.log_ratio_N is None:
        raise LossError(
            "token_weights: objective iw_sft without the base model's probabilities; allowed: ln p_t of the base model"
            " for each token; give reference_log_prob_N (token_weights) or base_stats (weighted_nll)"
        )
    import torch

    largest = torch.finfo(stats.log_ratio_N.dtype).max
    ratio_N = _finite_exp2(stats.log_ratio_N * _fitting(knobs.iw_power, stats) / LN2)
    return ratio_N.clamp(max=min(knobs.iw_clip, largest))


WEIGHTS: dict[str, WeightFunction] = {
    "rri": _rri,
    "sft": _sft,
    "dft": _dft,
    "talr": _talr,
    "eaft": _eaft,
    "power": _power,
    "threshold": _threshold,
    "deft": _deft,
    "iw_sft": _iw_sft,
}
"""Objective name -> weight function `(stats, knobs) -> weight_N`. `loss.objective` may be any key of it."""

NEEDS: dict[str, Callable[[Knobs], frozenset[str]]] = {
    "rri": lambda knobs: _rri_needs(knobs),
    "sft": lambda knobs: frozenset(),
    "dft": lambda knobs: frozenset(),
    "talr": lambda knobs: frozenset(),
    "eaft": lambda knobs: frozenset({"top_entropy_nats_N"}),
    "power": lambda knobs: frozenset(),
    "threshold": lambda knobs: frozenset(),
    "deft": lambda knobs: frozenset({"prob_square_sum_N"}),
    "iw_sft": lambda knobs: frozenset(),
}
"""Objective name -> the statistics it looks at beside log_prob_N; an objective that is not here gets all of them."""


def needed_stats(knobs: Knobs) -> frozenset[str]:
    """Return the fields of `TokenStats`, beside log_prob_N, that the objective looks at with these knobs."""
    return NEEDS[knobs.objective](knobs) if knobs.objective in NEEDS else ALL_STATS


def _rri_needs(knobs: Knobs) -> frozenset[str]:
    if knobs.form == "bound":
        return frozenset({"entropy_bits_N", "rank_N"})
    return frozenset({"rank_N"} if knobs.entropy_weight == 0.0 else {"rank_N", "expected_rank_N"})


def needs_talr_temperature(knobs: Knobs) -> bool:
    """Return whether T must still be computed from the batch."""
    return knobs.objective == "talr" and knobs.talr_temperature == "auto"


def talr_temperature(nll_N: Tensor, sequence_N: Tensor | None) -> float:
    """Return the median over sequences of their mean NLL in nats (the mean of the middle two for an even number).

    Same value as `median([nll_N[sequence_N == i].mean() for i in unique(sequence_N)])`; 1 where there is no token, and
    never below the smallest normal number of the dtype.

    Source: arXiv:2509.20758.
    """
    import torch

    if not len(nll_N):
        return 1.0
    if sequence_N is None:
        return max(float(nll_N.double().mean()), torch.finfo(nll_N.dtype).tiny)
    _, index_N = torch.unique(sequence_N, return_inverse=True)
    count_S = torch.bincount(index_N)
    sum_S = torch.zeros_like(count_S, dtype=torch.float64).index_add_(0, index_N, nll_N.double())
    mean_S = sum_S / count_S
    return max(float(mean_S.quantile(0.5)), torch.finfo(nll_N.dtype).tiny)


def sequence_log_ratio(log_prob_N: Tensor, reference_log_prob_N: Tensor, sequence_N: Tensor | None) -> Tensor:
    """Return for each token the mean over its sequence of ln p_t - ln p_t,base, nats; None: all are one sequence."""
    import torch

    ratio_N = log_prob_N - reference_log_prob_N.to(log_prob_N.dtype)
    if sequence_N is None or not len(ratio_N):
        return ratio_N.mean().expand_as(ratio_N) if len(ratio_N) else ratio_N
    _, index_N, count_S = torch.unique(sequence_N, return_inverse=True, return_counts=True)
    sum_S = torch.zeros_like(count_S, dtype=torch.float64).index_add_(0, index_N, ratio_N.double())
    mean_N: Tensor = (sum_S / count_S)[index_N]
    return mean_N.to(ratio_N.dtype)


def _finite_exp2(log2_N: Tensor) -> Tensor:
    return _finite(log2_N.exp2())


def _finite(weight_N: Tensor) -> Tensor:
    import torch

    return weight_N.clamp(max=torch.finfo(weight_N.dtype).max)


def _fitting(knob: float, stats: TokenStats) -> float:
    """Return a setting as it is, unless the dtype of the statistics has no such number, or no square of it.

    1e-300 would be 0 in float32, and 1e300 infinite: 0 / 0 and 0 * infinity are NaN. An infinite one stays.
    """
    import torch

    numbers = torch.finfo(stats.log_prob_N.dtype)
    if not 0.0 < knob < math.inf:
        return knob
    least, most = float(numbers.tiny), math.sqrt(numbers.max)
    return min(max(knob, least), most)
