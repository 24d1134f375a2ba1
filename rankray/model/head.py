"""From a causal language model to what the fused losses need: hidden states, head and labels, never the logits.

Shapes: B sequences, T positions, N supervised tokens, H hidden, V vocabulary.

`attach_head(model)` gives the model's forward one more argument: `model(**inputs, labels=labels, head=fn)` runs the
model's backbone and returns `fn(HeadInputs)`. This happens inside the model's own forward, so what wraps a forward
(LoRA, DDP, FSDP, autocast) keeps working. Without `head` the forward is unchanged.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from rankray.errors import ModelError
from rankray.loss import LossStats, plain_stats, plain_tokens
from rankray.loss.chunked import whole
from rankray.loss.tokens import IGNORED


@dataclass(frozen=True, eq=False)
class LogitHead:
    """How a model makes logits: `softcap * tanh((hidden @ weight.T + bias) * scale / softcap)`."""

    weight_VH: Tensor
    bias_V: Tensor | None
    scale: float
    softcap: float | None

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the weight, as keyword arguments of the fused losses."""
        return {"bias_V": self.bias_V, "logit_scale": self.scale, "logit_softcap": self.softcap}


@dataclass(frozen=True, eq=False)
class HeadInputs:
    """What a fused loss takes, for supervised positions only; `sequence_N` says which sequence each belongs to."""

    hidden_NH: Tensor
    label_N: Tensor
    sequence_N: Tensor
    head: LogitHead
    router_loss: Tensor | None = None
    """The load-balancing loss of a mixture of experts, 0-d; only in training, where its configuration asks for it."""


_MARK = "_rankray_head"
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""What configurations call the softcap: Gemma 2, RecurrentGemma, xLSTM."""
HeadFunction = Callable[[HeadInputs], Any]


def logit_head(model: PreTrainedModel) -> LogitHead:
    """Return a model's LM head with the scale and softcap that its configuration gives.

    Known: the `SOFTCAPS`, `logit_scale` (Cohere), `logits_scaling` (Granite, a divisor), `lm_head_multiplier`
    (Falcon-H1), `output_multiplier`. `check_head` detects a model that does anything else.

    Raises:
        ModelError: the model has no linear LM head.
    """
    layer = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight_VH = getattr(layer, "weight", None)
    if weight_VH is None or weight_VH.dim() != 2:
        raise ModelError(
            f"model.path: {type(model).__name__} has no linear LM head; allowed are causal language models with one; "
            "choose another model"
        )
    text = model.config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling"):
        value = getattr(text, name, None)
        if isinstance(value, int | float):
            divides = name == "logits_scaling" and text.model_type != "hyperclovax"
            scale = 1.0 / value if divides else float(value)
            break
    softcaps = (getattr(text, name, None) for name in SOFTCAPS)
    return LogitHead(weight_VH, getattr(layer, "bias", None), scale, next(filter(None, softcaps), None))


def attach_head(model: PreTrainedModel) -> None:
    """Give a model's forward the argument `head`, once: a second time would undo what has wrapped the forward since."""
    if getattr(model, _MARK, False):
        return
    setattr(model, _MARK, True)
    plain_forward = type(model).forward

    @functools.wraps(plain_forward)
    def forward(self: Any, *args: Any, head: HeadFunction | None = None, **kwargs: Any) -> Any:
        if head is None:
            return plain_forward(self, *args, **kwargs)
        labels_BT = kwargs.pop("labels")
        sequence_BT = sequences(labels_BT, kwargs)
        kwargs["use_cache"] = False
        wants_router = self.training and getattr(self.config.get_text_config(), "output_router_logits", False)
        if wants_router:
            kwargs["output_router_logits"] = True
        found = backbone(self)(*args, **kwargs)
        given = gather(found.last_hidden_state, labels_BT, sequence_BT, logit_head(self))
        if wants_router:
            loss = _router_loss(self.config.get_text_config(), found.router_logits, kwargs.get("attention_mask"))
            given = replace(given, router_loss=loss)
        return head(with_adapters(given, self.get_output_embeddings()))

    model.forward = types.MethodType(forward, model)


def _router_loss(text_config: Any, router_logits: Any, attention_mask: Tensor | None) -> Tensor:
    """Return the load-balancing loss over all tokens of a batch, as transformers' own models and TRL compute it.

    Mixtral's function is what every mixture of experts in transformers uses. Without a mask (padding-free batches)
    every token counts.
    """
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    names = [name for name in ("num_experts", "num_local_experts") if hasattr(text_config, name)]
    experts, chosen = getattr(text_config, names[0]), text_config.num_experts_per_tok
    loss: Any = load_balancing_loss_func(router_logits, experts, chosen, attention_mask)
    return cast(Tensor, loss)


