"""The YAML of a TRL script: the fields of its ScriptArguments, ModelConfig and SFTConfig in one mapping."""

from __future__ import annotations

from pathlib import Path

from rankray.data.files import is_file_source
from rankray.errors import ConfigError
from rankray.setup.foreign import Draft, common, dtype, lora, quantization
from rankray.setup.foreign_data import chat_template, entries, leftovers, source


def fill(draft: Draft, base: Path) -> None:
    """Fill in a draft.

    Raises:
        ConfigError: the file names no dataset.
    """
    draft.set("model.path", draft.take("model_name_or_path"))
    draft.move("model.revision", "model_revision")
    draft.move("model.attn_implementation", "attn_implementation")
    draft.move("model.trust_remote_code", "trust_remote_code")
    dtype(draft, draft.take("dtype", "torch_dtype"))
    adapters = [draft.take(f"lora_{name}") for name in ("r", "alpha", "dropout", "target_modules")]
    if draft.take("use_peft"):
        lora(draft, *adapters)
    if draft.take("use_dora"):
        draft.set("model.lora.dora", True)
    quantization(draft, 4 if draft.take("load_in_4bit") else 0, "load_in_4bit")
    quantization(draft, 8 if draft.take("load_in_8bit") else 0, "load_in_8bit")
    kind = draft.take("bnb_4bit_quant_type")
    if kind not in (None, "nf4"):
        draft.note("bnb_4bit_quant_type", kind, "4 bits are nf4 here")
    draft.take("use_bnb_nested_quant", "bnb_4bit_quant_storage", "bnb_4bit_compute_dtype")
    _data(draft)
    chat_template(draft, "chat_template_path", draft.take("chat_template_path"), base)
    if draft.take("assistant_only_loss"):
        draft.set("data.train_on", "all")
    if draft.take("completion_only_loss") is False:
        draft.set("data.prompt_weight", 1.0)
    if draft.given.get("lora_task_type") == "CAUSAL_LM":
        draft.take("lora_task_type")
    loss = draft.take("loss_type")
    if loss == "dft":
        draft.set("loss.objective", "dft")
    elif loss not in (None, "nll", "chunked_nll"):
        draft.note("loss_type", loss, "the loss is rankray's own")
    draft.leave("the loss is rankray's own", "use_liger", "label_smoothing_factor")
    common(draft)


def _data(draft: Draft) -> None:
    draft.move("data.max_length", "max_length", "max_seq_length")
    field = draft.take("dataset_text_field")
    if field and field != "text":
        draft.set("data.completion", f"{{{field}}}")
        draft.set("data.prompt", "")
    if draft.take("dataset_streaming", "streaming"):
        draft.set("data.streaming", True)
    name, config = draft.take("dataset_name"), draft.take("dataset_config", "dataset_config_name")
    train, test = draft.take("dataset_train_split", default="train"), draft.take("dataset_test_split")
    mixture = draft.take("datasets")
    evaluates = draft.given.get("eval_strategy", draft.given.get("evaluation_strategy", "no")) not in ("no", False)
    if mixture:
        known = {"path", "name", "split", "data_files", "data_dir", "columns"}
        for item in mixture:
            leftovers(draft, item, known, "datasets")
            if set(item.get("columns") or ()) - {"prompt", "completion", "messages", "text"}:
                draft.note("datasets.columns", item["columns"], "columns are recognised; see data.format")
        draft.set("data.train", [entry for item in mixture for entry in entries(draft, item, "datasets")])
    elif name:
        draft.set("data.train", source(name, config, train))
        if (test or evaluates) and not is_file_source(name):
            draft.set("data.eval", source(name, config, test or "test"))
    else:
        raise ConfigError("import: the file has neither dataset_name nor datasets; needed is one; add it")
