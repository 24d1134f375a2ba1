"""Axolotl's YAML for supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankray.data.files import is_file_source
from rankray.errors import ConfigError
from rankray.setup.foreign import Draft, dtype, lora, pass_through, quantization, schedule, warmup
from rankray.setup.trl_file import source

FORMS = {"alpaca": "alpaca", "completion": "text", "sharegpt": "sharegpt", "chat_template": "messages"}
"""Axolotl's dataset types -> ours."""


def fill(draft: Draft, base: Path) -> None:
    """Fill in a draft.

    Raises:
        ConfigError: another training than supervised fine-tuning, or no dataset.
    """
    if draft.given.get("rl"):
        raise ConfigError(f"import: rl {draft.given['rl']!r}; allowed is supervised fine-tuning; take another file")
    draft.set("model.path", draft.take("base_model"))
    draft.take("model_type", "tokenizer_type", "base_model_config", "is_llama_derived_model", "strict")
    draft.move("model.trust_remote_code", "trust_remote_code")
    draft.move("model.revision", "revision_of_model", "model_revision")
    draft.move("model.attn_implementation", "attn_implementation")
    if draft.take("flash_attention"):
        draft.set("model.attn_implementation", "flash_attention_2")
    draft.take("sdp_attention")
    adapter = draft.take("adapter")
    parts = [draft.take(f"lora_{name}") for name in ("r", "alpha", "dropout")]
    targets = draft.take("lora_target_modules")
    targets = "all-linear" if draft.take("lora_target_linear") else targets
    if adapter in ("lora", "qlora"):
        lora(draft, parts[0], parts[1], parts[2], targets)
    elif adapter:
        draft.note("adapter", adapter, "allowed here is lora; all weights are trained")
    if draft.take("peft_use_dora"):
        draft.set("model.lora.dora", True)
    quantization(draft, 4 if draft.take("load_in_4bit") else 0, "load_in_4bit")
    quantization(draft, 8 if draft.take("load_in_8bit") else 0, "load_in_8bit")
    dtype(draft, draft.take("torch_dtype"))
    _data(draft)
    _training(draft)


def _data(draft: Draft) -> None:
    draft.move("data.max_length", "sequence_len")
    given = draft.take("datasets")
    if not given:
        raise ConfigError("import: the file has no datasets; needed is one; add it")
    entries = [_entry(draft, item) for item in given]
    draft.set("data.train", entries[0]["path"] if len(entries) == 1 and set(entries[0]) == {"path"} else entries)
    held_out = draft.take("test_datasets")
    if held_out:
        draft.set("data.eval", [_entry(draft, item) for item in held_out])
    draft.take("val_set_size")
    if any(item.get("type") in ("chat_template", "sharegpt") for item in given if isinstance(item, dict)):
        draft.set("data.train_on", "all")
    if draft.take("train_on_inputs"):
        draft.set("data.prompt_weight", 1.0)
    template = draft.take("chat_template")
    if template not in (None, "tokenizer_default"):
        draft.note("chat_template", template, "conversations are rendered by the tokenizer's own chat template")


def _entry(draft: Draft, item: dict[str, Any]) -> dict[str, Any]:
    files, split = item.get("data_files"), item.get("split") or "train"
    path = (
        files if isinstance(files, str) and is_file_source(files) else source(item.get("path"), item.get("name"), split)
    )
    entry: dict[str, Any] = {"path": path}
    kind = item.get("type")
    if isinstance(kind, dict):
        draft.note("datasets.type", kind, "a format of its own; write data.prompt and data.completion")
    elif isinstance(kind, str) and kind.split(".")[0] in FORMS:
        form = FORMS[kind.split(".")[0]]
        if form in ("messages", "sharegpt"):
            entry["messages"] = item.get("field_messages") or ("conversations" if form == "sharegpt" else "messages")
        else:
            entry["format"] = form
    elif kind:
        draft.note("datasets.type", kind, "is recognised by its columns where that can be; see data.format")
    for name in ("message_field_role", "message_property_mappings", "roles", "roles_to_train", "train_on_eos"):
        if item.get(name) not in (None, ["assistant"], "turn"):
            draft.note(f"datasets.{name}", item[name], "turns are recognised, and all of the assistant's are trained")
    return entry


def _schedule(draft: Draft) -> None:
    """Set the schedule; a cosine down to a share of the rate is one of its own in transformers."""
    name, least = draft.take("lr_scheduler", default="cosine"), draft.take("cosine_min_lr_ratio")
    if name == "cosine" and least:
        name = "cosine_with_min_lr"
        draft.set("train.sft.lr_scheduler_kwargs.min_lr_rate", float(least))
    elif least:
        draft.note("cosine_min_lr_ratio", least, "goes with lr_scheduler: cosine")
    schedule(draft, "lr_scheduler", name)


def _training(draft: Draft) -> None:
    micro = int(draft.take("micro_batch_size", default=1))
    draft.set("train.batch_size", micro * int(draft.take("gradient_accumulation_steps", default=1)))
    draft.set("train.micro_batch_size", micro)
    steps, epochs = draft.take("max_steps"), draft.take("num_epochs", default=1)
    draft.set(*(("train.max_steps", steps) if steps and int(steps) > 0 else ("train.epochs", float(epochs))))
    draft.set("train.learning_rate", float(draft.take("learning_rate", default=2e-5)))
    draft.move("train.weight_decay", "weight_decay")
    warmup(draft, draft.take("warmup_ratio"), draft.take("warmup_steps"))
    _schedule(draft)
    draft.move("train.seed", "seed")
    draft.move("evaluate.every_steps", "eval_steps")
    draft.move("evaluate.batch_size", "eval_batch_size")
    draft.move("storage", "output_dir")
    for ours, theirs in (("optim", "optimizer"), ("packing", "sample_packing"), ("max_grad_norm", "max_grad_norm")):
        value = draft.take(theirs)
        if value:
            draft.set(f"train.sft.{ours}", value)
    if draft.take("bf16") in (True, "auto", "true", "full"):
        draft.set("train.sft.bf16", True)
    for name in ("fp16", "tf32", "pad_to_sequence_len", "eval_sample_packing", "saves_per_epoch", "evals_per_epoch",
                 "eval_table_size", "save_safetensors", "group_by_length"):  # fmt: skip
        value = draft.take(name)
        if value and name in ("fp16", "group_by_length"):
            draft.note(name, value, "has no counterpart here")
    if draft.tree["train"].get("sft", {}).get("packing") and "epochs" in draft.tree["train"]:
        draft.tree["train"]["sft"].pop("packing")
        draft.note("sample_packing", True, "epochs cannot be counted with packing; set train.max_steps and packing")
    draft.leave("the loss is rankray's own", "use_eaft", "liger_fused_linear_cross_entropy", "plugins")
    pass_through(draft)
