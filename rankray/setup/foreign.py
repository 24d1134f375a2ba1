"""`rankray import`: the YAML of a TRL script, LLaMA-Factory or Axolotl as a configuration, with notes on what is left.

Which tool a file is of is seen by its keys. Every key is either taken over, or is nothing but how that tool runs, or
gets a note that says why it is left out; none is dropped without one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rankray.config import Config, all_fields, config_from
from rankray.config.load import name_of
from rankray.config.params import set_path
from rankray.config.where import resolve_tree
from rankray.config.yaml_text import read_yaml
from rankray.errors import ConfigError, shown
from rankray.finetune.schedules import TYPE, plain_schedules, searchable
from rankray.finetune.sft_fields import OURS, WITHOUT_EFFECT, sft_field_names

TRACKERS = ("wandb", "mlflow", "tensorboard", "trackio")
"""What `logging` allows, and `report_to` of transformers calls the same."""
DTYPES = ("auto", "float32", "bfloat16", "float16")
LOGS = {
    "logging_steps", "logging_first_step", "logging_dir", "logging_strategy", "report_to", "run_name", "log_level",
    "push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "overwrite_output_dir", "save_total_limit",
    "save_only_model", "load_best_model_at_end", "metric_for_best_model", "do_train", "do_eval", "save_strategy",
    "eval_strategy", "evaluation_strategy", "plot_loss", "preprocessing_num_workers", "dataset_num_proc",
    "dataloader_num_workers", "overwrite_cache", "ddp_timeout", "resume_from_checkpoint", "wandb_project",
    "wandb_entity", "wandb_watch", "wandb_name", "wandb_log_model", "dataset_prepared_path", "save_steps_per_epoch",
    "local_rank", "debug", "early_stopping_patience", "include_num_input_tokens_seen", "dataset_processes",
    "trackio_space_id", "mlflow_tracking_uri", "use_wandb",
}  # fmt: skip
"""Keys that only say how another tool prints, logs and saves: rankray does that in its own way, and no note is due."""

SHARDED = "a model is sharded over GPUs with train.parallelism: fsdp here, and resources.workers"
MOST_WIDTH = 1 << 20
"""No line of a file is folded."""
SHAPE = ("format", "prompt", "completion", "messages", "chat")
"""What says how the rows of a source are read."""


@dataclass
class Draft:
    """A configuration in the making.

    Attributes:
        given: the other tool's mapping; `take` removes from it.
        tree: ours so far.
        notes: what is left out, and why.
        share: how many of the rows, or which share of them, the other tool sets aside to evaluate on; None for none.
    """

    given: dict[str, Any]
    tree: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    share: Any = None

    def take(self, *names: str, default: Any = None) -> Any:
        """Remove keys and return the first value that is not null."""
        values = [self.given.pop(name, None) for name in names]
        return next((value for value in values if value is not None), default)

    def whole(self, name: str, default: int) -> int:
        """Remove a key and return it as a whole number; where it is none, such as `auto`, say so and take `default`."""
        value = self.take(name, default=default)
        try:
            return int(value)
        except (TypeError, ValueError):
            self.note(name, value, f"no number; {default} is taken")
            return default

    def move(self, path: str, *names: str) -> None:
        """Set a dotted path to the value of the first of these keys that is there."""
        value = self.take(*names)
        if value is not None and path not in all_fields():
            self.note(names[0], value, "has no counterpart here")
        elif value is not None:
            self.set(path, value)

    def set(self, path: str, value: Any) -> None:
        """Set a dotted path."""
        set_path(self.tree, path, value)

    def note(self, name: str, value: Any, why: str) -> None:
        """Say that something is left out."""
        self.notes.append(f"{name}: {shown(value, 60)}: {why}")

    def leave(self, why: str, *names: str) -> None:
        """Leave keys out, with a note for each that is there and says something."""
        for name in names:
            value = self.given.pop(name, None)
            if value not in (None, False, "", [], {}):
                self.note(name, value, why)


def convert(file: Path, eval_source: str = "") -> tuple[Config, list[str], str]:
    """Read another tool's file and return our configuration, the notes, and the tool's name.

    Args:
        file: its YAML.
        eval_source: held-out data, where the file names none.

    Raises:
        ConfigError: the file is of none of the three, asks for something other than supervised fine-tuning, or names
            neither model nor data.
    """
    from rankray.setup import axolotl, llama_factory, trl_file

    given, _ = read_yaml(file, str(file))
    tools: dict[str, tuple[bool, Callable[[Draft, Path], None]]] = {
        "Axolotl": ("base_model" in given, axolotl.fill),
        "LLaMA-Factory": ("model_name_or_path" in given and ("stage" in given or "finetuning_type" in given),
                          llama_factory.fill),
        "TRL": ("model_name_or_path" in given, trl_file.fill),
    }  # fmt: skip
    tool = next((name for name, (fits, _) in tools.items() if fits), None)
    if tool is None and {"model", "data"} <= given.keys() <= Config.model_fields.keys():
        raise ConfigError(
            f"{file}: is a configuration of rankray already (it has model: and data:); allowed are files of a TRL "
            f"script, LLaMA-Factory and Axolotl; look at it with rankray check {file}"
        )
    if tool is None:
        raise ConfigError(
            f"{file}: neither base_model nor model_name_or_path; allowed are files of a TRL script, LLaMA-Factory and "
            f"Axolotl; it has {', '.join(list(map(str, given))[:8])}; write a first file for its model and data with "
            "rankray init"
        )
    draft = Draft(dict(given))
    tools[tool][1](draft, Path(os.path.abspath(file.parent)))
    _finish(draft, file, eval_source)
    try:
        config = config_from(draft.tree)
    except ConfigError as error:
        raise ConfigError(f"{file}: cannot be taken over:\n{error}") from None
    return config, list(dict.fromkeys(draft.notes)), tool


def batches(draft: Draft, name: str, default: int) -> None:
    """Set the batch: the other tool's micro batch times its accumulation."""
    micro = draft.whole(name, default)
    draft.set("train.batch_size", micro * draft.whole("gradient_accumulation_steps", 1))
    draft.set("train.micro_batch_size", micro)


