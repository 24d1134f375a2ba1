"""One pass over the tokens that yields loss, statistics and gradients together, a chunk of logits at a time.

Shapes: N tokens, T supervised tokens, V vocabulary, H hidden, C tokens of one chunk; a trailing 1 is a kept dimension.

Weights are stop-gradient, so the gradient with respect to the logits is known as soon as the logits are:
`weight * (softmax - onehot)`. Each chunk therefore forms its logits once, takes statistics, weight and gradient from
them and lets them go; backward only multiplies by the gradient of the output. Live at any time: two (C, V) buffers
(a third with a softcap, a narrow one for half precision) and, where the head is trained, its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rankray.loss.stats import TokenStats, cat_stats, chunk_stats, stats_dtype


@dataclass(frozen=True)
class Plan:
    """What to compute, settled before the first chunk."""

    row_T: Tensor
    """Where the supervised tokens stand in the batch."""
    label_T: Tensor
    inverse_items: float | Tensor
    """1 / (number of supervised tokens in the global batch)."""
    wanted: frozenset[str]
    """Statistics that the weight looks at."""
    weigh: Callable[[TokenStats], Tensor]
    chunk_tokens: int
    compute_dtype: torch.dtype
    """What the matrix products run in."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    @property
    def is_half(self) -> bool:
        """Whether the products run in 16 bits."""
        return self.compute_dtype in (torch.float16, torch.bfloat16)


@dataclass
class Outcome:
    """What a pass leaves behind for the supervised tokens, all detached."""

    stats: TokenStats
    weight_T: Tensor
    correct_T: Tensor
    loss: Tensor
    gradients: Gradients


@dataclass
class Gradients:
    """Accumulators, float32 (float64 for float64), None where not wanted; `rest` is the factor still to be applied.

    In full precision `rest` is 1. In half precision 1 / num_items waits until the sums are done, so that small
    gradients do not underflow on the way.
    """

    hidden_NH: Tensor | None
    head_VH: Tensor | None
    bias_V: Tensor | None
    rest: float | Tensor = 1.0

    def add(self, chunk: _Chunk, prob_CV: Tensor, weight_C: Tensor, plan: Plan) -> None:
        """Add one chunk's share; overwrites `prob_CV`, the softmax of the chunk."""
        prob_CV.scatter_add_(1, chunk.label_C1, torch.full_like(chunk.label_C1, -1, dtype=prob_CV.dtype))
        if chunk.slope_CV is not None:
            prob_CV.mul_(chunk.slope_CV)
        factor_C1 = (weight_C * plan.logit_scale).unsqueeze(1)
        if not plan.is_half:
            factor_C1 = factor_C1 * plan.inverse_items
        if self.bias_V is not None:
            self.bias_V.addmv_(prob_CV.t(), factor_C1.squeeze(1))
        slope_CV = prob_CV if chunk.narrow_CV is None else chunk.narrow_CV.copy_(prob_CV)
        if self.hidden_NH is not None:
            product_CH = torch.mm(slope_CV, chunk.head_VH).to(factor_C1.dtype)
            self.hidden_NH.index_copy_(0, chunk.row_C, product_CH.mul_(factor_C1))
        if self.head_VH is not None:
            weighted_CH = (chunk.hidden_CH * factor_C1).to(slope_CV.dtype)
            if chunk.narrow_CV is None:
                self.head_VH.addmm_(slope_CV.t(), weighted_CH)
            else:
                self.head_VH.add_(torch.mm(slope_CV.t(), weighted_CH))


@dataclass
class _Chunk:
    """The inputs of one chunk, and what its gradient needs beside the softmax."""

    row_C: Tensor
    label_C1: Tensor
    hidden_CH: Tensor
    head_VH: Tensor
    narrow_CV: Tensor | None
    slope_CV: Tensor | None


@dataclass
class _Buffers:
    """The (C, V) memory, allocated once and reused by every chunk."""

    logits_CV: Tensor
    prob_CV: Tensor
    narrow_CV: Tensor | None
    slope_CV: Tensor | None

    @classmethod
    def of(cls, plan: Plan, head_VH: Tensor) -> _Buffers:
        shape = (min(plan.chunk_tokens, len(plan.row_T)), len(head_VH))
        wide = torch.empty(shape, dtype=stats_dtype(plan.compute_dtype), device=head_VH.device)
        return cls(
            logits_CV=wide,
            prob_CV=torch.empty_like(wide),
            narrow_CV=torch.empty_like(wide, dtype=plan.compute_dtype) if plan.is_half else None,
            slope_CV=None if plan.logit_softcap is None else torch.empty_like(wide),
        )

    def head(self, rows: int) -> _Buffers:
        """The first `rows` rows of each."""
        narrow_CV = None if self.narrow_CV is None else self.narrow_CV[:rows]
        slope_CV = None if self.slope_CV is None else self.slope_CV[:rows]
        return _Buffers(self.logits_CV[:rows], self.prob_CV[:rows], narrow_CV, slope_CV)


