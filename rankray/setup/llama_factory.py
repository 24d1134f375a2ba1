"""LLaMA-Factory's YAML for supervised fine-tuning, and the `dataset_info.json` that its datasets are named in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from rankray.data.formats import ALPACA_WITHOUT_INPUT
from rankray.errors import ConfigError
from rankray.model.files import has_chat_template, local_model
from rankray.setup.foreign import Draft, common, dtype, lora, quantization
from rankray.setup.foreign_data import TEMPLATE, column_field, leftovers, source

logger = logging.getLogger(__name__)

PLAIN = {
    "alpaca": f"{ALPACA_WITHOUT_INPUT}\n\n### Instruction:\n%s\n\n### Response:\n",
    "default": "Human: %s\nAssistant:",
    "empty": "%s", "vanilla": "%s", "fewshot": "%s\n",
}  # fmt: skip
"""Templates that are no model's own -> what they make of what is asked."""
USUAL = ("instruction", "input", "output")
"""Columns of what is asked, what is given with it, and the answer, where a data set names none."""
KNOWN = {"file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "subset", "split", "formatting", "columns", "tags",
         "num_samples", "ranking"}  # fmt: skip
TAGS = {
    "role_tag": ("from", "role"), "content_tag": ("value", "content"), "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant"), "observation_tag": ("observation", "tool", "function"),
    "function_tag": ("function_call", "tool_call"), "system_tag": ("system",),
}  # fmt: skip
"""Names and roles of turns that are recognised, as LLaMA-Factory maps them."""
COLUMNS = {"tools": ("tools",), "system": ("system", "system_prompt"), "history": ("history",)}
"""Columns that are read under these names alone, and not beside templates; tools beside a column of turns alone."""
ATTENTION = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager"}


class Form(NamedTuple):
    """What is made of a question: the text around `%s`, and whether it is that of a template of `PLAIN`."""

    text: str
    is_plain: bool


def fill(draft: Draft, base: Path) -> None:
    """Fill in a draft.

    Raises:
        ConfigError: another stage than supervised fine-tuning, or no dataset.
    """
    stage = draft.take("stage", default="sft")
    if stage != "sft":
        raise ConfigError(f"import: stage {stage!r}; allowed is sft, supervised fine-tuning; take another file")
    draft.set("model.path", draft.take("model_name_or_path"))
    draft.move("model.trust_remote_code", "trust_remote_code")
    draft.move("model.revision", "model_revision")
    kind = draft.take("finetuning_type", default="lora")
    parts = [draft.take(f"lora_{name}") for name in ("rank", "alpha", "dropout", "target")]
    if kind == "lora":
        lora(draft, parts[0] or 8, parts[1] or 2 * (parts[0] or 8), parts[2], parts[3])
        if draft.take("use_dora"):
            draft.set("model.lora.dora", True)
    elif kind != "full":
        draft.note("finetuning_type", kind, "allowed here are full and lora; all weights are trained")
    attention = draft.take("flash_attn")
    if attention in ATTENTION:
        draft.set("model.attn_implementation", ATTENTION[attention])
    method = draft.take("quantization_method", default="bnb")
    bits = draft.take("quantization_bit")
    if bits and method not in ("bnb", "bitsandbytes"):
        draft.note("quantization_method", method, "allowed here is bnb; the weights stay whole")
    else:
        quantization(draft, bits, "quantization_bit")
    draft.take("double_quantization", "quantization_type")
    dtype(draft, "bfloat16" if draft.take("pure_bf16") else draft.take("infer_dtype"))
    template = draft.take("template")
    if template:
        draft.note("template", template, TEMPLATE)
    draft.move("data.max_length", "cutoff_len")
    if not draft.take("mask_history"):
        draft.set("data.train_on", "all")
    if draft.take("train_on_prompt"):
        draft.set("data.prompt_weight", 1.0)
    if draft.take("enable_liger_kernel"):
        draft.set("train.sft.use_liger_kernel", True)
    if draft.take("streaming"):
        draft.set("data.streaming", True)
    is_chat = template not in PLAIN and _renders_chats(draft, base)
    is_plain = not is_chat and (template is None or template in PLAIN)
    form = PLAIN[template or "empty"] if is_plain else "%s" if is_chat else "%s\n"
    _datasets(draft, base, Form(form, is_plain))
    if template == "default":
        draft.note("template", template, "no EOS token is written after a question here")
    if is_chat:
        draft.set("data.chat", True)
    _loss(draft)
    draft.share = draft.take("val_size")
    common(draft)


def _loss(draft: Draft) -> None:
    dft, eaft, asft = (draft.take(f"use_{name}_loss") for name in ("dft", "eaft", "asft"))
    power, anchor = draft.take("eaft_alpha", default=1.0), draft.take("asft_alpha", default=0.1)
    if dft or asft:
        draft.set("loss.objective", "dft")
    elif eaft:
        draft.tree["loss"] = {"objective": "eaft", "alpha": float(power), "eaft_scale": 3}
    if asft and not (dft or eaft):  # LLaMA-Factory asks in this order
        draft.set("loss.kl_weight", float(anchor))


def _renders_chats(draft: Draft, base: Path) -> bool:
    """Whether the model has a chat template, as far as that can be seen: one of the hub is taken to have one."""
    path = str(draft.tree["model"]["path"])
    directory = base / path if (base / path).is_dir() else local_model(path)
    return directory is None or has_chat_template(directory)


