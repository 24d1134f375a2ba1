"""One pass over the tokens that computes loss, statistics and gradients together, a chunk of logits at a time.

Shapes: N tokens, T supervised tokens, V vocabulary, H hidden, C tokens of one chunk; a trailing 1 is a kept dimension.

Weights are stop-gradient, so the gradient with respect to the logits is known as soon as the logits are:
`weight * (softmax - onehot)`. Each chunk therefore computes its logits once, takes statistics, weight and gradient from
them and frees them; backward only multiplies by the gradient of the output. In memory at any time: one (C, V) buffer
(a second with a softcap, a narrow one for half precision; with Triton one in total) and, where the head is trained, its
gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankray.loss import backend
from rankray.loss.anchor import Pull, divergence
from rankray.loss.gradients import Gradients, scaled_to
from rankray.loss.ranking import row_sums
from rankray.loss.stats import ChunkReader, cat_stats, stats_dtype
from rankray.loss.tokens import TokenStats

ALIGNED = 64
"""Rows of products begin at a multiple of so many numbers, so that a GPU can read several at a time."""


@dataclass(frozen=True)
class Plan:
    """What to compute, decided before the first chunk."""

    row_T: Tensor
    """Positions of the supervised tokens in the batch."""
    label_T: Tensor
    inverse_items: float | Tensor
    """1 / (number of supervised tokens in the global batch)."""
    wanted: frozenset[str]
    """Statistics that the weight looks at."""
    weights_of: Callable[[TokenStats, slice], Tensor]
    """The weight of each token, from its statistics and its place among the supervised tokens."""
    chunk_tokens: int
    compute_dtype: torch.dtype
    """Dtype of the matrix products."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    exact_ranks: bool = False
    """Sort for the expected rank even where counting is accurate enough."""
    pull: Pull | None = None
    """A penalty on the distance to a reference model."""

    @property
    def is_half(self) -> bool:
        """Whether the products run in 16 bits."""
        return self.compute_dtype in (torch.float16, torch.bfloat16)


@dataclass
class PassResult:
    """The result of a pass over the supervised tokens, all detached."""

    stats: TokenStats
    weight_T: Tensor
    correct_T: Tensor
    loss: Tensor
    gradients: Gradients
    kl_T: Tensor | None = None
    """Divergence from the reference model, nats, where the plan has one."""


@dataclass
class _Buffers:
    """The (C, V) memory, allocated once and reused by every chunk."""

    logits_CV: Tensor
    narrow_CV: Tensor | None
    slope_CV: Tensor | None
    reference_CV: Tensor | None = None
    kept_CV: Tensor | None = None

    @classmethod
    def of(cls, plan: Plan, head_VH: Tensor) -> _Buffers:
        shape = (min(plan.chunk_tokens, len(plan.row_T)), len(head_VH))
        wide = torch.empty(shape, dtype=stats_dtype(plan.compute_dtype), device=head_VH.device)
        return cls(
            logits_CV=wide,
            narrow_CV=torch.empty_like(wide, dtype=plan.compute_dtype) if plan.is_half else None,
            slope_CV=None if plan.logit_softcap is None else torch.empty_like(wide),
            reference_CV=None if plan.pull is None else torch.empty_like(wide),
            kept_CV=None if plan.pull is None else torch.empty_like(wide),
        )

    def head(self, rows: int) -> _Buffers:
        """The first `rows` rows of each."""
        others = (self.narrow_CV, self.slope_CV, self.reference_CV, self.kept_CV)
        return _Buffers(self.logits_CV[:rows], *(None if other is None else other[:rows] for other in others))


@dataclass
class _Reading:
    """What was read from one chunk's logits; the slopes as `Gradients.add` takes them."""

    stats: TokenStats
    correct_C: Tensor
    slope_CV: Tensor
    wide_CV: Tensor | None
    kl_C: Tensor | None = None
    pull_CV: Tensor | None = None
    """Gradient of `kl_C` with respect to the scaled products, not narrowed."""


Reader = Callable[[Tensor, Tensor, Tensor], _Reading]
"""Reads one chunk: row_C, hidden_CH, label_C -> its reading, valid until the next call."""


