"""What other tools call the fields of a configuration, and in which section a misplaced field stands."""

from __future__ import annotations

from collections.abc import Iterable

from rankray.config.fields import all_fields
from rankray.errors import closest

OTHER_NAMES = {
    "adapter": "model.lora",
    "base_model": "model.path",
    "batch": "train.batch_size",
    "bf16": "model.dtype",
    "bs": "train.batch_size",
    "cutoff_len": "data.max_length",
    "dataset": "data.train",
    "dataset_name": "data.train",
    "datasets": "data.train",
    "epoch": "train.epochs",
    "eval_dataset": "data.eval",
    "eval_steps": "evaluate.every_steps",
    "fp16": "model.dtype",
    "gpus": "resources.gpus_per_worker",
    "gradient_accumulation_steps": "train.batch_size",
    "load_in_4bit": "model.quantization",
    "load_in_8bit": "model.quantization",
    "lora": "model.lora",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_r": "model.lora.rank",
    "lora_rank": "model.lora.rank",
    "lora_target": "model.lora.target_modules",
    "loss_type": "loss.objective",
    "lr": "train.learning_rate",
    "lr_scheduler": "train.schedule",
    "lr_scheduler_type": "train.schedule",
    "max_concurrent_trials": "resources.concurrency",
    "max_seq_len": "data.max_length",
    "max_seq_length": "data.max_length",
    "model_id": "model.path",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "n_trials": "study.trials",
    "num_epochs": "train.epochs",
    "num_gpus": "resources.gpus_per_worker",
    "num_samples": "study.trials",
    "num_train_epochs": "train.epochs",
    "num_trials": "study.trials",
    "num_workers": "resources.workers",
    "output_dir": "storage",
    "peft_config": "model.lora",
    "per_device_train_batch_size": "train.micro_batch_size",
    "report_to": "logging",
    "scheduler": "study.pruner",
    "search_alg": "study.sampler",
    "search_space": "space",
    "seq_len": "data.max_length",
    "sequence_len": "data.max_length",
    "steps": "train.max_steps",
    "storage_path": "storage",
    "temp": "loss.temperature",
    "train_dataset": "data.train",
    "val": "data.eval",
    "valid": "data.eval",
    "validation": "data.eval",
    "wandb": "logging",
    "warmup": "train.warmup_ratio",
    "warmup_steps": "train.warmup_ratio",
    "wd": "train.weight_decay",
}
"""Names of TRL, Axolotl, LLaMA-Factory, Ray Tune and Optuna, and short ones: the path of what they mean here."""
SEVERAL = 2
"""A name that more fields have than this says nothing."""


def did_you_mean(name: str, siblings: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for a key that does not exist where it stands, or an empty string.

    That is what another tool calls so, or the field of this very name in another section. Where it does not stand among
    the siblings, the closest of them comes first: `evaluate.steps` may be meant for either.

    Args:
        name: the key, or the last part of a path.
        siblings: the keys, or paths, that are allowed in its place.
    """
    known = [*siblings]
    same = [path for path in all_fields() if path.split(".")[-1] == name and "*" not in path]
    meant = [OTHER_NAMES[name]] if name in OTHER_NAMES else same if len(same) <= SEVERAL else []
    here = [each for path in meant for each in (path, path.split(".")[-1]) if each in known]
    options = here[:1] or dict.fromkeys([*closest(name, known), *meant])
    return f" (did you mean {' or '.join(map(repr, options))}?)" if options else ""
