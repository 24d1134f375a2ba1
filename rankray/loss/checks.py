"""What is refused before the loss is computed: shapes that do not fit, options that cannot be."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from rankray.errors import LossError
from rankray.loss.tokens import IGNORED


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
    if label_N.is_floating_point() or label_N.dtype == torch.bool:
        raise LossError(
            f"weighted_nll: label_N of {label_N.dtype}; allowed: integers, the tokens to predict, -100 for those to"
            " ignore; give token ids"
        )
    if (
        given_N is not None
        and given_N.device.type == "cpu"
        and bool(((given_N < 0) & (label_N.cpu() != IGNORED)).any())
    ):
        raise LossError(
            f"weighted_nll: token_weight_N with {float(given_N.min()):g}; allowed: numbers >= 0; correct the weights"
        )


def _is_at_hand(number: int | float | Tensor) -> bool:
    """Whether a number can be looked at without waiting for a device."""
    return not isinstance(number, Tensor) or number.device.type == "cpu"


def check_options(
    num_items: int | float | Tensor | None, chunk_size: int | None, logit_scale: float, logit_softcap: float | None
) -> None:
    """Refuse options with which there is no loss; a number on a device is not looked at, which would wait for it.

    Raises:
        LossError: names the option.
    """
    where, given, allowed = "", "", ""
    if num_items is not None and not isinstance(num_items, Real | Tensor):
        where, given, allowed = "num_items", f"{num_items!r}", "a number or a 0-d tensor"
    elif isinstance(num_items, Tensor) and num_items.numel() != 1:
        where, given, allowed = "num_items", f"a tensor of shape {tuple(num_items.shape)}", "a number or a 0-d tensor"
    elif num_items is not None and _is_at_hand(num_items) and not num_items > 0:
        where, given, allowed = "num_items", f"{num_items!r}", "a number > 0, or None for the tokens given"
    elif chunk_size is not None and (not isinstance(chunk_size, Integral) or chunk_size < 1):
        where, given, allowed = "chunk_size", f"{chunk_size!r}", "an integer >= 1, or None to let it be chosen"
    elif logit_softcap is not None and not (isinstance(logit_softcap, Real | Tensor) and logit_softcap > 0):
        where, given, allowed = "logit_softcap", f"{logit_softcap!r}", "a number > 0, or None"
    elif not isinstance(logit_scale, Real | Tensor) or not abs(logit_scale) < float("inf"):
        where, given, allowed = "logit_scale", f"{logit_scale!r}", "a finite number"
    if where:
        raise LossError(f"weighted_nll: {where} = {given}; allowed is {allowed}; correct {where}")