def evaluations(draft: Draft) -> None:
    """Set how often is evaluated and saved; a share of all steps is a number where that of all steps is given."""
    for path, name in (("evaluate.every_steps", "eval_steps"), ("train.checkpoint_every_steps", "save_steps")):
        value, whole = draft.take(name), draft.tree.get("train", {}).get("max_steps")
        if isinstance(value, float) and 0 < value < 1:
            if whole is None:
                draft.note(name, value, f"a share of all steps, whose number is not given; set {path}")
            else:
                draft.set(path, max(1, round(value * int(whole))))
        elif isinstance(value, int | float) and value >= 1:
            draft.set(path, int(value))
        elif value is not None:
            draft.note(name, value, f"no number of steps; set {path}")


def common(draft: Draft, rate: float = 5e-5) -> None:
    """Take over what TRL and LLaMA-Factory share: the fields of transformers' TrainingArguments.

    Args:
        draft: the configuration in the making.
        rate: the other tool's learning rate where the file has none.
    """
    batches(draft, "per_device_train_batch_size", 8)
    steps = draft.whole("max_steps", -1)
    epochs = draft.take("num_train_epochs", default=3.0)
    draft.set(*(("train.max_steps", steps) if steps > 0 else ("train.epochs", float(epochs))))
    draft.set("train.learning_rate", float(draft.take("learning_rate", default=rate)))
    draft.move("train.weight_decay", "weight_decay")
    warmup(draft, draft.take("warmup_ratio"), draft.take("warmup_steps"))
    schedule(draft, "lr_scheduler_type", draft.take("lr_scheduler_type", default="linear"))
    draft.move("train.seed", "seed")
    draft.take("data_seed")
    evaluations(draft)
    draft.move("evaluate.batch_size", "per_device_eval_batch_size")
    draft.move("storage", "output_dir")
    pass_through(draft)


