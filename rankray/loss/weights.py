"""The objectives: from a token's statistics to its weight.

Shapes: N tokens.

A weight function takes `(stats, knobs)` and returns `weight_N`; adding an objective is one line in `WEIGHTS`. One that
does not need every statistic may say so in `NEEDS` and then costs less. Weights are stop-gradient: the caller detaches
the statistics, and the gradient of the loss is `weight * (softmax - onehot)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rankray.errors import LossError, nearest
from rankray.loss.stats import ALL_STATS, TokenStats

LN2 = math.log(2.0)


@dataclass(frozen=True)
class Knobs:
    """What shapes a weight: the fields of the config's `loss:` block, same names, same defaults."""

    form: Literal["bound", "exact"] = "bound"
    """rri: the bound the paper trains with, or the exact indicator."""
    base: Literal["one", "prob"] = "prob"
    """rri: the weight that the relative scale multiplies: 1 or p_t."""
    temperature: float = 1.0
    """rri: rank-mapping temperature, > 0; at infinity the base objective is left."""
    entropy_weight: float = 1.0
    """rri: weight of the expected rank, >= 0; at 0 only the probability counts."""
    max_scale: float | None = None
    """rri: cap on the relative scale S, > 0."""
    min_weight: float = 0.0
    """talr: floor of the weight, in [0, 1]."""
    talr_temperature: float | Literal["auto"] = "auto"
    """talr: T in p_t^(1/T), > 0; `auto` takes the median over the sequences of their mean NLL."""
    alpha: float = 1.0
    """eaft: exponent, >= 0."""


WeightFunction = Callable[[TokenStats, Knobs], Tensor]


def token_weights(
    stats: TokenStats, objective: str = "rri", *, sequence_N: Tensor | None = None, **knobs: Any
) -> Tensor:
    """Return the weight of every token, (N,), stop-gradient, in the dtype of the statistics.

    Same values as:

        sft   1
        dft   p_t
        rri   base / I, capped: base * min(2^(-log2 I), max_scale); `relative_scale` says what I is
        talr  max(p_t^(1/T), min_weight)
        eaft  (H20 / 3)^alpha, H20 in nats (LLaMA-Factory's form; Axolotl leaves the 3 out)

    but in log space, so that a p_t that underflows does no harm. A weight that would overflow is the dtype's largest
    finite number; a NaN statistic gives a NaN weight.

    Args:
        stats: from `token_stats`, or by hand.
        objective: a key of `WEIGHTS`.
        sequence_N: which sequence each token belongs to, any integers; only for talr with `talr_temperature="auto"`,
            whose T is the median over sequences of their mean NLL in nats (None: all tokens are one sequence).
            `weighted_nll` gets those NLLs from a first pass without gradients over the same batch, not from the
            previous step: give a number to save that pass.
        knobs: fields of `Knobs`; those that do not concern the objective are ignored.

    Raises:
        LossError: an objective or knob that does not exist, or a value outside its range.

    Source: arXiv:2602.01745 (rri), arXiv:2508.05629 (dft), arXiv:2509.20758 (talr), arXiv:2601.02151 (eaft).
    """
    checked = check_knobs(objective, knobs)
    stats = TokenStats(*(None if column is None else column.detach() for column in stats))  # type: ignore[arg-type]
    if needs_talr_temperature(objective, checked):
        checked = replace(checked, talr_temperature=talr_temperature(-stats.log_prob_N, sequence_N))
    return WEIGHTS[objective](stats, checked)


def relative_scale(stats: TokenStats, knobs: Knobs) -> Tensor:
    """Same value as `min(1 / I, max_scale)`, where with f(x) = 1 / log2(x + 1) and s(H) = 2^H / 4 + 1

        exact  log2 I = ((f(R) - f(1)) - entropy_weight * (f(E[R]) - f(1))) / temperature
        bound  log2 I = K / temperature * (log2 p_t + entropy_weight * log2 s(H)),  K = log2(max(R, s(H)) + 1)^-2

    Source: arXiv:2602.01745, the indicator and its bound; temperature and entropy weight of 1 are the paper.
    """
    return _finite_exp2(_log2_scale(stats, knobs))


def _log2_scale(stats: TokenStats, knobs: Knobs) -> Tensor:
    if knobs.form == "exact":
        surprise_N = rank_value(stats.rank_N) - 1.0
        if knobs.entropy_weight != 0.0:
            surprise_N = surprise_N - knobs.entropy_weight * (rank_value(stats.expected_rank_N) - 1.0)
        log2_scale_N = -surprise_N / knobs.temperature
    else:
        bound_N = expected_rank_bound(stats.entropy_bits_N)
        log2_ratio_N = stats.log_prob_N / LN2 + knobs.entropy_weight * bound_N.log2()
        slope_N = rank_value(torch.maximum(stats.rank_N, bound_N)).square()
        log2_scale_N = -(slope_N / knobs.temperature) * log2_ratio_N
    if knobs.max_scale is not None:
        log2_scale_N = log2_scale_N.clamp(max=math.log2(knobs.max_scale))
    return log2_scale_N


def rank_value(rank_N: Tensor) -> Tensor:
    """f(x) = 1 / log2(x + 1), so that f(1) = 1 and a worse rank is worth less."""
    return 1.0 / (rank_N + 1.0).log2()


def expected_rank_bound(entropy_bits_N: Tensor) -> Tensor:
    """s(H) = 2^H / 4 + 1, a lower bound of E[R] for H >= 2 bits."""
    return torch.exp2(entropy_bits_N) / 4.0 + 1.0


def _rri(stats: TokenStats, knobs: Knobs) -> Tensor:
    log2_weight_N = _log2_scale(stats, knobs)
    if knobs.base == "prob":
        log2_weight_N = log2_weight_N + stats.log_prob_N / LN2
    return _finite_exp2(log2_weight_N)


