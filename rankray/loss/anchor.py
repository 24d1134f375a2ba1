"""The anchor: a penalty on how far the model's predictions are from a reference model's, beside any objective.

Shapes: N tokens, V vocabulary, H hidden, C tokens of one chunk; a trailing 1 is a kept dimension.

    loss = sum of w * (-ln p_t) / num_items + kl_weight * sum of KL / num_items

    forward  KL(ref || model) = sum of p_ref * (ln p_ref - ln p)     gradient of the logits: p - p_ref
    reverse  KL(model || ref) = sum of p * (ln p - ln p_ref)         gradient of the logits: p * (ln p - ln p_ref - KL)

The reference is frozen. Its logits are made chunk by chunk, like the model's, and never exist all at once. The
probabilities of a token below e^-10000 count as that.

Source: ASFT (the anchor); the gradients follow from the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rankray.loss.ranking import FAR_BELOW


class Anchor(NamedTuple):
    """What makes the reference model's logits; scale and softcap are the model's own.

    Attributes:
        hidden_NH: the input of the reference's head, row by row the same tokens as the model's.
        head_VH: the reference's head; with LoRA on other layers the same tensor as the model's.
        bias_V: the reference's bias.
    """

    hidden_NH: Tensor
    head_VH: Tensor
    bias_V: Tensor | None = None


@dataclass(frozen=True)
class Pull:
    """An anchor with its settings, as a pass needs it; `weight` is `loss.kl_weight`."""

    anchor: Anchor
    weight: float
    direction: Literal["forward", "reverse"]


def divergence(direction: str, logits_CV: Tensor, prob_CV: Tensor, reference_CV: Tensor) -> Tensor:
    """Return the KL divergence of each row in nats, and overwrite `reference_CV` with its gradient.

    Same values as `kl_div(log_p, log_ref, log_target=True, reduction="none").sum(-1)` for `forward` and
    `kl_div(log_ref, log_p, ...)` for `reverse`, with `log_p = log_softmax(logits_CV, -1)` and
    `log_ref = log_softmax(reference_CV, -1)`.

    Args:
        direction: `forward` or `reverse`.
        logits_CV: the model's logits; overwritten.
        prob_CV: their softmax; left as it is.
        reference_CV: the reference's logits; overwritten with the gradient with respect to the model's logits.
    """
    # Not the logits less their log-sum: that is rounded by its own size, a row's divergence by the same.
    torch.log_softmax(logits_CV, -1, out=logits_CV)
    log_prob_CV = logits_CV.clamp_(min=FAR_BELOW)
    torch.log_softmax(reference_CV, -1, out=reference_CV)
    log_reference_CV = reference_CV.clamp_(min=FAR_BELOW)
    if direction == "forward":
        difference_CV = log_prob_CV.neg_().add_(log_reference_CV)
        reference_prob_CV = log_reference_CV.exp_()
        kl_C: Tensor = torch.linalg.vecdot(reference_prob_CV, difference_CV)
        torch.sub(prob_CV, reference_prob_CV, out=reference_CV)
    else:
        difference_CV = log_prob_CV.sub_(log_reference_CV)
        kl_C = torch.linalg.vecdot(prob_CV, difference_CV)
        torch.mul(difference_CV.sub_(kl_C.unsqueeze(1)), prob_CV, out=reference_CV)
    return kl_C