def lora(draft: Draft, rank: Any, alpha: Any, dropout: Any, targets: Any) -> None:
    """Set the adapters; targets may be a list, names with commas, or all of the linear layers."""
    for name, value in (("rank", rank), ("alpha", alpha), ("dropout", dropout)):
        if value is not None:
            draft.set(f"model.lora.{name}", value)
    draft.tree.setdefault("model", {}).setdefault("lora", {})
    named = [part.strip() for part in targets.split(",")] if isinstance(targets, str) else targets
    if named and named not in (["all"], ["all-linear"]):
        draft.set("model.lora.target_modules", named)


def dtype(draft: Draft, value: Any) -> None:
    """Set the type of the weights."""
    if value in DTYPES:
        draft.set("model.dtype", value)
    elif value is not None:
        draft.note("dtype", value, f"allowed here are {', '.join(DTYPES)}")


def warmup(draft: Draft, ratio: Any, steps: Any) -> None:
    """Set the warm-up as a share; a number of steps is one only where the number of all steps is given."""
    whole = draft.tree.get("train", {}).get("max_steps")
    share = steps if isinstance(steps, float) and 0 < steps < 1 else None
    if share is None and steps and whole:
        share = min(1.0, float(steps) / float(whole))
    if share is not None:
        draft.set("train.warmup_ratio", share)
    elif steps:
        draft.note("warmup_steps", steps, "a share of all steps here; set train.warmup_ratio")
    else:
        draft.set("train.warmup_ratio", float(ratio or 0.0))


def schedule(draft: Draft, name: str, value: Any) -> None:
    """Set how the learning rate falls."""
    if value in plain_schedules():
        draft.set("train.schedule", value)
    elif value in searchable():
        draft.set(f"train.sft.{TYPE}", value)
    else:
        draft.note(name, value, f"allowed here are {', '.join(searchable())}; cosine is taken")


def quantization(draft: Draft, bits: Any, name: str) -> None:
    """Set in how many bits the base model is held below adapters.

    Args:
        draft: with its adapters set.
        bits: 4 or 8; null and 0 leave the weights whole.
        name: the other tool's key, for a note.
    """
    if not bits:
        return
    if bits not in (4, 8):
        draft.note(name, bits, "allowed here are 4 and 8 bits, by bitsandbytes")
    elif "lora" not in draft.tree.get("model", {}):
        draft.note(name, bits, "quantized weights are trained below adapters alone; set model.lora")
    else:
        draft.set("model.quantization", f"{bits}bit")


def pass_through(draft: Draft) -> None:
    """Hand on the fields of SFTConfig that rankray passes through."""
    for name in list(draft.given):
        if name in sft_field_names() - OURS.keys() - WITHOUT_EFFECT - LOGS:
            value = draft.given.pop(name)
            if value is None:
                continue
            if name in ("bf16", "fp16", "tf32", "use_liger_kernel", "torch_compile") and not value:
                continue
            draft.tree.setdefault("train", {}).setdefault("sft", {})[name] = value


def text_of(config: Config, notes: list[str], tool: str, file: Path) -> str:
    """Return the configuration as YAML, with the notes above it; only what differs from the defaults."""
    tree = config.model_dump(mode="json", exclude_defaults=True, exclude={"store"})
    if config.storage == Config.model_fields["storage"].get_default():
        tree.pop("storage", None)
    head = [f"# Made by `rankray import` from {file.name} ({tool})."]
    head += [f"# left out: {line}" for note in notes for line in note.splitlines()[:1]]
    return (
        "\n".join(head) + "\n" + yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=MOST_WIDTH)
    )