@torch.no_grad()
def fused_pass(
    hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan, wants: tuple[bool, bool, bool]
) -> Outcome:
    """Loss, statistics, weights and the wanted gradients (hidden, head, bias) of the supervised tokens."""
    with torch.autocast(hidden_NH.device.type, enabled=False):
        gradients = _empty_gradients(hidden_NH, head_VH, plan, wants)
        if not len(plan.row_T):
            return _nothing(hidden_NH, plan, gradients)
        compute_VH = head_VH.to(plan.compute_dtype)
        compute_V = None if bias_V is None else bias_V.to(plan.compute_dtype)
        buffers = _Buffers.of(plan, compute_VH)
        parts, weights, corrects = [], [], []
        for row_C, label_C in zip(
            plan.row_T.split(plan.chunk_tokens), plan.label_T.split(plan.chunk_tokens), strict=True
        ):
            mine = buffers.head(len(row_C))
            hidden_CH = hidden_NH.index_select(0, row_C).to(plan.compute_dtype)
            _form_logits(mine, hidden_CH, compute_VH, compute_V, plan)
            stats, correct_C = chunk_stats(mine.logits_CV, label_C, mine.prob_CV, plan.wanted)
            weight_C = plan.weigh(stats)
            if any(wants):
                chunk = _Chunk(row_C, label_C.unsqueeze(1), hidden_CH, compute_VH, mine.narrow_CV, mine.slope_CV)
                gradients.add(chunk, mine.prob_CV, weight_C, plan)
            parts.append(stats)
            weights.append(weight_C)
            corrects.append(correct_C)
    stats, weight_T = cat_stats(parts), torch.cat(weights)
    loss = -(weight_T * stats.log_prob_N).sum() * plan.inverse_items
    return Outcome(stats, weight_T, torch.cat(corrects), loss.to(weight_T.dtype), gradients)


def _form_logits(buffers: _Buffers, hidden_CH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan) -> None:
    """softcap(scale * (hidden @ head^T + bias)) into `buffers.logits_CV`, and the softcap's slope beside it."""
    product_CV = buffers.logits_CV if buffers.narrow_CV is None else buffers.narrow_CV
    if bias_V is None:
        torch.mm(hidden_CH, head_VH.t(), out=product_CV)
    else:
        torch.addmm(bias_V, hidden_CH, head_VH.t(), out=product_CV)
    if buffers.narrow_CV is not None:
        buffers.logits_CV.copy_(buffers.narrow_CV)
    if plan.logit_scale != 1.0:
        buffers.logits_CV.mul_(plan.logit_scale)
    if buffers.slope_CV is not None:
        assert plan.logit_softcap is not None
        buffers.logits_CV.div_(plan.logit_softcap).tanh_()
        torch.mul(buffers.logits_CV, buffers.logits_CV, out=buffers.slope_CV).neg_().add_(1.0)
        buffers.logits_CV.mul_(plan.logit_softcap)


def _empty_gradients(hidden_NH: Tensor, head_VH: Tensor, plan: Plan, wants: tuple[bool, bool, bool]) -> Gradients:
    dtype = stats_dtype(plan.compute_dtype)
    shapes = (hidden_NH.shape, head_VH.shape, head_VH.shape[:1])
    hidden, head, bias = (
        torch.zeros(shape, dtype=dtype, device=head_VH.device) if want else None
        for shape, want in zip(shapes, wants, strict=True)
    )
    return Gradients(hidden, head, bias, plan.inverse_items if plan.is_half else 1.0)


def _nothing(hidden_NH: Tensor, plan: Plan, gradients: Gradients) -> Outcome:
    none_T = torch.empty(0, dtype=stats_dtype(plan.compute_dtype), device=hidden_NH.device)
    zero = torch.zeros((), dtype=none_T.dtype, device=hidden_NH.device)
    gradients.rest = 1.0
    stats = TokenStats(none_T, none_T, none_T, none_T, none_T)
    return Outcome(stats, none_T, none_T.bool(), zero, gradients)


@dataclass
class Slot:
    """Where `FusedLoss` leaves what autograd does not carry."""

    outcome: Outcome | None = field(default=None)


class FusedLoss(torch.autograd.Function):
    """The loss of `fused_pass` for autograd: gradients are made in forward, backward scales them."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, bias_V: Tensor | None, plan: Plan, slot: Slot) -> Tensor:
        """Return the loss, leave the rest in `slot`, and save the gradients."""
        outcome = fused_pass(hidden_NH, head_VH, bias_V, plan, tuple(ctx.needs_input_grad[:3]))
        gradients = outcome.gradients
        ctx.save_for_backward(gradients.hidden_NH, gradients.head_VH, gradients.bias_V)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden_NH, head_VH, bias_V)]
        ctx.rest = gradients.rest
        slot.outcome = outcome
        outcome.gradients = Gradients(None, None, None)
        return outcome.loss

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the saved gradients; nothing is recomputed."""
        factor = grad_output * ctx.rest
        is_one = factor.device.type == "cpu" and factor.item() == 1.0
        scaled = [
            None if gradient is None else (gradient if is_one else gradient * factor).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)
