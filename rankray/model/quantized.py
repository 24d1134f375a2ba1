"""A base model whose linear layers are held in 4 or 8 bits, below adapters that are trained.

bitsandbytes does the work, through transformers: `from_pretrained` quantizes each layer as it loads it, on the GPU of
the process. Embeddings, norms and the output head keep `model.dtype`, in which everything is computed, so the weighted
loss sees hidden states and a head like any other. In 4 bits it is NF4 with quantized scales, as QLoRA has it.

Source: arXiv:2305.14314.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from rankray.config.schema import Config
from rankray.errors import ConfigError, ModelError
from rankray.model.extras import QUANTIZATION, require
from rankray.model.memory import BYTES_PER_WEIGHT


def check_quantization(config: Config) -> None:
    """Refuse a quantized model where it cannot be loaded.

    Raises:
        ConfigError: bitsandbytes is missing, or this process has no CUDA device.
    """
    given = config.model.quantization
    if given is None:
        return
    require(QUANTIZATION)
    if not torch.cuda.is_available():
        raise ConfigError(
            f"model.quantization: {given} without a CUDA device; allowed there is null; remove it, or give each worker "
            "a GPU with resources.gpus_per_worker"
        )


def loading_options(config: Config, dtype: torch.dtype) -> dict[str, Any]:
    """Return what `from_pretrained` is given beside the usual to load a quantized model; nothing for a whole one.

    Args:
        config: whose `model.quantization` says how.
        dtype: what the quantized layers compute in.

    Raises:
        ConfigError: as `check_quantization`.
    """
    if config.model.quantization is None:
        return {}
    check_quantization(config)
    return {
        "quantization_config": quantization_config(config.model.quantization, dtype),
        "device_map": {"": torch.cuda.current_device()},
    }


def quantization_config(quantization: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return transformers' description of `4bit` or `8bit`."""
    settings: dict[str, Any] = {"load_in_8bit": True}
    if quantization == "4bit":
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    return BitsAndBytesConfig(**settings)  # type: ignore[no-untyped-call]


def check_saved_form(model_config: Any, quantization: str | None) -> None:
    """Refuse weights that bitsandbytes has quantized before they were saved, where the configuration says otherwise.

    Args:
        model_config: the model's own configuration, of transformers.
        quantization: `model.quantization`.

    Raises:
        ModelError: they are quantized in another way than the configuration says.
    """
    saved = getattr(model_config, "quantization_config", None)
    fields = saved if isinstance(saved, dict) else getattr(saved, "to_dict", dict)()
    if not (fields.get("load_in_4bit") or fields.get("load_in_8bit")):
        return
    form = "4bit" if fields.get("load_in_4bit") else "8bit"
    if form != quantization:
        raise ModelError(
            f"model.path: the weights were saved in {form} by bitsandbytes, and model.quantization is "
            f"{quantization or 'null'}; allowed is {form} there; set it, or take the model that they were made from"
        )


def adapters_in_float32(model: Any) -> None:
    """Give the trainable weights of a quantized model the type that they have on a whole 16-bit model.

    TRL makes them bfloat16, in which a small step of a low learning rate is rounded away. They are still what they were
    drawn as, up to one rounding; a checkpoint is loaded later, in float32.
    """
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(torch.float32)


def weight_bytes(model: Any, quantization: str | None, dtype: torch.dtype) -> int:
    """Return the size of a model's weights in bytes, as they will be in memory.

    Args:
        model: with or without its weights' values (on the meta device).
        quantization: `model.quantization`.
        dtype: `model.dtype`, resolved.
    """
    head = model.get_output_embeddings()
    kept = {id(weight) for weight in (head.parameters() if head is not None else ())}
    inside: int = sum(
        module.weight.numel()
        for module in model.modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D)) and id(module.weight) not in kept
    )
    whole: int = sum(weight.numel() for weight in model.parameters())
    if quantization is None:
        return whole * dtype.itemsize
    return round(inside * BYTES_PER_WEIGHT[quantization] + (whole - inside) * dtype.itemsize)
