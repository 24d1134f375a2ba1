"""Axolotl's YAML for supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rankray.errors import ConfigError
from rankray.setup.foreign import (
    Draft,
    batches,
    dtype,
    evaluations,
    lora,
    pass_through,
    quantization,
    schedule,
    warmup,
)
from rankray.setup.foreign_data import TEMPLATE, chat_template, column_field, entries, is_a_part, leftovers, listed

FORMS = {"alpaca": "alpaca", "completion": "text", "sharegpt": "sharegpt", "chat_template": "messages"}
"""Axolotl's dataset types -> ours."""
MAPPINGS = (("role", "role"), ("content", "content"), ("role", "from"), ("content", "value"))
"""Names of turns' fields that are recognised, as Axolotl maps them."""
IN_OTHER_WORDS: dict[str, tuple[Any, ...]] = {
    "message_field_role": (None, "role", "from"), "message_field_content": (None, "content", "value"),
    "roles": (None,), "roles_to_train": (None, ["assistant"], ["gpt"], ["assistant", "gpt"]),
    "train_on_eos": (None, "turn"), "train_on_eot": (None, "turn"),
    "message_field_training": (None, "train", "training"),
}  # fmt: skip
"""Keys of a data set's entry -> values that say what is done here anyway."""
KNOWN = {
    "path", "name", "split", "data_files", "data_dir", "revision", "type", "ds_type", "field", "field_messages",
    "chat_template", "message_property_mappings", "field_tools", "field_system",
}  # fmt: skip

WARMUP, MOST_WARMUP = 0.03, 100
"""Axolotl's default warm-up: the share of the steps, and the most steps (`TrainerBuilderBase`)."""


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
    _data(draft, base)
    _training(draft)


def _loss(draft: Draft) -> None:
    power, most = draft.take("eaft_alpha", default=1.0), draft.take("eaft_k", default=20)
    if draft.take("use_eaft"):
        draft.tree["loss"] = {"objective": "eaft", "alpha": float(power), "eaft_scale": 1}
        if most != 20:
            draft.note("eaft_k", most, "the entropy is that of the 20 most probable tokens here")
    if draft.take("liger_use_token_scaling"):
        draft.set("loss.objective", "dft")


def _data(draft: Draft, base: Path) -> None:
    draft.set("data.max_length", draft.whole("sequence_len", 512))
    given = draft.take("datasets")
    if not given:
        raise ConfigError("import: the file has no datasets; needed is one; add it")
    given = listed(given)
    made = [entry for item in given for entry in _entries(draft, item)]
    draft.set("data.train", made[0]["path"] if len(made) == 1 and set(made[0]) == {"path"} else made)
    held_out = listed(draft.take("test_datasets") or [])
    for item in [each for each in held_out if is_a_part(each)]:
        held_out.remove(item)
        draft.note("test_datasets.split", item["split"], "all rows of a file are read; give held-out data with --eval")
    if held_out:
        draft.set("data.eval", [entry for item in held_out for entry in _entries(draft, item)])
    _loss(draft)
    draft.share = draft.take("val_set_size")
    if any(item.get("type") in ("chat_template", "sharegpt") for item in given if isinstance(item, dict)):
        draft.set("data.train_on", "all")
    if draft.take("train_on_inputs"):
        draft.set("data.prompt_weight", 1.0)
    template = draft.take("chat_template")
    text = draft.take("chat_template_jinja")
    if template in (None, "jinja") and text:
        chat_template(draft, "chat_template_jinja", text, base)
    elif template not in (None, "tokenizer_default"):
        draft.note("chat_template", template, TEMPLATE)


def _entries(draft: Draft, item: dict[str, Any]) -> list[dict[str, Any]]:
    own: dict[str, Any] = {}
    kind = item.get("type")
    if isinstance(kind, dict):
        own |= _templates(draft, kind)
    elif isinstance(kind, str) and kind.split(".")[0] in FORMS:
        form = FORMS[kind.split(".")[0]]
        if form in ("messages", "sharegpt"):
            own["messages"] = item.get("field_messages") or ("conversations" if form == "sharegpt" else "messages")
        elif form == "text" and item.get("field") not in (None, "text"):
            own |= {"prompt": "", "completion": column_field(str(item["field"]), "datasets.field")}
        else:
            own["format"] = form
    elif kind == "input_output":
        draft.note("datasets.type", kind, "segments are not read; docs/coming-from.md shows how to convert them")
    elif kind:
        draft.note("datasets.type", kind, "is recognised by its columns where that can be; see data.format")
    if item.get("chat_template") not in (None, "tokenizer_default"):
        draft.note("datasets.chat_template", item["chat_template"], TEMPLATE)
    mapped = item.get("message_property_mappings") or {}
    if not set(mapped.items()) <= set(MAPPINGS):
        draft.note("datasets.message_property_mappings", mapped, "turns have role and content, or from and value, here")
    for name, values in IN_OTHER_WORDS.items():
        if item.get(name) not in values:
            draft.note(f"datasets.{name}", item[name], "turns are recognised, and all of the assistant's are trained")
    leftovers(draft, item, KNOWN | IN_OTHER_WORDS.keys(), "datasets")
    return [{**entry, **own} for entry in entries(draft, item, "datasets")]


