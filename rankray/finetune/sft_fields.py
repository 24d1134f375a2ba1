"""Which fields of TRL's SFTConfig `train.sft` may pass through, and of which types, found without importing TRL.

Names and types are read from the source of the installed modules, which takes milliseconds; an import takes seconds.
SFTConfig checks no types itself: a text where a number is asked for is an error in the middle of training, and the text
"false" is true.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rankray.config.yaml_text import parse_value
from rankray.errors import PLAIN, ConfigError, nearest, shown

logger = logging.getLogger(__name__)

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
    "eval_on_start": "nothing: the model is always evaluated before training",
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
    "fsdp": "train.parallelism (ddp or fsdp)",
    "parallelism_config": "train.parallelism (ddp or fsdp)",
    "ignore_data_skip": "nothing: a resumed trial continues where its data were",
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
UNUSED = frozenset(
    {
        "batch_eval_metrics",
        "eval_accumulation_steps",
        "eval_delay",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "greater_is_better",
        "include_for_metrics",
        "include_num_input_tokens_seen",
        "label_names",
        "log_on_each_node",
        "logging_first_step",
        "logging_nan_inf_filter",
        "logging_steps",
        "logging_strategy",
        "metric_for_best_model",
        "prediction_loss_only",
        "project",
        "restore_callback_states_from_checkpoint",
        "save_on_each_node",
    }
)
"""Fields that change nothing here, for rankray evaluates, logs and saves itself; and so do those of UNUSED_KINDS."""
UNUSED_KINDS = ("hub_", "trackio_")
MAY_BE_NULL = frozenset({"max_grad_norm"})
"""Fields that the trainer takes null for, though their type does not say so: gradients are not clipped."""
CHECKED_ELSEWHERE = frozenset({"lr_scheduler_type", "lr_scheduler_kwargs", "liger_kernel_config"})
"""Fields whose values `schedules.check_schedule` and `_check_liger_config` look at."""
MAY_BE_FILE = frozenset({"accelerator_config", "fsdp_config"})
"""Mappings that may stand in a file of their own; others are a text only where that is a mapping in JSON."""
KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "None": ("null", type(None)),
    "bool": (PLAIN["bool"], bool),
    "dict": (PLAIN["dict"], Mapping),
    "float": (PLAIN["float"], (int, float)),
    "int": (PLAIN["int"], int),
    "list": (PLAIN["list"], list),
    "str": (PLAIN["string"], str),
}
"""Types as SFTConfig has them: what a value of them is called, and is."""

LIGER_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")
"""Kernels of Liger's that compute a loss, which is rankray's own."""


def check_sft_fields(fields: Mapping[str, Any], where: Callable[[str], str] | None = None) -> None:
    """Check the names in `train.sft`, and the types of their values.

    Args:
        fields: the mapping as given.
        where: from a dotted path to `file:line`, as in `LoadedConfig.where`; None where no file is known.

    Raises:
        ConfigError: a name that SFTConfig does not have, that is set elsewhere, or that has no effect; a value of
            another type than the field's; kernels of Liger's for the loss.
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
        _check_type(place, name, fields[name])


def unused_fields(fields: Mapping[str, Any], where: Callable[[str], str]) -> list[str]:
    """Return a warning for each field of `train.sft` that changes nothing.

    Args:
        fields: the mapping as given.
        where: from a dotted path to `file:line`.
    """
    return [
        f"{where(f'train.sft.{name}')}: train.sft.{name}: changes nothing, for rankray evaluates, logs and saves by "
        "itself; remove it"
        for name in fields
        if name in UNUSED or name.startswith(UNUSED_KINDS)
    ]


def _check_type(place: str, name: str, value: Any) -> None:
    """Refuse a value of another type than the field's; what a type means that is not plain is left to the library."""
    if name in CHECKED_ELSEWHERE or (value is None and name in MAY_BE_NULL):
        return
    kinds = _kinds(sft_field_types()[name])
    if "dict" in kinds and not (name in MAY_BE_FILE or str(value).lstrip().startswith("{")):
        kinds.remove("str")
    if not kinds or any(_is_of(value, kind) for kind in kinds):
        return
    allowed = " or ".join(KINDS[kind][0] for kind in kinds)
    todo = "write it without quotes" if isinstance(value, str) and _unquoted(value, kinds) else "correct the value"
    raise ConfigError(f"{place}: got {shown(value)}; allowed: {allowed}; {todo}")


def _kinds(annotation: str) -> list[str]:
    """Return the plain types that an annotation allows; none where it allows one that is not plain."""
    parts = [part.strip() for part in re.sub(r"\[[^\]]*\]", "", annotation).split("|")]
    known = ["str" if part.endswith(("Strategy", "Names", "SchedulerType")) else part for part in parts]
    return list(dict.fromkeys(known)) if all(part in KINDS for part in known) else []


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind in ("int", "float"):
        return False
    if kind == "bool" and isinstance(value, int):  # 0 and 1 are what they are in Python
        return value in (0, 1)
    return isinstance(value, KINDS[kind][1])


def _unquoted(text: str, kinds: list[str]) -> bool:
    """Return whether a text would be of one of the types if it were not in quotes."""
    try:
        value = parse_value(text)
    except ConfigError as error:
        logger.debug("%s", error)
        return False
    return any(_is_of(value, kind) for kind in kinds)


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


def sft_field_names() -> frozenset[str]:
    """Return the names of all fields of SFTConfig."""
    return frozenset(sft_field_types())


@cache
def sft_field_types() -> Mapping[str, str]:
    """Return the type of each field of SFTConfig, as it stands in the source."""
    files = {"transformers": ["training_args.py"], "trl": ["trainer/base_config.py", "trainer/sft_config.py"]}
    types: dict[str, str] = {}
    for package, parts in files.items():
        spec = importlib.util.find_spec(package)
        assert spec is not None, f"{package} is not installed"
        assert spec.origin is not None, f"{package} has no file"
        for part in parts:
            text = (Path(spec.origin).parent / part).read_text(encoding="utf-8")
            types.update(re.findall(r"^    ([a-z]\w*): ([^\n=]*?) *=", text, re.MULTILINE))
    return types