@torch.no_grad()
def fused_pass(
    hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan, wants: tuple[bool, bool, bool]
) -> PassResult:
    """Return loss, statistics, weights and the wanted gradients (hidden, head, bias) of the supervised tokens."""
    with torch.autocast(hidden_NH.device.type, enabled=False):
        gradients = Gradients.empty(hidden_NH, head_VH, wants, stats_dtype(plan.compute_dtype))
        gradients.pending_scale = plan.inverse_items if plan.is_half else 1.0
        if not len(plan.row_T):
            return _nothing(hidden_NH, plan, gradients)
        compute_VH = head_VH.to(plan.compute_dtype)
        compute_V = None if bias_V is None else bias_V.to(plan.compute_dtype)
        reader = _triton_reader if on_triton(plan, hidden_NH.device) else _torch_reader
        read = reader(compute_VH, compute_V, plan, any(wants))
        parts, weights, corrects, divergences = [], [], [], []
        for start in range(0, len(plan.row_T), plan.chunk_tokens):
            part = slice(start, start + plan.chunk_tokens)
            row_C = plan.row_T[part]
            hidden_CH = hidden_NH.index_select(0, row_C).to(plan.compute_dtype)
            reading = read(row_C, hidden_CH, plan.label_T[part])
            weight_C = plan.weights_of(reading.stats, part)
            if any(wants):
                factor_C = _pulled(reading, weight_C, plan) * plan.logit_scale
                if not plan.is_half:
                    factor_C = factor_C * plan.inverse_items
                gradients.add(row_C, hidden_CH, compute_VH, factor_C, reading.slope_CV, reading.wide_CV)
            parts.append(reading.stats)
            weights.append(weight_C)
            corrects.append(reading.correct_C)
            divergences.append(reading.kl_C)
    stats, weight_T = cat_stats(parts), torch.cat(weights)
    loss = -(weight_T * stats.log_prob_N).sum()
    kl_T = None
    if plan.pull is not None:
        kl_T = torch.cat([each for each in divergences if each is not None])
        loss = loss + plan.pull.weight * kl_T.sum()
    loss = (loss * plan.inverse_items).to(weight_T.dtype)
    return PassResult(stats, weight_T, torch.cat(corrects), loss, gradients, kl_T)


def _pulled(reading: _Reading, weight_C: Tensor, plan: Plan) -> Tensor:
    """Return the factor of each token's slope: its weight, or what is left where the pull had to be put into the slope.

    In 16 bits the slope stays of the size of a probability, and the factor is weight and pull together.
    """
    if plan.pull is None:
        return weight_C
    assert reading.wide_CV is not None
    assert reading.pull_CV is not None
    if reading.slope_CV is reading.wide_CV:
        reading.wide_CV.mul_(weight_C.unsqueeze(1)).add_(reading.pull_CV, alpha=plan.pull.weight)
        return torch.ones_like(weight_C)
    both_C = weight_C + plan.pull.weight
    reading.wide_CV.mul_((weight_C / both_C).unsqueeze(1))
    reading.wide_CV.addcmul_(reading.pull_CV, (plan.pull.weight / both_C).unsqueeze(1))
    reading.slope_CV.copy_(reading.wide_CV)
    return both_C


def on_triton(plan: Plan, device: torch.device) -> bool:
    """Return whether the kernels of `triton.py` are used: see `backend.on_triton`; never beside a reference model."""
    return plan.pull is None and backend.on_triton(plan.compute_dtype, device)