class _Dumper(yaml.SafeDumper):
    """Writes text with new lines in double quotes, on one line, as templates are written by hand."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _finish(draft: Draft, file: Path, eval_source: str) -> None:
    """Give what every configuration needs, a space to search, and notes for what nobody has taken."""
    draft.tree.setdefault("name", name_of(file))
    _note_trackers(draft)
    for name in list(draft.given):
        if name in LOGS:
            draft.given.pop(name)
    draft.leave(SHARDED, *(name for name in ("deepspeed", "fsdp", "fsdp_config") if name in draft.given))
    draft.leave("has no counterpart here", *draft.given)
    train = draft.tree.setdefault("train", {})
    if train.get("sft", {}).get("packing") and "epochs" in train:
        train["sft"].pop("packing")
        draft.note(
            "packing",
            True,
            "epochs are not counted with packing; with it, set train.max_steps in place of train.epochs",
        )
    if Path("/dev/nvidia0").exists():
        draft.set("resources.gpus_per_worker", 1)
    else:
        draft.notes.append("this machine has no GPU: set resources.gpus_per_worker to 1 where trials get one each")
    data = draft.tree.setdefault("data", {})
    if eval_source:
        data["eval"] = _read_as_training_data(data, eval_source)
    if "eval" not in data and "train" in data:
        _hold_out(draft, data)
    rate = float(draft.tree.get("train", {}).get("learning_rate", 5e-5))
    objective = draft.tree.get("loss", {}).get("objective", "sft")
    draft.tree["space"] = {
        "loss.objective": {"choice": list(dict.fromkeys(["sft", "dft", "rri", objective]))},
        "loss.temperature": {"float": [0.25, 8.0], "log": True, "when": {"loss.objective": "rri"}},
        "train.learning_rate": {"float": [float(f"{rate / 10:.3g}"), float(f"{rate * 10:.3g}")], "log": True},
    }
    resolve_tree(draft.tree, Path(os.path.abspath(file.parent)), lambda path: str(file))


def _note_trackers(draft: Draft) -> None:
    """Say how the other tool's trackers are asked for here; each needs its library, so none is taken over."""
    named = draft.given.get("report_to") or []
    asked = {str(name) for name in (named if isinstance(named, list) else [named])}
    asked |= {"wandb"} if draft.given.get("wandb_project") else set()
    asked |= {"mlflow"} if draft.given.get("mlflow_tracking_uri") else set()
    for name in sorted(asked & set(TRACKERS)):
        draft.notes.append(f"report_to: {name}: add logging: [{name}], which gives each trial a run")


def _read_as_training_data(data: Mapping[str, Any], path: str) -> Any:
    """Return a held-out source that is read as the training data are, where these are all read in one way."""
    train = data.get("train")
    ways = [] if train is None or isinstance(train, str) else train
    ways = [{key: entry[key] for key in SHAPE if key in entry} for entry in ways]
    return [{"path": path, **ways[0]}] if ways and ways[0] and all(way == ways[0] for way in ways) else path


def _hold_out(draft: Draft, data: dict[str, Any]) -> None:
    """Set data aside where that needs no reading: a slice of each hub dataset; else say what is missing."""
    from rankray.data.files import is_file_source
    from rankray.setup.held_out import PERCENT, halves_of_hub

    entries = [{"path": data["train"]}] if isinstance(data["train"], str) else data["train"]
    share = f"; {draft.share} of the rows were to be" if draft.share else ""
    is_part = isinstance(draft.share, float) and 0 < draft.share < 1
    percent = min(max(1, round(100 * draft.share)), 99) if is_part else PERCENT
    held_out = []
    for entry in entries:
        if not is_file_source(entry["path"]) and not entry["path"].endswith("]"):
            entry["path"], rest = halves_of_hub(entry["path"], percent)
            held_out.append({**entry, "path": rest})
    if held_out:
        data["eval"] = held_out[0]["path"] if len(held_out) == 1 and set(held_out[0]) == {"path"} else held_out
        data["train"] = entries[0]["path"] if isinstance(data["train"], str) else entries
        draft.notes.append(
            f"no held-out data were named{share}: the last {percent} % of each dataset of the hub are held out"
        )
    else:
        shape = {key: entries[0][key] for key in SHAPE if key in entries[0]}
        data["eval"] = [{"path": entries[0]["path"], **shape}] if shape else entries[0]["path"]
        draft.notes.append(
            f"no held-out data were named{share}: data.eval is the training data; name others before a search (--eval; "
            "`rankray init --data FILE` sets a tenth aside)"
        )