def _templates(draft: Draft, kind: dict[str, Any]) -> dict[str, str]:
    """Return templates for a format of the user's own.

    Raises:
        ConfigError: a column whose name no template can have.
    """
    names = {part: str(kind.get(f"field_{part}") or part) for part in ("instruction", "input", "output", "system")}
    asked, given, answer, told = (column_field(name, "datasets.type") for name in names.values())
    form, other = str(kind.get("format") or "{instruction} {input}"), kind.get("no_input_format")
    if other is not None and form.replace("\n{input}", "") == other:
        form = form.replace("\n{input}", f"{{\n{given[1:-1]}?}}")
    elif "{input}" in form and other is not None and other != form:
        draft.note("datasets.type.no_input_format", other, "rows without an input have the same template here")
    prompt = form.replace("{instruction}", asked).replace("{input}", f"{given[:-1]}?}}")
    system = str(kind.get("system_format") or "{system}")
    if kind.get("field_system"):
        if system != "{system}":
            draft.note("datasets.type.system_format", system, "rows without a system prompt have its text, too")
        system = system.replace("{system}", f"{told[:-1]}?}}")
    elif kind.get("system_prompt"):
        system = system.replace("{system}", str(kind["system_prompt"])).replace("{", "{{").replace("}", "}}")
    else:
        system = ""
    known = {"field_instruction", "field_input", "field_output", "field_system", "format", "no_input_format",
             "system_format", "system_prompt"}  # fmt: skip
    leftovers(draft, kind, known, "datasets.type")
    return {"format": "columns", "prompt": system + prompt, "completion": answer}


def _schedule(draft: Draft) -> None:
    """Set the schedule; a cosine down to a share of the rate is one of its own in transformers."""
    name, least = draft.take("lr_scheduler", default="cosine"), draft.take("cosine_min_lr_ratio")
    if name == "cosine" and least:
        name = "cosine_with_min_lr"
        draft.set("train.sft.lr_scheduler_kwargs.min_lr_rate", float(least))
    elif least:
        draft.note("cosine_min_lr_ratio", least, "goes with lr_scheduler: cosine")
    schedule(draft, "lr_scheduler", name)


def _warmup(draft: Draft, steps: int) -> None:
    """Set the warm-up; where neither a share nor a number of steps is given, Axolotl's own default is."""
    share, count = draft.take("warmup_ratio"), draft.take("warmup_steps")
    if share is not None or count is not None:
        warmup(draft, share if count is None else None, count)
        return
    wanted = min(int(WARMUP * steps), MOST_WARMUP)
    draft.set("train.warmup_ratio", (2 if wanted == 1 else wanted) / steps if steps else WARMUP)  # 1 is 2 there
    draft.notes.append(
        f"warmup_ratio: not given: {100 * WARMUP:.0f} % of the steps are taken, Axolotl's default, which there are at "
        f"most {MOST_WARMUP} steps"
    )


def _training(draft: Draft) -> None:
    batches(draft, "micro_batch_size", 1)
    steps, epochs = draft.whole("max_steps", 0), draft.take("num_epochs", default=1)
    draft.set(*(("train.max_steps", steps) if steps > 0 else ("train.epochs", float(epochs))))
    draft.set("train.learning_rate", float(draft.take("learning_rate", default=2e-5)))
    draft.move("train.weight_decay", "weight_decay")
    _warmup(draft, max(steps, 0))
    _schedule(draft)
    draft.move("train.seed", "seed")
    evaluations(draft)
    draft.move("evaluate.batch_size", "eval_batch_size")
    draft.move("storage", "output_dir")
    for ours, theirs in (("optim", "optimizer"), ("packing", "sample_packing"), ("max_grad_norm", "max_grad_norm")):
        value = draft.take(theirs)
        if value:
            draft.set(f"train.sft.{ours}", value)
    if draft.take("bf16") in (True, "auto", "true", "full"):
        draft.set("train.sft.bf16", True)
    draft.take("pad_to_sequence_len", "eval_sample_packing", "saves_per_epoch", "eval_table_size", "save_safetensors")
    draft.leave("evaluations are counted in steps here; set evaluate.every_steps", "evals_per_epoch")
    draft.leave("set train.sft.use_liger_kernel, with liger_kernel_config for the layers",
                "liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_layer_norm", "liger_swiglu")  # fmt: skip
    draft.leave("the loss is rankray's own", "liger_fused_linear_cross_entropy", "plugins")
    pass_through(draft)
