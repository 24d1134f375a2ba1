"""Which fields of TRL's SFTConfig `train.sft` may pass through, found without importing TRL.

The field names are read from the source of the installed modules, which takes milliseconds; an import takes seconds.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rankray.errors import ConfigError, nearest, shown

OURS = {
    "max_steps": "train.max_steps",
    "learning_rate": "train.learning_rate",
    "warmup_steps": "train.warmup_ratio",
    "warmup_ratio": "train.warmup_ratio",
    "weight_decay": "train.weight_decay",
    "per_device_train_batch_size": "train.batch_size and train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "auto_find_batch_size": "train.batch_size and train.micro_batch_size",
    "seed": "train.seed",
    "data_seed": "train.seed",
    "max_length": "data.max_length",
    "num_train_epochs": "train.max_steps",
    "per_device_eval_batch_size": "evaluate.batch_size",
    "eval_strategy": "evaluate.every_steps",
    "eval_steps": "evaluate.every_steps",
    "save_strategy": "train.checkpoint_every_steps",
    "save_steps": "train.checkpoint_every_steps",
    "output_dir": "storage",
    "loss_type": "loss.objective",
    "trust_remote_code": "model.trust_remote_code",
    "completion_only_loss": "data.prompt and data.completion (only the completion is trained on)",
    "chat_template_path": "data.chat_template",
    "assistant_only_loss": "data.messages and data.train_on (assistant turns alone are trained on)",
    "model_init_kwargs": "model.path and model.dtype",
    "report_to": "logging: [wandb, mlflow, tensorboard, trackio], which keeps one run per trial",
    "run_name": "logging: the runs are named by study and trial",
    "deepspeed": "train.parallelism (ddp or fsdp)",
    "resume_from_checkpoint": "nothing: run the same command again",
}
"""Fields that rankray sets itself -> where to set them."""

WITHOUT_EFFECT = frozenset(
    {
        "dataset_kwargs",
        "dataset_num_proc",
        "dataset_text_field",
        "do_eval",
        "do_predict",
        "do_train",
        "eos_token",
        "eval_packing",
        "label_smoothing_factor",
        "load_best_model_at_end",
        "pad_token",
        "push_to_hub",
        "save_only_model",
        "save_total_limit",
        "truncation_mode",
        "enable_jit_checkpoint",
    }
)
"""Fields that cannot work here, because rankray tokenises the data, computes the loss and writes checkpoints itself."""


LIGER_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Kernels of Liger's that compute a loss, which is rankray's own."""


def check_sft_fields(fields: Mapping[str, Any], where: Callable[[str], str] | None = None) -> None:
    """Check the names in `train.sft`.

    Args:
        fields: the mapping as given.
        where: from a dotted path to `file:line`, as in `LoadedConfig.where`; None where no file is known.

    Raises:
        ConfigError: a name that SFTConfig does not have, that is set elsewhere, or that has no effect; kernels of
            Liger's for the loss.
    """
    for name in fields:
        path = f"train.sft.{name}"
        place = f"{where(path)}: {path}" if where else path
        if name in OURS:
            raise ConfigError(
                f"{place}: not a pass-through field; allowed are fields rankray does not set; set {OURS[name]}"
            )
        if name in WITHOUT_EFFECT:
            raise ConfigError(f"{place}: has no effect in rankray; allowed are fields that do; remove it")
        if name not in sft_field_names():
            near = nearest(name, sft_field_names() - OURS.keys() - WITHOUT_EFFECT)
            raise ConfigError(f"{place}: no such field{near}; allowed are the fields of TRL's SFTConfig; fix the name")
        if name == "liger_kernel_config":
            _check_liger_config(place, fields)


def _check_liger_config(place: str, fields: Mapping[str, Any]) -> None:
    given = fields["liger_kernel_config"]
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"{place}: got {shown(given)}; allowed is a mapping of kernels to true or false; write one")
    if not fields.get("use_liger_kernel"):
        raise ConfigError(
            f"{place}: has no effect without train.sft.use_liger_kernel; allowed is beside it; set use_liger_kernel: "
            "true, or remove it"
        )
    for name in LIGER_LOSSES:
        if (given or {}).get(name):
            raise ConfigError(
                f"{place}: {name}: got true, and the loss is rankray's own; allowed are Liger's kernels for layers; "
                "remove it"
            )


@cache
def sft_field_names() -> frozenset[str]:
    """Return the names of all fields of SFTConfig."""
    files = {"transformers": ["training_args.py"], "trl": ["trainer/base_config.py", "trainer/sft_config.py"]}
    names: set[str] = set()
    for package, parts in files.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not installed"
        assert spec.origin is not None, f"{package} has no file"
        for part in parts:
            text = (Path(spec.origin).parent / part).read_text(encoding="utf-8")
            names.update(re.findall(r"^    ([a-z]\w*): [^\n]*=", text, re.MULTILINE))
    return frozenset(names)