def sequences(labels_BT: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Return which sequence each position of a batch belongs to, numbered from 0.

    Args:
        labels_BT: the batch's labels.
        given: its other tensors. Packed rows have `seq_idx`, with TRL 1.10 `position_ids` alone, which begin at 0
            with each sequence; without either, each row is one sequence.
    """
    seq_idx, position_BT = given.get("seq_idx"), given.get("position_ids")
    if seq_idx is not None:
        return cast(Tensor, seq_idx)
    row_BT = torch.arange(len(labels_BT), device=labels_BT.device)[:, None].expand_as(labels_BT)
    if position_BT is None or position_BT.shape != labels_BT.shape:
        return row_BT
    starts_BT: Tensor = position_BT == 0
    starts_BT[:, 0] = True
    return starts_BT.flatten().cumsum(0).view_as(starts_BT) - 1


def gather(hidden_BTH: Tensor, labels_BT: Tensor, sequence_BT: Tensor, head: LogitHead) -> HeadInputs:
    """Shift by one, keep the supervised positions and flatten.

    Args:
        hidden_BTH: the backbone's last hidden state.
        labels_BT: token ids, -100 at unsupervised positions; the label at t is predicted from the state at t - 1.
        sequence_BT: which sequence a position belongs to.
        head: the model's head.
    """
    label_BT = labels_BT[:, 1:]
    mask_BT = label_BT != IGNORED
    return HeadInputs(
        hidden_NH=hidden_BTH[:, :-1][mask_BT],
        label_N=label_BT[mask_BT],
        sequence_N=sequence_BT[:, 1:][mask_BT],
        head=head,
    )


def with_adapters(given: HeadInputs, layer: Any) -> HeadInputs:
    """Widen hidden states and head by a LoRA head's low-rank terms, so that their product includes them.

    hidden @ W^T + s * dropout(hidden) @ A^T @ B^T is [hidden, s * dropout(hidden) @ A^T] @ [W, B]^T. This copies the
    head, as W and B must be in one tensor. Without LoRA on the head the inputs are returned as given.

    Raises:
        ModelError: the head is wrapped in something other than plain LoRA.
    """
    if not hasattr(layer, "base_layer") or layer.disable_adapters or layer.merged:
        return given
    active = [name for name in layer.active_adapters if name in getattr(layer, "lora_A", {})]
    biased = any(layer.lora_B[name].bias is not None for name in active)
    if not hasattr(layer, "lora_A") or getattr(layer, "lora_variant", None) or biased:
        raise ModelError(
            f"model.lora: the LM head is a {type(layer).__name__} with a variant of LoRA that rankray does not know;"
            " allowed is plain LoRA; leave out dora and lora_bias, or the head"
        )
    low = [layer.lora_A[name](layer.lora_dropout[name](given.hidden_NH)) * layer.scaling[name] for name in active]
    weights = [whole(given.head.weight_VH), *(whole(layer.lora_B[name].weight) for name in active)]
    head = replace(given.head, weight_VH=torch.cat(weights, 1))
    return replace(given, hidden_NH=torch.cat([given.hidden_NH, *low], 1), head=head)


def plain_totals(given: HeadInputs) -> LossStats:
    """Head function: the plain sums over the supervised tokens."""
    return plain_stats(given.hidden_NH, given.head.weight_VH, given.label_N, **given.head.options)


def sequence_totals(given: HeadInputs, rows: int) -> Tensor:
    """Head function: of each of `rows` sequences the NLL in nats, the supervised tokens, and those ranked first.

    Returns:
        (rows, 3) in float64, on the CPU; of sequences without a supervised token all three are 0.
    """
    log_prob_N, is_first_N = plain_tokens(given.hidden_NH, given.head.weight_VH, given.label_N, **given.head.options)
    columns = (-log_prob_N.cpu().double(), torch.ones(len(log_prob_N)).double(), is_first_N.cpu().double())
    return torch.zeros(rows, 3).double().index_add_(0, given.sequence_N.cpu(), torch.stack(columns, 1))


def sequence_nlls(given: HeadInputs) -> list[float]:
    """Head function: the mean plain NLL of each sequence that has supervised tokens, in nats."""
    sequences, place_N = torch.unique(given.sequence_N, return_inverse=True)
    totals = sequence_totals(replace(given, sequence_N=place_N), len(sequences))
    found: list[float] = (totals[:, 0] / totals[:, 1]).tolist()
    return found


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compare the logits of three tokens with the model's own; costs one tiny forward.

    Raises:
        ModelError: they differ: the model transforms its logits in a way that `logit_head` does not know, and every
            loss would be wrong.
    """
    ids = torch.tensor([[1, 2, 3]], device=model.device)
    own_BTV = type(model).forward(model, input_ids=ids, use_cache=False).logits.float()
    head = logit_head(model)
    hidden_BTH = getattr(backbone(model)(input_ids=ids, use_cache=False), "last_hidden_state", None)
    if hidden_BTH is not None and hidden_BTH.shape[-1] == head.weight_VH.shape[1]:
        ours_BTV = torch.nn.functional.linear(hidden_BTH, head.weight_VH, head.bias_V).float() * head.scale
        if head.softcap:
            ours_BTV = head.softcap * torch.tanh(ours_BTV / head.softcap)
        tolerance = torch.finfo(model.dtype).eps ** 0.5 * own_BTV.abs().max().clamp(min=1.0)
        if bool((own_BTV - ours_BTV).abs().max() <= tolerance):
            return
    raise ModelError(
        f"model.path: {type(model).__name__} transforms its logits in a way rankray does not know; allowed are "
        "a linear head with a scale and a tanh softcap; choose another model"
    )


def backbone(model: Any) -> Any:
    """Return the part of a causal language model that makes hidden states.

    Of a text model that is a multimodal one's (Llama 4) transformers' `base_model` is the model itself.
    """
    own = model.base_model
    return getattr(model, "model", own) if own is model else own


def plain_model(model: Any) -> PreTrainedModel:
    """Return the transformers model inside a LoRA wrapper, or the model itself."""
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
