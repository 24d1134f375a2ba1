"""How large a model is in each part, from its config.json and the shapes of its weights.

Imports torch only where torch has saved them. `memory.py` estimates from it what training takes. The shapes come from
the headers of the saved weights, or from a model that was built without weights.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankray.model.files import weight_files

logger = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a weight -> its shape; a weight that two layers share is there once."""
TIMES_SAVED = {"gelu_new": 4, "gelu_fast": 4, "gelu_pytorch_tanh": 1, "quick_gelu": 2}
"""Activation -> tensors of the inner size that it saves for backward, where its product is saved by the next layer."""
RECURRENT = ("mamba", "ssm", "linear_attn", "conv1d.weight", "x_proj", "time_mix", "lru")


@dataclass(frozen=True)
class ModelShape:
    """A causal language model in numbers of weights and widths.

    Attributes:
        weights: all weights.
        linear: those of linear layers below the head.
        head: those of the output head, vocabulary times hidden.
        is_tied: whether head and embedding are one tensor.
        block: those of one transformer layer, the largest.
        matrices: (name, outputs and inputs) of every linear layer below the head.
        layers: transformer layers.
        hidden: width of the hidden states.
        inner: width of a layer's MLP, over all experts that a token passes.
        queries: heads times their width.
        keys: key and value heads times their width.
        heads: attention heads.
        vocabulary: rows of the head.
        dtype: that the weights were saved in, such as `bfloat16`.
        is_gated: whether the MLP multiplies by a gate.
        is_fused: attention's and MLP's inputs pass (one, one) matrix in place of (three, two).
        has_plain_norm: LayerNorm in place of RMSNorm.
        norms: norms of a layer over the hidden width.
        norms_heads: whether queries and keys are normalised too.
        saved_by_activation: tensors of the inner width that the activation saves.
        has_dropout: whether layers drop hidden values in training.
        drops_attention: whether attention drops weights in training, which a CPU does step by step.
        is_eager: whether the layers need all attention weights at once: they have a softcap.
        norms_in_float: whether the weights of norms multiply float32 values in a 16-bit model.
        unsure: why an estimate of its activations may be far off; empty where it is not.
    """

    weights: int
    linear: int
    head: int
    is_tied: bool
    block: int
    matrices: tuple[tuple[str, int, int], ...]
    layers: int
    hidden: int
    inner: int
    queries: int
    keys: int
    heads: int
    vocabulary: int
    dtype: str = "float32"
    is_gated: bool = True
    is_fused: tuple[bool, bool] = (False, False)
    has_plain_norm: bool = False
    norms: int = 2
    norms_heads: bool = False
    saved_by_activation: int = 1
    has_dropout: bool = False
    drops_attention: bool = False
    is_eager: bool = False
    norms_in_float: bool = False
    unsure: tuple[str, ...] = ()


