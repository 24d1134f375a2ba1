"""The weighted token loss from hidden states and output head, without ever holding all logits in memory.

Shapes: N tokens, V vocabulary, H hidden, C tokens of one chunk.

    loss = sum over supervised tokens of w * (-ln p_t) / num_items

`fused.py` does the pass; here are the public calls, the checks and the choice of the chunk size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

from rankray.errors import LossError
from rankray.loss.anchor import Anchor, Pull
from rankray.loss.checks import check_options, check_shapes
from rankray.loss.chunks import choose_chunk_tokens
from rankray.loss.fused import FusedLoss, PassResult, Plan, Slot, fused_pass
from rankray.loss.knobs import Knobs, make_knobs
from rankray.loss.stats import check_targets, stats_dtype
from rankray.loss.tokens import ALL_STATS, IGNORED, TokenStats
from rankray.loss.totals import LossStats
from rankray.loss.weights import (
    WEIGHTS,
    needed_stats,
    needs_talr_temperature,
    relative_scale,
    sequence_log_ratio,
    talr_temperature,
)

PLAIN = Knobs(objective="sft")
"""Every token has weight 1."""

Call = ParamSpec("Call")
Result = TypeVar("Result")


def _eager(function: Callable[Call, Result]) -> Callable[Call, Result]:
    """Under torch.compile, break the graph and run the function eagerly: it makes gradients in forward, with numpy."""

    @wraps(function)
    def call(*args: Call.args, **kwargs: Call.kwargs) -> Result:
        if torch.compiler.is_compiling():
            eager = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return cast(Result, eager(*args, **kwargs))
        return function(*args, **kwargs)

    return call


def weighted_nll(hidden_NH: Tensor, head_VH: Tensor, label_N: Tensor, **options: Any) -> Tensor:
    """Return the weighted loss, a scalar; `weighted_nll_with_stats` returns it first, and has the same arguments.

    >>> import torch, rankray
    >>> loss = rankray.weighted_nll(torch.ones(2, 4), torch.zeros(3, 4), torch.tensor([1, -100]), objective="sft")
    >>> round(float(loss), 4)  # ln 3
    1.0986
    """
    return weighted_nll_with_stats(hidden_NH, head_VH, label_N, **options)[0]


@_eager
def weighted_nll_with_stats(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    objective: str | None = None,
    bias_V: Tensor | None = None,
    num_items: int | float | Tensor | None = None,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
    sequence_N: Tensor | None = None,
    exact_ranks: bool = False,
    base_stats: TokenStats | None = None,
    anchor: Anchor | None = None,
    token_weight_N: Tensor | None = None,
    knobs: Knobs | None = None,
    **settings: Any,
) -> tuple[Tensor, LossStats]:
    """Return the weighted loss and the sums to log beside it.

    Same value as

        logits_NV = linear(hidden_NH, head_VH, bias_V) * logit_scale
        logits_NV = logit_softcap * tanh(logits_NV / logit_softcap)                      # if there is a softcap
        keep_N = label_N != -100
        weight = token_weights(token_stats(logits_NV[keep_N], label_N[keep_N]), objective, **settings)
        loss = (weight.detach() * cross_entropy(logits_NV[keep_N], label_N[keep_N], reduction="none")).sum() / num_items

    and the same gradients, without allocating `(N, V)` forward or backward. Ignored tokens cost nothing. Without a
    supervised token the loss is 0 with zero gradients. A NaN or infinite logit of a supervised token makes the loss
    non-finite; a logit of -inf beside the target is a token of probability 0. Not twice differentiable.

    Args:
        hidden_NH: the input of the head. Under autocast the products run in the autocast dtype.
        head_VH: the head's weight; its gradient is accumulated in float32, and only computed if it is trained. A
            DTensor (FSDP2) is gathered, see `whole`.
        label_N: the token to predict from each row (already shifted); -100 is ignored.
        objective: a key of `WEIGHTS`; None: the default of `Knobs`, rri.
        bias_V: the head's bias.
        num_items: the denominator: supervised tokens in the *global* batch (over accumulation steps and ranks).
            None: the supervised tokens given.
        chunk_size: tokens whose logits are in memory at a time; None: `choose_chunk_tokens`.
        logit_scale: multiplies the logits (Cohere; Granite's divisor is 1 / logit_scale).
        logit_softcap: > 0, in logits (Gemma).
        sequence_N: see `token_weights`; for iw_sft, and talr with talr_temperature="auto", which cost a first forward
            pass of the head.
        exact_ranks: sort for the expected rank of rri's exact form. Without it, tokens are counted into buckets where
            V is large, which keeps S within 1e-5 / temperature of its value on a CPU (rows where it would not are
            sorted) and within 1e-3 / temperature with Triton, and has no error there if the logits have 16 bits.
        base_stats: the base model's statistics, each (N,), from `token_stats`: what the weights look at if the setting
            `signal` is base, and what iw_sft compares with. What stands at ignored tokens does not matter.
        anchor: the reference model of `kl_weight`, which adds kl_weight * sum(KL) / num_items; see `anchor.py`.
        token_weight_N: weights that the data give, >= 0; each multiplies its token's weight, and leaves statistics,
            KL and `num_items` as they are.
        knobs: settings that were checked before, objective included: what a trainer passes with every micro batch.
        settings: fields of `Knobs` by name instead, checked at each call; see `token_weights`.

    Returns:
        the loss, a 0-d tensor in float32 (float64 for float64 inputs), and its `LossStats`.

    Raises:
        LossError: shapes that do not match, a label outside the vocabulary, an impossible setting or option.

    Source: arXiv:2602.01745, the weighted objective.
    """
    checked = make_knobs(knobs, objective, **settings)
    check_shapes(hidden_NH, head_VH, label_N, bias_V, sequence_N, token_weight_N)
    check_options(num_items, chunk_size, logit_scale, logit_softcap)
    head_VH, bias_V = whole(head_VH), None if bias_V is None else whole(bias_V)
    pull = _pull(checked, anchor, hidden_NH, head_VH)
    plan = _plan(hidden_NH, head_VH, label_N, num_items, chunk_size, logit_scale, logit_softcap, pull is not None)
    signal_T = _signal_of(checked, base_stats, plan, len(label_N))
    sequence_T = None if sequence_N is None else sequence_N[plan.row_T]
    is_talr = needs_talr_temperature(checked)
    if checked.objective == "iw_sft" or (is_talr and signal_T is None):
        log_prob_T = fused_pass(hidden_NH, head_VH, bias_V, plan, (False, False, False)).stats.log_prob_N
        if checked.objective == "iw_sft" and signal_T is not None:
            ratio_T = sequence_log_ratio(log_prob_T, signal_T.log_prob_N, sequence_T)
            signal_T = signal_T.replaced(log_ratio_N=ratio_T)
    if is_talr:
        nll_T = -(log_prob_T if signal_T is None else signal_T.log_prob_N)
        checked = checked.model_copy(update={"talr_temperature": talr_temperature(nll_T, sequence_T)})
    plan = replace(
        plan,
        wanted=needed_stats(checked) if signal_T is None else frozenset(),
        weights_of=_weights_of(checked, signal_T, None if token_weight_N is None else token_weight_N[plan.row_T]),
        exact_ranks=exact_ranks,
        pull=pull,
    )
    loss, result = _run(hidden_NH, head_VH, bias_V, plan)
    return loss, _totals(result, checked, result.stats if signal_T is None else signal_T)


def _weights_of(
    knobs: Knobs, signal_T: TokenStats | None, given_T: Tensor | None
) -> Callable[[TokenStats, slice], Tensor]:
    """Return the weight of each token of a chunk: the objective's, times what the data give."""
    function = WEIGHTS[knobs.objective]

    def weights(stats: TokenStats, part: slice) -> Tensor:
        weight_C = function(stats if signal_T is None else _rows_of(signal_T, part), knobs)
        return weight_C if given_T is None else weight_C * given_T[part].to(weight_C.dtype)

    return weights


def _signal_of(knobs: Knobs, base_stats: TokenStats | None, plan: Plan, tokens: int) -> TokenStats | None:
    """Return the base model's statistics of the supervised tokens, or None where the weights do not look at them."""
    if not knobs.needs_base:
        return None
    if base_stats is None:
        raise LossError(
            f"weighted_nll: objective {knobs.objective} with signal {knobs.signal} and no statistics of the base model;"
            " allowed: those of token_stats, each (N,); give base_stats"
        )
    lengths = {len(column) for column in base_stats if column is not None}
    if lengths != {tokens}:
        raise LossError(
            f"weighted_nll: base_stats of {', '.join(map(str, sorted(lengths)))} tokens for {tokens}; allowed: those of"
            " token_stats for all tokens given, ignored ones too; give the same tokens"
        )
    dtype = stats_dtype(plan.compute_dtype)
    found = [None if column is None else column.detach()[plan.row_T].to(dtype) for column in base_stats]
    return TokenStats(*found)  # type: ignore[arg-type]


def _rows_of(stats: TokenStats, part: slice) -> TokenStats:
    return TokenStats(*(None if column is None else column[part] for column in stats))  # type: ignore[arg-type]


def _pull(knobs: Knobs, anchor: Anchor | None, hidden_NH: Tensor, head_VH: Tensor) -> Pull | None:
    if knobs.kl_weight == 0.0:
        return None
    if not isinstance(anchor, Anchor) or len(anchor.hidden_NH) != len(hidden_NH):
        given = "no anchor" if anchor is None else f"a {type(anchor).__name__} as anchor"
        given = f"an anchor of {len(anchor.hidden_NH)} tokens" if isinstance(anchor, Anchor) else given
        raise LossError(
            f"weighted_nll: kl_weight {knobs.kl_weight} with {given}; allowed: hidden states and head of the reference"
            f" model for the same {len(hidden_NH)} tokens; give an Anchor as anchor, or set kl_weight to 0"
        )
    has_fitting_bias = anchor.bias_V is None or anchor.bias_V.shape == head_VH.shape[:1]
    if anchor.head_VH.shape != (len(head_VH), anchor.hidden_NH.shape[-1]) or not has_fitting_bias:
        bias = "" if anchor.bias_V is None else f" and bias {tuple(anchor.bias_V.shape)}"
        raise LossError(
            f"weighted_nll: anchor with hidden {tuple(anchor.hidden_NH.shape)} and head {tuple(anchor.head_VH.shape)}"
            f"{bias}; allowed: a head ({len(head_VH)}, width of its hidden states), over the same vocabulary, and a"
            f" bias ({len(head_VH)},) or None; give those"
        )
    bias_V = None if anchor.bias_V is None else whole(anchor.bias_V.detach())
    own = Anchor(anchor.hidden_NH.detach(), whole(anchor.head_VH.detach()), bias_V)
    largest = torch.finfo(stats_dtype(torch.promote_types(hidden_NH.dtype, head_VH.dtype))).max
    return Pull(own, min(knobs.kl_weight, largest), knobs.kl_direction)


@torch.no_grad()
def head_stats(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
) -> TokenStats:
    """Return every statistic of every supervised token, in their order, without gradients.

    Same values as `token_stats(logits_NV[keep_N], label_N[keep_N])`, with `logits_NV` and `keep_N` as in
    `weighted_nll_with_stats`, without allocating `(N, V)`. Arguments and errors as there.
    """
    return _read(hidden_NH, head_VH, label_N, ALL_STATS, bias_V, chunk_size, logit_scale, logit_softcap).stats


@torch.no_grad()
def plain_tokens(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ln p_t of every supervised token, in nats, and which are the greedy choice, in their order, no gradients.

    Same values as `-cross_entropy(logits_NV[keep_N], label_N[keep_N], reduction="none")` and
    `logits_NV[keep_N].argmax(-1) == label_N[keep_N]`, as `head_stats`, without the other statistics.
    """
    wanted = needed_stats(PLAIN)
    found = _read(hidden_NH, head_VH, label_N, wanted, bias_V, chunk_size, logit_scale, logit_softcap)
    return found.stats.log_prob_N, found.correct_T


@torch.no_grad()
def plain_stats(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    chunk_size: int | None = None,
    logit_scale: float = 1.0,
    logit_softcap: float | None = None,
) -> LossStats:
    """Return plain NLL, token count and correct greedy choices, for evaluation; the weight is 1, no gradients.

    Same values as `cross_entropy(logits_NV, label_N, reduction="sum")` and `(logits_NV.argmax(-1) == label_N).sum()`
    without allocating `(N, V)`. Arguments and errors as `weighted_nll_with_stats`.
    """
    wanted = needed_stats(PLAIN)
    result = _read(hidden_NH, head_VH, label_N, wanted, bias_V, chunk_size, logit_scale, logit_softcap)
    return _totals(result, PLAIN, result.stats)


def whole(parameter: Tensor) -> Tensor:
    """Return a parameter as a plain tensor: a DTensor gathered from its mesh, anything else as it is.

    The gradient that flows back is averaged over the mesh and sharded like the parameter, as FSDP2 does with every
    parameter that it gathers itself. So every rank of the mesh must make the call, each with its own tokens.
    """
    if type(parameter) in (Tensor, torch.nn.Parameter):
        return parameter
    from torch.distributed.tensor import DTensor, Partial

    if not isinstance(parameter, DTensor):
        return parameter
    mesh = parameter.device_mesh
    gathered: Tensor = parameter.full_tensor(grad_placements=[Partial()] * mesh.ndim)
    if gathered.requires_grad:
        gathered.register_hook(lambda gradient: gradient / mesh.size())  # type: ignore[no-untyped-call]
    return gathered


def _read(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    wanted: frozenset[str],
    bias_V: Tensor | None,
    chunk_size: int | None,
    logit_scale: float,
    logit_softcap: float | None,
) -> PassResult:
    """Return a pass without weights and gradients."""
    check_shapes(hidden_NH, head_VH, label_N, bias_V)
    check_options(None, chunk_size, logit_scale, logit_softcap)
    head_VH, bias_V = whole(head_VH), None if bias_V is None else whole(bias_V)
    plan = _plan(hidden_NH, head_VH, label_N, None, chunk_size, logit_scale, logit_softcap)
    return fused_pass(hidden_NH, head_VH, bias_V, replace(plan, wanted=wanted), (False, False, False))


def _plan(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    num_items: int | float | Tensor | None,
    chunk_size: int | None,
    logit_scale: float,
    logit_softcap: float | None,
    is_pulled: bool = False,
) -> Plan:
    """Return the plan of `sft`; the caller replaces what depends on the objective."""
    device = hidden_NH.device
    row_T = (label_N != IGNORED).nonzero().squeeze(1)
    label_T = label_N[row_T].long()
    check_targets("weighted_nll", label_T, len(head_VH))
    dtype = torch.promote_types(hidden_NH.dtype, head_VH.dtype)
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    if chunk_size is None:
        wide_bytes = stats_dtype(dtype).itemsize
        wide_buffers = (1 if logit_softcap is None else 2) + (2 if is_pulled else 0)
        bytes_per_logit = wide_bytes * wide_buffers + dtype.itemsize % wide_bytes
        chunk_size = choose_chunk_tokens(len(head_VH), bytes_per_logit, device)
    items: float | Tensor = max(1, len(row_T)) if num_items is None else num_items
    if isinstance(items, Tensor):
        items = items.detach().to(device=device, dtype=stats_dtype(dtype)).reshape(())
    return Plan(
        row_T=row_T,
        label_T=label_T,
        inverse_items=1.0 / items,
        wanted=needed_stats(PLAIN),
        weights_of=lambda stats, part: torch.ones_like(stats.log_prob_N),
        chunk_tokens=chunk_size,
        compute_dtype=dtype,
        logit_scale=logit_scale,
        logit_softcap=logit_softcap,
    )


def _run(hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan) -> tuple[Tensor, PassResult]:
    inputs = [tensor for tensor in (hidden_NH, head_VH, bias_V) if tensor is not None]
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)):
        result = fused_pass(hidden_NH, head_VH, bias_V, plan, (False, False, False))
        return result.loss, result
    slot = Slot()
    loss: Tensor = FusedLoss.apply(hidden_NH, head_VH, bias_V, plan, slot)  # type: ignore[no-untyped-call]
    assert slot.result is not None
    return loss, slot.result


def _totals(result: PassResult, knobs: Knobs, weighted_by: TokenStats) -> LossStats:
    scale_T = relative_scale(weighted_by, knobs) if knobs.objective == "rri" else torch.ones_like(result.weight_T)
    return LossStats.of(result.stats.log_prob_N, result.weight_T, scale_T, result.correct_T, result.kl_T)
