"""The YAML of a TRL script: the fields of its ScriptArguments, ModelConfig and SFTConfig in one mapping."""

from __future__ import annotations

from pathlib import Path

from rankray.data.files import is_file_source
from rankray.errors import ConfigError
from rankray.setup.foreign import Draft, common, dtype, lora, quantization
from rankray.setup.foreign_data import chat_template, column_field, entries, leftovers, listed, of_file, source


def fill(draft: Draft, base: Path) -> None:
    """Fill in a draft.

    Raises:
        ConfigError: the file names no dataset.
    """
    has_length = bool({"max_length", "max_seq_length"} & draft.given.keys())
    draft.set("model.path", draft.take("model_name_or_path"))
    draft.move("model.revision", "model_revision")
    draft.move("model.attn_implementation", "attn_implementation")
    draft.move("model.trust_remote_code", "trust_remote_code")
    dtype(draft, draft.take("dtype", "torch_dtype"))
    adapters = [draft.take(f"lora_{name}") for name in ("r", "alpha", "dropout", "target_modules")]
    if draft.take("use_peft"):
        rank, alpha, dropout, targets = adapters
        lora(draft, rank or 16, alpha or 32, 0.05 if dropout is None else dropout, targets)
        if not targets:
            draft.note(
                "lora_target_modules", None, "adapters are on all linear layers here, and on peft's choice there"
            )
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
    draft.set("data.train_on", "all")
    if not draft.take("assistant_only_loss") and draft.given.get("completion_only_loss") is not False:
        draft.note(
            "assistant_only_loss",
            False,
            "of conversations (messages) all tokens are trained on there, and those of the assistant here; "
            "data.prompt_weight: 1 trains on all",
        )
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
    common(draft, rate=2e-5)
    if not has_length:
        draft.set("data.max_length", 1024)


def _data(draft: Draft) -> None:
    draft.move("data.max_length", "max_length", "max_seq_length")
    field = draft.take("dataset_text_field")
    if field and field != "text":
        draft.set("data.completion", column_field(str(field), "dataset_text_field"))
        draft.set("data.prompt", "")
    if draft.take("dataset_streaming", "streaming"):
        draft.set("data.streaming", True)
    name, config = draft.take("dataset_name"), draft.take("dataset_config", "dataset_config_name")
    train, test = draft.take("dataset_train_split", default="train"), draft.take("dataset_test_split")
    mixture = draft.take("datasets")
    evaluates = draft.given.get("eval_strategy", draft.given.get("evaluation_strategy", "no")) not in ("no", False)
    if mixture:
        mixture = listed(mixture)
        known = {"path", "name", "split", "data_files", "data_dir", "columns"}
        for item in mixture:
            leftovers(draft, item, known, "datasets")
            if set(item.get("columns") or ()) - {"prompt", "completion", "messages", "text"}:
                draft.note("datasets.columns", item["columns"], "columns are recognised; see data.format")
        draft.set("data.train", [entry for item in mixture for entry in entries(draft, item, "datasets")])
    elif name:
        entry = of_file(draft, source(name, config, train), train, "dataset_train_split")
        draft.set("data.train", [entry] if len(entry) > 1 else entry["path"])
        if is_file_source(name) and test:
            draft.note("dataset_test_split", test, "a file has no splits; give held-out data with --eval")
        if (test or evaluates) and not is_file_source(name):
            draft.set("data.eval", source(name, config, test or "test"))
    else:
        raise ConfigError("import: the file has neither dataset_name nor datasets; needed is one; add it")