def shape_of(tree: Mapping[str, Any], shapes: Shapes) -> ModelShape | None:
    """Return a model's shape, or None where config.json lacks what is needed.

    Args:
        tree: the model's config.json; a nested `text_config` stands for the whole.
        shapes: of all its weights.
    """
    nested = tree.get("text_config")
    text = {**tree, **nested} if isinstance(nested, Mapping) else dict(tree)

    def number(*names: str) -> int | None:
        found = next((text[name] for name in names if isinstance(text.get(name), int)), None)
        return None if isinstance(found, bool) else found

    hidden, layers = number("hidden_size", "n_embd", "d_model"), number("num_hidden_layers", "n_layer", "num_layers")
    heads, vocabulary = number("num_attention_heads", "n_head", "num_heads"), number("vocab_size")
    if not (hidden and layers and heads and vocabulary and shapes):
        return None
    width = number("head_dim") or hidden // heads
    inner = number("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden
    within = {name: shape for name, shape in shapes.items() if re.search(r"\.\d+\.", name)}
    matrices = tuple((name, shape[0], math.prod(shape[1:])) for name, shape in within.items() if _is_matrix(shape))
    head = next((name for name in shapes if name.endswith(("lm_head.weight", "embed_out.weight"))), None)
    of_block: dict[str, int] = {}
    for name, shape in within.items():
        number_of = re.search(r"\.(\d+)\.", name)
        key = number_of[1] if number_of else ""
        of_block[key] = of_block.get(key, 0) + math.prod(shape)
    experts = number("num_local_experts", "num_experts", "n_routed_experts")
    if experts:
        each = number("num_experts_per_tok") or 2
        inner = each * (number("moe_intermediate_size") or inner)
    names = " ".join(within)
    activation = str(text.get("hidden_act") or text.get("activation_function") or text.get("hidden_activation") or "")
    unsure = [*(["a mixture of experts"] if experts else [])]
    unsure += ["layers that are not attention"] if any(part in names for part in RECURRENT) else []
    norms = {name.split(".")[-2] for name in within if re.search(r"(norm|ln_\d|ln_attn|ln_mlp)[^.]*\.weight$", name)}
    on_heads = {name for name in norms if re.match(r"[qk]_(norm|layernorm)", name)}
    return ModelShape(
        weights=sum(math.prod(shape) for shape in shapes.values()),
        linear=sum(one * other for _, one, other in matrices),
        head=vocabulary * hidden,
        is_tied=head is None,
        block=max(of_block.values(), default=0),
        matrices=matrices,
        layers=layers,
        hidden=hidden,
        inner=inner,
        queries=heads * width,
        keys=(number("num_key_value_heads", "num_kv_heads") or heads) * width,
        heads=heads,
        vocabulary=vocabulary,
        dtype=str(text.get("dtype") or text.get("torch_dtype") or "float32").removeprefix("torch."),
        is_gated=any(part in names for part in ("gate_proj", "gate_up_proj", ".w3.")),
        is_fused=(not re.search(r"\.(q_proj|query)\.", names), "gate_up_proj" in names),
        has_plain_norm=bool(re.search(r"(norm|ln_\d)[^. ]*\.bias", names)),
        norms=max(1, len(norms - on_heads)),
        norms_heads=bool(on_heads),
        saved_by_activation=TIMES_SAVED.get(activation, 1),
        has_dropout=any(text.get(name) for name in ("resid_pdrop", "hidden_dropout", "dropout", "residual_dropout")),
        drops_attention=any(text.get(name) for name in ("attn_pdrop", "attention_dropout")),
        is_eager=bool(text.get("attn_logit_softcapping")),
        norms_in_float=str(text.get("model_type", "")).startswith(("gemma", "olmo", "cohere")),
        unsure=tuple(unsure),
    )


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and min(shape) > 1


def saved_shapes(directory: Path) -> Shapes | None:
    """Return the shapes of a model's saved weights; None where a file cannot be read or is missing.

    Only the headers are read, of what `torch.save` wrote before version 1.6 all.
    """
    found: dict[str, tuple[int, ...]] = {}
    try:
        for file in weight_files(directory):
            found |= shapes_in(file)
    except Exception as error:  # of the reader's own kind, or the system's
        logger.debug("%s: shapes of its weights cannot be read: %s", directory, error)
        return None
    return found or None


def shapes_in(file: Path) -> Shapes:
    """Return the shapes of the weights in a file of safetensors, or in one that `torch.save` wrote.

    Raises:
        Exception: of the reader's own kind, or the system's: it is no such file.
    """
    import safetensors

    if file.suffix != ".safetensors":
        import torch

        saved = torch.load(file, map_location="meta", weights_only=True)
        return {name: tuple(each.shape) for name, each in saved.items()}
    with safetensors.safe_open(file, framework="np") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118, no mapping


def local_shape(directory: Path) -> ModelShape | None:
    """Return the shape of a model in a directory; None where its files do not say."""
    shapes = saved_shapes(directory)
    try:
        tree = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.debug("%s: its config.json cannot be read: %s", directory, error)
        return None
    return shape_of(tree, shapes) if shapes and isinstance(tree, dict) else None