def _sft(stats: TokenStats, knobs: Knobs) -> Tensor:
    return torch.ones_like(stats.log_prob_N)


def _dft(stats: TokenStats, knobs: Knobs) -> Tensor:
    return stats.log_prob_N.exp()


def _talr(stats: TokenStats, knobs: Knobs) -> Tensor:
    assert knobs.talr_temperature != "auto", "the caller resolves auto: it needs the whole batch"
    return (stats.log_prob_N / knobs.talr_temperature).exp().clamp(min=knobs.min_weight)


def _eaft(stats: TokenStats, knobs: Knobs) -> Tensor:
    if stats.top_entropy_nats_N is None:
        raise LossError(
            "token_weights: objective eaft with top_entropy_nats_N = None; it is needed, the entropy of the"
            " renormalised top 20 in nats; take the statistics from token_stats"
        )
    return (stats.top_entropy_nats_N / 3.0).pow(knobs.alpha)


WEIGHTS: dict[str, WeightFunction] = {"rri": _rri, "sft": _sft, "dft": _dft, "talr": _talr, "eaft": _eaft}
"""Objective name -> weight function `(stats, knobs) -> weight_N`."""

NEEDS: dict[str, Callable[[Knobs], frozenset[str]]] = {
    "rri": lambda knobs: _rri_needs(knobs),
    "sft": lambda knobs: frozenset(),
    "dft": lambda knobs: frozenset(),
    "talr": lambda knobs: frozenset(),
    "eaft": lambda knobs: frozenset({"top_entropy_nats_N"}),
}
"""Objective name -> the statistics it looks at beside log_prob_N; an objective that is not here gets them all."""


def needed_stats(objective: str, knobs: Knobs) -> frozenset[str]:
    """The fields of `TokenStats`, beside log_prob_N, that the objective looks at with these knobs."""
    return NEEDS[objective](knobs) if objective in NEEDS else ALL_STATS


def _rri_needs(knobs: Knobs) -> frozenset[str]:
    if knobs.form == "bound":
        return frozenset({"entropy_bits_N", "rank_N"})
    return frozenset({"rank_N"} if knobs.entropy_weight == 0.0 else {"rank_N", "expected_rank_N"})


def needs_talr_temperature(objective: str, knobs: Knobs) -> bool:
    """Whether T is still to be taken from the batch."""
    return objective == "talr" and knobs.talr_temperature == "auto"


def talr_temperature(nll_N: Tensor, sequence_N: Tensor | None) -> float:
    """Median over sequences of their mean NLL in nats (the mean of the middle two where their number is even).

    Same value as `median([nll_N[sequence_N == i].mean() for i in unique(sequence_N)])`; 1 where there is no token, and
    never below the smallest normal number of the dtype.

    Source: arXiv:2509.20758.
    """
    if not len(nll_N):
        return 1.0
    if sequence_N is None:
        return max(float(nll_N.double().mean()), torch.finfo(nll_N.dtype).tiny)
    _, index_N = torch.unique(sequence_N, return_inverse=True)
    count_S = torch.bincount(index_N)
    sum_S = torch.zeros_like(count_S, dtype=torch.float64).index_add_(0, index_N, nll_N.double())
    mean_S = sum_S / count_S
    return max(float(mean_S.quantile(0.5)), torch.finfo(nll_N.dtype).tiny)


def _finite_exp2(log2_N: Tensor) -> Tensor:
    return torch.exp2(log2_N).clamp(max=torch.finfo(log2_N.dtype).max)


def check_knobs(objective: str, knobs: dict[str, Any]) -> Knobs:
    """Return the knobs with their defaults filled in, or raise LossError; only what the objective uses is judged."""
    if objective not in WEIGHTS:
        raise LossError(
            f"loss.objective: {objective!r}{nearest(objective, WEIGHTS)}; allowed are {', '.join(WEIGHTS)};"
            " choose one, or add a weight function to rankray.loss.WEIGHTS"
        )
    names = [field.name for field in fields(Knobs)]
    for name in knobs:
        if name not in names:
            raise LossError(
                f"loss.{name}: no such knob{nearest(name, names)}; allowed are {', '.join(names)}; correct the name"
            )
    checked = Knobs(**knobs)
    for name, allowed, is_allowed in _RULES.get(objective, []):
        value = getattr(checked, name)
        if not is_allowed(value):
            raise LossError(
                f"loss.{name}: {value!r}{_suggestion(name, value)}; allowed is {allowed}; set loss.{name} to one"
            )
    return checked


def _suggestion(name: str, value: object) -> str:
    return nearest(value, ("bound", "exact", "one", "prob", "auto")) if isinstance(value, str) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_not_negative(value: Any) -> bool:
    return _is_number(value) and 0 <= value < math.inf


_RULES: dict[str, list[tuple[str, str, Callable[[Any], bool]]]] = {
    "rri": [
        ("form", "'bound' or 'exact'", lambda value: value in ("bound", "exact")),
        ("base", "'one' or 'prob'", lambda value: value in ("one", "prob")),
        ("temperature", "a number > 0", _is_positive),
        ("entropy_weight", "a finite number >= 0", _is_not_negative),
        ("max_scale", "None or a number > 0", lambda value: value is None or _is_positive(value)),
    ],
    "talr": [
        ("min_weight", "a number in [0, 1]", lambda value: _is_not_negative(value) and value <= 1),
        ("talr_temperature", "'auto' or a number > 0", lambda value: value == "auto" or _is_positive(value)),
    ],
    "eaft": [("alpha", "a finite number >= 0", _is_not_negative)],
}
