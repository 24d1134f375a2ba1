"""A model as training left it: a full checkpoint, or adapters on their base model, computing as it does in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import PeftModel

from rankray.config.schema import Config
from rankray.errors import ModelError
from rankray.model.head import attach_head, plain_model
from rankray.model.resident import computes_in_half, fresh_model, keeps_master_weights

ADAPTER_FILE = "adapter_config.json"


def load_model(config: Config, checkpoint: Path | None) -> Any:
    """Return a model in eval mode, on the accelerator where there is one: the base model, or a checkpoint of it.

    Where training computes under autocast, its forward does, so that it has the figures that training reports.

    Raises:
        ModelError: it cannot be loaded.
    """
    if checkpoint is not None and (checkpoint / ADAPTER_FILE).is_file():
        base: Any = fresh_model(config)
        try:
            model: Any = PeftModel.from_pretrained(base, str(checkpoint))
        except Exception as error:
            raise ModelError(
                f"evaluate: the adapters in {str(checkpoint)!r} do not fit {config.model.path!r} "
                f"({str(error).splitlines()[0]}); allowed are adapters of that model; check model.path"
            ) from error
    else:
        model = fresh_model(config, None if checkpoint is None else str(checkpoint))
    if torch.accelerator.is_available() and config.model.quantization is None:
        model = model.to(torch.accelerator.current_accelerator())
    dtype = autocast_dtype(config)
    if dtype is not None:
        attach_head(plain_model(model))  # inside, as in training
        model.forward = convert_outputs_to_fp32(torch.autocast(model.device.type, dtype)(model.forward))
    return model.eval()


def autocast_dtype(config: Config) -> torch.dtype | None:
    """Return the type that training with a configuration computes in under autocast; None: it does without.

    Raises:
        ConfigError: float16 without an accelerator.
    """
    half, mixed, sft = computes_in_half(config), keeps_master_weights(config), config.train.sft
    if sft.get("fp16", half):
        return torch.float16
    bf16 = sft.get("bf16", mixed)
    return torch.bfloat16 if bf16 or bf16 is None else None  # SFTConfig's null stands for true