def _triton_reader(head_VH: Tensor, bias_V: Tensor | None, plan: Plan, wants_gradient: bool) -> Reader:
    from rankray.loss.triton import chunk_pass

    rows = min(plan.chunk_tokens, len(plan.row_T))
    stride = -(-len(head_VH) // ALIGNED) * ALIGNED
    product_CV = torch.empty(rows, stride, dtype=plan.compute_dtype, device=head_VH.device)[:, : len(head_VH)]

    def read(row_C: Tensor, hidden_CH: Tensor, label_C: Tensor) -> _Reading:
        mine_CV = product_CV[: len(label_C)]
        _form_products(mine_CV, hidden_CH, head_VH, bias_V)
        stats, correct_C = chunk_pass(
            mine_CV,
            label_C,
            plan.wanted,
            scale=plan.logit_scale,
            softcap=plan.logit_softcap,
            exact_ranks=plan.exact_ranks,
            wants_gradient=wants_gradient,
        )
        return _Reading(stats, correct_C, mine_CV, None)

    return read


def _torch_reader(head_VH: Tensor, bias_V: Tensor | None, plan: Plan, wants_gradient: bool) -> Reader:
    buffers = _Buffers.of(plan, head_VH)
    read_chunk = ChunkReader(buffers.logits_CV, plan.wanted, plan.exact_ranks, plan.is_half)
    reference = None if plan.pull is None else _reference_head(plan, head_VH, bias_V)

    def read(row_C: Tensor, hidden_CH: Tensor, label_C: Tensor) -> _Reading:
        mine, label_C1 = buffers.head(len(label_C)), label_C.unsqueeze(1)
        if mine.reference_CV is not None and plan.pull is not None and reference is not None:
            theirs_CH = plan.pull.anchor.hidden_NH.index_select(0, row_C).to(plan.compute_dtype)
            _form_scaled(mine, theirs_CH, *reference, plan)
            _cap(mine, plan)
            mine.reference_CV.copy_(mine.logits_CV)
        _form_scaled(mine, hidden_CH, head_VH, bias_V, plan)
        order = None if mine.slope_CV is None else _order(mine.logits_CV, label_C, mine.slope_CV)
        _cap(mine, plan)
        if mine.kept_CV is not None:
            mine.kept_CV.copy_(mine.logits_CV)
        stats, correct_C = read_chunk(mine.logits_CV, label_C)
        if order is not None:
            rank_C, correct_C = order
            stats = stats.replaced(rank_N=rank_C) if "rank_N" in plan.wanted else stats
        slope_CV, kl_C = mine.logits_CV, None
        if plan.pull is not None and mine.kept_CV is not None and mine.reference_CV is not None:
            kl_C = divergence(plan.pull.direction, mine.kept_CV, slope_CV, mine.reference_CV)
        if not wants_gradient:
            return _Reading(stats, correct_C, slope_CV, slope_CV, kl_C)
        slope_CV.scatter_add_(1, label_C1, torch.full_like(label_C1, -1, dtype=slope_CV.dtype))
        if mine.slope_CV is not None:
            slope_CV.mul_(mine.slope_CV)
            if mine.reference_CV is not None:
                mine.reference_CV.mul_(mine.slope_CV)
        narrow_CV = slope_CV if mine.narrow_CV is None else mine.narrow_CV.copy_(slope_CV)
        return _Reading(stats, correct_C, narrow_CV, slope_CV, kl_C, mine.reference_CV)

    return read


def _reference_head(plan: Plan, head_VH: Tensor, bias_V: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return the reference's head and bias in the dtype of the products; where it is the model's own, no copy."""
    assert plan.pull is not None
    _, theirs_VH, theirs_V = plan.pull.anchor
    same = theirs_VH.shape == head_VH.shape and theirs_VH.data_ptr() == head_VH.data_ptr()
    return (
        head_VH if same else theirs_VH.to(plan.compute_dtype),
        None if theirs_V is None else theirs_V.to(plan.compute_dtype),
    )


def _form_products(product_CV: Tensor, hidden_CH: Tensor, head_VH: Tensor, bias_V: Tensor | None) -> None:
    """hidden @ head^T + bias into `product_CV`."""
    if bias_V is None:
        torch.mm(hidden_CH, head_VH.t(), out=product_CV)
    else:
        torch.addmm(bias_V, hidden_CH, head_VH.t(), out=product_CV)


def _form_scaled(buffers: _Buffers, hidden_CH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan) -> None:
    """scale * (hidden @ head^T + bias) into `buffers.logits_CV`: the logits, but for a softcap."""
    product_CV = buffers.logits_CV if buffers.narrow_CV is None else buffers.narrow_CV
    _form_products(product_CV, hidden_CH, head_VH, bias_V)
    if buffers.narrow_CV is not None:
        buffers.logits_CV.copy_(buffers.narrow_CV)
    if plan.logit_scale != 1.0:
        buffers.logits_CV.mul_(plan.logit_scale)


def _order(scaled_CV: Tensor, label_C: Tensor, scratch_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Return rank and greedy choice before the softcap, which keeps the order: a rounded tanh would make ties."""
    rank_C = row_sums(torch.ge(scaled_CV, scaled_CV.gather(1, label_C.unsqueeze(1)), out=scratch_CV)).clamp_(min=1)
    if scaled_CV.device.type == "cpu":
        return rank_C, torch.from_numpy(scaled_CV.numpy().argmax(-1)) == label_C
    return rank_C, scaled_CV.argmax(-1) == label_C


def _cap(buffers: _Buffers, plan: Plan) -> None:
    """softcap(logits) in place in `buffers.logits_CV`, and the softcap's slope beside it."""
    if buffers.slope_CV is not None:
        assert plan.logit_softcap is not None
        buffers.logits_CV.div_(plan.logit_softcap).tanh_()
        torch.mul(buffers.logits_CV, buffers.logits_CV, out=buffers.slope_CV).neg_().add_(1.0)
        buffers.logits_CV.mul_(plan.logit_softcap)


def _nothing(hidden_NH: Tensor, plan: Plan, gradients: Gradients) -> PassResult:
    none_T = torch.empty(0, dtype=stats_dtype(plan.compute_dtype), device=hidden_NH.device)
    zero = torch.zeros((), dtype=none_T.dtype, device=hidden_NH.device)
    gradients.pending_scale = 1.0
    stats = TokenStats(*[none_T] * 7)
    return PassResult(stats, none_T, none_T.bool(), zero, gradients)


@dataclass
class Slot:
    """Where `FusedLoss` puts what autograd does not return."""

    result: PassResult | None = field(default=None)


class FusedLoss(torch.autograd.Function):
    """The loss of `fused_pass` for autograd: forward computes the gradients, backward scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan, slot: Slot) -> Tensor:
        """Return the loss, put everything else into `slot`, and save the gradients."""
        result = fused_pass(hidden_NH, head_VH, bias_V, plan, tuple(ctx.needs_input_grad[:3]))
        gradients = result.gradients
        ctx.save_for_backward(gradients.hidden_NH, gradients.head_VH, gradients.bias_V)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden_NH, head_VH, bias_V)]
        ctx.pending_scale = gradients.pending_scale
        slot.result = result
        result.gradients = Gradients(None, None, None)
        return result.loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients; nothing is recomputed."""
        factor = grad_output * ctx.pending_scale
        is_one = factor.device.type == "cpu" and factor.item() == 1.0
        scaled = [
            gradient if gradient is None else (gradient.to(dtype) if is_one else scaled_to(dtype, gradient, factor))
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)
