"""The gradients of a fused pass: accumulators, and how a chunk adds its share.

Shapes: N tokens, V vocabulary, H hidden, C tokens of one chunk; a trailing 1 is a kept dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankray.loss.backend import wide_product_problem

TILE_ELEMENTS = 2**23
"""Elements of a gradient that are brought from one precision to another at a time."""


@dataclass
class Gradients:
    """Accumulators, float32 (float64 for float64), None where not wanted.

    `pending_scale` is the factor that must still be applied: 1 in full precision. In half precision it is
    1 / num_items, applied only after the sums are complete, so that small gradients do not underflow before.
    """

    hidden_NH: Tensor | None
    head_VH: Tensor | None
    bias_V: Tensor | None
    pending_scale: float | Tensor = 1.0

    @classmethod
    def empty(cls, hidden_NH: Tensor, head_VH: Tensor, wants: tuple[bool, bool, bool], dtype: torch.dtype) -> Gradients:
        """Return zeros for those of hidden, head and bias whose gradient is wanted."""
        shapes = (hidden_NH.shape, head_VH.shape, head_VH.shape[:1])
        hidden, head, bias = (
            torch.zeros(shape, dtype=dtype, device=head_VH.device) if want else None
            for shape, want in zip(shapes, wants, strict=True)
        )
        return cls(hidden, head, bias)

    def add(
        self,
        row_C: Tensor,
        hidden_CH: Tensor,
        head_VH: Tensor,
        factor_C: Tensor,
        slope_CV: Tensor,
        wide_CV: Tensor | None,
    ) -> None:
        """Add one chunk's share.

        Args:
            row_C: positions of the chunk's tokens in the batch.
            hidden_CH: their hidden states, in the dtype of the products.
            head_VH: the head, in the same dtype.
            factor_C: factor of a token's gradient: weight, logit scale and, except in half precision, 1 / num_items.
            slope_CV: gradient of a token's NLL with respect to its scaled product, in the dtype of the products.
            wide_CV: the same before it was narrowed to that dtype, where it exists.
        """
        factor_C1 = factor_C.unsqueeze(1)
        if self.bias_V is not None and wide_CV is not None:
            self.bias_V.addmv_(wide_CV.t(), factor_C)
        elif self.bias_V is not None:
            for some_BV, factor_B in zip(torch.split(slope_CV, 32), torch.split(factor_C, 32), strict=True):
                self.bias_V.addmv_(some_BV.to(factor_C.dtype).t(), factor_B)
        if self.hidden_NH is not None:
            product_CH = torch.mm(slope_CV, head_VH).to(factor_C.dtype)
            self.hidden_NH.index_copy_(0, row_C, product_CH.mul_(factor_C1))
        if self.head_VH is not None:
            weighted_CH, unit = narrowed(hidden_CH * factor_C1, slope_CV.dtype)
            add_product(self.head_VH, slope_CV.t(), weighted_CH, unit)


def narrowed(wide_CH: Tensor, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Return `wide_CH / unit` in the dtype of the products, and the unit: 1, but in float16 a power of two.

    float16 ends at 65,504 and at 6e-8, and weights are beyond: those of a low temperature, or of the data. The unit is
    such that not even a sum of all rows, each times a number from -1 to 1, overflows. A GPU is waited for in float16.
    """
    if dtype != torch.float16 or not wide_CH.numel():
        return wide_CH.to(dtype), 1.0
    largest = float(wide_CH.abs().amax())
    if not 0.0 < largest < math.inf:
        return wide_CH.to(dtype), 1.0
    room = 15 - (len(wide_CH) - 1).bit_length()
    unit = 2.0 ** max(math.frexp(largest)[1] - room, -100)
    return (wide_CH / unit).to(dtype), unit


def add_product(sum_VH: Tensor, left_VC: Tensor, right_CH: Tensor, unit: float = 1.0) -> None:
    """`sum_VH += unit * left_VC @ right_CH`, in place; on a GPU without rounding a 16-bit product in between."""
    if sum_VH.dtype == left_VC.dtype:
        sum_VH.addmm_(left_VC, right_CH, alpha=unit)
    elif sum_VH.device.type == "cuda" and not wide_product_problem(sum_VH.device, left_VC.dtype):
        torch.addmm(sum_VH, left_VC, right_CH, out_dtype=sum_VH.dtype, alpha=unit, out=sum_VH)
    else:
        for sum_BH, left_BC in zip(_tiles(sum_VH), torch.split(left_VC, _tile_rows(sum_VH)), strict=True):
            sum_BH.add_(torch.mm(left_BC, right_CH), alpha=unit)


def scaled_to(dtype: torch.dtype, sum_MH: Tensor, factor: Tensor) -> Tensor:
    """Return `factor * sum_MH` in another dtype: multiplied in the sum's own, and rounded once.

    Beside the result it takes the memory of some rows only. In 16 bits a whole product would be twice the result.
    """
    result = torch.empty_like(sum_MH, dtype=dtype)
    for sum_BH, result_BH in zip(_tiles(sum_MH), _tiles(result), strict=True):
        torch.mul(sum_BH, factor, out=result_BH)
    return result


def _tiles(tensor_MH: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.split(tensor_MH, _tile_rows(tensor_MH)))


def _tile_rows(tensor_MH: Tensor) -> int:
    return max(1, TILE_ELEMENTS // max(1, tensor_MH[:1].numel()))