def _datasets(draft: Draft, base: Path, form: Form) -> None:
    names = draft.take("dataset")
    if not names:
        raise ConfigError("import: the file has no dataset; needed is one; add it")
    listed = names if isinstance(names, list) else [name.strip() for name in str(names).split(",")]
    if not all(isinstance(name, str) for name in listed):
        raise ConfigError(
            "import: dataset: allowed are names of dataset_info.json, as a list or with commas; correct it"
        )
    shares = draft.take("interleave_probs")
    draft.take("mix_strategy")
    parts = shares if isinstance(shares, list) else str(shares).split(",")
    weights = [float(part) for part in parts] if shares else [None] * len(listed)
    directory = _directory(base, str(draft.take("dataset_dir", default="data")))
    known = _info(directory / "dataset_info.json")
    entries = [_entry(draft, name, directory, known, form) for name in listed]
    most = draft.take("max_samples")
    for entry, weight in zip(entries, weights, strict=False):
        entry |= {} if weight is None else {"weight": weight}
        if most is not None:
            entry["max_examples"] = min(int(most), entry.get("max_examples", int(most)))
    single = len(entries) == 1 and set(entries[0]) == {"path"}
    draft.set("data.train", entries[0]["path"] if single else entries)
    held_out = draft.take("eval_dataset")
    if held_out:
        names = held_out if isinstance(held_out, list) else [name.strip() for name in str(held_out).split(",")]
        draft.set("data.eval", [_entry(draft, name, directory, known, form) for name in names])


def _entry(draft: Draft, name: str, directory: Path, known: dict[str, Any], form: Form) -> dict[str, Any]:
    found = known.get(name)
    if found is None:
        draft.note("dataset", name, f"is not in {directory / 'dataset_info.json'}; its file is taken to be {name}.json")
        return {"path": str(directory / f"{name}.json")}
    if found.get("hf_hub_url"):
        entry: dict[str, Any] = {"path": source(found["hf_hub_url"], found.get("subset"), found.get("split", "train"))}
    else:
        entry = {"path": str(directory / str(found.get("file_name", f"{name}.json")))}
    if found.get("ranking"):
        raise ConfigError(
            f"import: dataset {name!r} has ranking: true, a preference set; allowed is supervised fine-tuning; take "
            "another"
        )
    columns, where = found.get("columns", {}), f"dataset_info.{name}"
    leftovers(draft, found, KNOWN, where)
    if found.get("num_samples"):
        entry["max_examples"] = int(found["num_samples"])
    tags = {key: value for key, value in found.get("tags", {}).items() if value not in TAGS.get(key, (value,))}
    if tags:
        draft.note(f"{where}.tags", tags, "turns have role and content, or from and value, here")
    if found.get("formatting") in ("sharegpt", "openai"):
        entry["messages"] = columns.get(
            "messages", "conversations" if found["formatting"] == "sharegpt" else "messages"
        )
        entry["format"] = "sharegpt"
        _note_names(draft, columns, ("tools", "system"), where)
        return entry
    asked, given, answer = (columns.get(key) for key in ("prompt", "query", "response")) if columns else USUAL
    if (asked, given, answer) == USUAL and not (
        form.is_plain and not (columns.get("system") or columns.get("history"))
    ):
        entry["format"] = "alpaca"
        _note_names(draft, columns, ("system", "history"), where)
        _note_unread(draft, columns, ("tools",), where, "are read beside a column of turns alone")
        return entry
    entry |= _templates(asked or given, given if asked else None, answer, form.text, where)
    _note_unread(
        draft, columns, ("tools", "system", "history"), where,
        "is not part of templates; name the other columns instruction, input and output, and this one by its key",
    )  # fmt: skip
    return entry


def _note_names(draft: Draft, columns: dict[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in keys:
        if columns.get(key) and columns[key] not in COLUMNS[key]:
            draft.note(f"{where}.columns.{key}", columns[key], f"has to be called {COLUMNS[key][0]} here")


def _note_unread(draft: Draft, columns: dict[str, Any], keys: tuple[str, ...], where: str, why: str) -> None:
    for key in keys:
        if columns.get(key):
            draft.note(f"{where}.columns.{key}", columns[key], why)


def _templates(asked: Any, given: Any, answer: Any, form: str, where: str) -> dict[str, str]:
    """Return the templates over a data set's columns: LLaMA-Factory joins question and input, those that are not empty.

    Raises:
        ConfigError: there is no question or no answer, or a column whose name a template cannot have.
    """
    for key, column in (("prompt", asked), ("response", answer)):
        if not column:
            raise ConfigError(
                f"import: {where}.columns has no {key}; needed are prompt and response, for supervised fine-tuning; "
                "name its column, or take another data set"
            )
    more = f"{{\n{column_field(given, f'{where}.columns')[1:-1]}?}}" if given else ""
    question, completion = (column_field(column, f"{where}.columns") for column in (asked, answer))
    return {"format": "columns", "prompt": form % (question + more), "completion": completion}


def _directory(base: Path, given: str) -> Path:
    """Return the directory of the data sets: LLaMA-Factory starts in its own, above the files that it is given."""
    places = [place / given for place in (base, Path.cwd(), *base.parents)]
    return next((place for place in places if (place / "dataset_info.json").is_file()), places[0])


def _info(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        logger.debug("%s cannot be read: %s", file, error)
        return {}
    return found if isinstance(found, dict) else {}
