"""A model as training left it: a full checkpoint, or adapters on their base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from rankray.config.schema import Config
from rankray.errors import ModelError
from rankray.model.resident import fresh_model

ADAPTER_FILE = "adapter_config.json"


def load_model(config: Config, checkpoint: Path | None) -> Any:
    """Return a model in eval mode, on the accelerator where there is one: the base model, or a checkpoint of it.

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
    return model.eval()
