"""What is refused before the loss is computed: shapes that do not fit, options that cannot be."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from rankray.errors import LossError
from rankray.loss.tokens import IGNORED

SMALLEST, LARGEST = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
"""Between them a softcap is a number in float32, too; beyond, it would be 0 or infinite, and every loss NaN."""


def check_shapes(
    hidden_NH: Tensor,
    head_VH: Tensor,
    label_N: Tensor,
    bias_V: Tensor | None,
    sequence_N: Tensor | None = None,
    given_N: Tensor | None = None,
) -> None:
    """Refuse tensors that do not belong together.

    Raises:
        LossError: names all shapes.
    """
    fits = hidden_NH.dim() == 2 and head_VH.dim() == 2 and hidden_NH.shape[1] == head_VH.shape[1]
    fits = fits and label_N.shape == hidden_NH.shape[:1]
    fits = fits and (bias_V is None or bias_V.shape == head_VH.shape[:1])
    fits = fits and all(each is None or each.shape == label_N.shape for each in (sequence_N, given_N))
    if not fits:
        others = {"bias": bias_V, "sequence": sequence_N, "token_weight": given_N}
        more = "".join(f", {name} {tuple(each.shape)}" for name, each in others.items() if each is not None)
        raise LossError(
            f"weighted_nll: hidden {tuple(hidden_NH.shape)}, head {tuple(head_VH.shape)}, label"
            f" {tuple(label_N.shape)}{more}; allowed are (N, H), (V, H), (N,), bias (V,), sequence and token_weight"
            " (N,); flatten batch and time, and shift the labels, before the call"
        )
    if not (hidden_NH.is_floating_point() and head_VH.is_floating_point()):
        raise LossError(
            f"weighted_nll: hidden of {hidden_NH.dtype}, head of {head_VH.dtype}; allowed: floating-point numbers; give"
            " the hidden states that the head takes, and its weight"
        )
    check_integers("weighted_nll: label_N", label_N, "the tokens to predict, -100 for those to ignore")
    if given_N is not None and given_N.device.type == "cpu":
        own_T = given_N[label_N.cpu() != IGNORED]
        wrong_T = own_T[~((own_T >= 0) & (own_T < math.inf))]
        if len(wrong_T):
            raise LossError(
                f"weighted_nll: token_weight_N with {float(wrong_T[0]):g}; allowed: finite numbers >= 0; correct the"
                " weights"
            )


def check_integers(where: str, token_N: Tensor, what: str) -> None:
    """Refuse tokens that are no integers.

    Raises:
        LossError: names their dtype.
    """
    if token_N.is_floating_point() or token_N.dtype == torch.bool:
        raise LossError(f"{where} of {token_N.dtype}; allowed: integers, {what}; give token ids")


def _is_at_hand(number: int | float | Tensor) -> bool:
    """Whether a number can be looked at without waiting for a device."""
    return not isinstance(number, Tensor) or number.device.type == "cpu"


def _is_number(given: object, kind: type = Real) -> bool:
    """Whether it is one number, alone or in a tensor; a truth is none."""
    if isinstance(given, Tensor):
        return kind is Real and given.numel() == 1
    return isinstance(given, kind) and not isinstance(given, bool)


def check_options(
    num_items: int | float | Tensor | None, chunk_size: int | None, logit_scale: float, logit_softcap: float | None
) -> None:
    """Refuse options with which there is no loss; a number on a device is not looked at, which would wait for it.

    Raises:
        LossError: names the option.
    """
    where, given, allowed = "", num_items, ""
    if num_items is not None and not _is_number(num_items):
        where, allowed = "num_items", "a number or a 0-d tensor"
    elif num_items is not None and _is_at_hand(num_items) and not 0 < num_items < math.inf:
        where, allowed = "num_items", "a number > 0, and finite, or None for the tokens given"
    elif chunk_size is not None and (not _is_number(chunk_size, Integral) or chunk_size < 1):
        where, given, allowed = "chunk_size", chunk_size, "an integer >= 1, or None to let it be chosen"
    elif logit_softcap is not None and not (_is_number(logit_softcap) and SMALLEST <= logit_softcap <= LARGEST):
        where, given, allowed = "logit_softcap", logit_softcap, f"from {SMALLEST:.2g} to {LARGEST:.2g}, or None"
    elif not (_is_number(logit_scale) and abs(logit_scale) <= LARGEST):
        where, given, allowed = "logit_scale", logit_scale, f"from {-LARGEST:.2g} to {LARGEST:.2g}"
    if where:
        shown = repr(given)
        if isinstance(given, Tensor) and given.numel() != 1:
            shown = f"a tensor of shape {tuple(given.shape)}"
        raise LossError(f"weighted_nll: {where} = {shown}; allowed is {allowed}; correct {where}")
