"""A checkpoint as a model that others load: weights, configuration, tokenizer and chat template, no training state.

The weights of full fine-tuning, and adapters, are copied as they are, bit for bit. Merging adapters adds them to the
base model's weights in float32 and compares the logits with those of the adapted model, because not every model can be
merged: adapters on a head that shares its weights with the embedding would change the embedding too.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rankray.config.schema import Config
from rankray.errors import ModelError, first_line
from rankray.model.pin import MAIN

ADAPTER = "adapter_config.json"
TRAINING_STATE = (
    "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", "trainer_state.json", "training_args.*", "rankray.json",
    "rankray-manifest*",
    "pytorch_model_fsdp*", "README.md", ".*",
)  # fmt: skip
"""What only resuming needs; README.md is a card that peft writes by itself."""


def is_adapter(checkpoint: Path) -> bool:
    """Return whether a checkpoint holds adapters rather than a whole model."""
    return (checkpoint / ADAPTER).is_file()


def export_model(checkpoint: Path, directory: Path, config: Config, *, merge: bool = False) -> str:
    """Write the model of a checkpoint into a new directory that `AutoModelForCausalLM.from_pretrained` loads.

    Args:
        checkpoint: a trial's checkpoint on this machine.
        directory: made here; must not exist.
        config: the trial's configuration, whose `model:` names the base model.
        merge: add adapters to the base model; without, they stay a small directory that needs the base model.

    Returns:
        the type that merged weights were rounded to, such as bfloat16; empty where nothing was rounded.

    Raises:
        ModelError: the checkpoint is incomplete, has no adapters to merge, or they cannot be merged.
    """
    if not any(checkpoint.glob("*.safetensors")):
        raise ModelError(
            f"export: {checkpoint} has no weights; allowed: a complete checkpoint; choose another trial, or "
            "train it again"
        )
    if merge and not is_adapter(checkpoint):
        raise ModelError("export: --merge: this model has no adapters, all its weights were trained; leave --merge out")
    shutil.copytree(checkpoint, directory, ignore=shutil.ignore_patterns(*TRAINING_STATE))
    if not merge:
        return ""
    for file in directory.glob("adapter_*"):
        file.unlink()
    return _merge(checkpoint, directory, config)


def _merge(checkpoint: Path, directory: Path, config: Config) -> str:
    """Write the base model with the adapters added, in the base model's own type; return it where that rounds."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    path = config.model.path
    given = {"revision": config.model.revision or MAIN, "trust_remote_code": config.model.trust_remote_code}
    try:
        saved = AutoConfig.from_pretrained(path, **given).dtype or torch.float32
        base: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **given)
    except (OSError, ValueError) as error:
        first = first_line(error)
        raise ModelError(
            f"export: --merge: the base model {path!r} cannot be loaded ({first}); allowed: the one that the adapters "
            "were trained on; bring it to this path, or leave --merge out"
        ) from error
    dtype = saved if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
    adapted: Any = PeftModel.from_pretrained(base, str(checkpoint)).eval()
    ids = torch.arange(1, min(17, base.config.get_text_config().vocab_size))[None]
    with torch.no_grad():
        wanted = adapted(input_ids=ids).logits
        merged: Any = adapted.merge_and_unload(safe_merge=True)
        found = merged(input_ids=ids).logits
    off, size = float((found - wanted).abs().max()), float(wanted.abs().max())
    if not off <= 1e-4 * max(1.0, size):
        raise ModelError(
            f"export: --merge: the merged model's logits differ by {off:.3g} from the adapted one's, as where "
            "adapters are on weights that two layers share; allowed: adapters kept; leave --merge out"
        )
    merged.to(dtype).save_pretrained(directory)
    return str(dtype).removeprefix("torch.") if dtype.itemsize < torch.float32.itemsize else ""
