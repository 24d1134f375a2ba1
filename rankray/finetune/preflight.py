"""Find mistakes in data and model before anything expensive starts, without importing torch.

`check` prints what this finds, and `search` calls it before Ray starts. Local files and model directories are read,
including those that the space may choose. Data and models on the Hugging Face hub are checked when they are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rankray.config import Config, LoadedConfig, apply_params
from rankray.config.evaluation import is_sampled
from rankray.config.space import distributions
from rankray.data.chat import Example
from rankray.data.examples import Places, common_prefix
from rankray.data.files import file_fingerprint, hub_parts, is_file_source
from rankray.data.leaks import leaks_line, leaks_of
from rankray.data.sources import Source, entries_of, fingerprint, is_local
from rankray.errors import ConfigError, DataError, ModelError, nearest
from rankray.evaluate.answers import check_answer, is_function
from rankray.finetune.base_model import check_base_model
from rankray.finetune.sft_fields import check_sft_fields
from rankray.model.files import context_length, local_model

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
SAMPLE_ABOVE_BYTES = 32 << 20


def preflight(loaded: LoadedConfig) -> dict[str, Any]:
    """Check data and model of a configuration and return their fingerprints.

    Returns:
        `{"data": {"train": ..., "eval": ...}, "model": ...}`, and `test` where `data.test` is given: `sha256:...` of a
        local file, or of a local model's config.json and weights (of files above 32 MiB: the size and evenly spaced
        samples); otherwise the hub id.

    Raises:
        DataError: a file is missing, unreadable or empty, a column does not exist, messages are malformed, or
            `data.max_length` leaves no completion.
        ModelError: a local model directory is incomplete.
        ConfigError: `train.sft` holds a field that does not exist or is set elsewhere.
    """
    for variant in _searched_variants(loaded):
        _check(variant)
    return _check(loaded)


def _check(loaded: LoadedConfig) -> dict[str, Any]:
    config = loaded.config
    check_sft_fields(config.train.sft, loaded.where)
    check_base_model(loaded)
    model, directory = _check_model(config.model.path, loaded.where("model.path"))
    splits = ("train", "eval", *(["test"] if config.data.test is not None else []))
    data = {split: _check_split(split, loaded, directory) for split in splits}
    return {"data": data, "model": model}


def _searched_variants(loaded: LoadedConfig) -> Iterator[LoadedConfig]:
    """Yield the configuration with each choice or lower bound the space has for data, model path and `train.sft`."""
    for path, distribution in distributions(loaded.config).items():
        if path == "model.path" or path.startswith(("data.", "train.sft.")):
            place = loaded.places.get(("space", path), loaded.file)
            places = {**loaded.places, tuple(path.split(".")): place}
            low = int(distribution.low) if distribution.kind == "int" else distribution.low
            for value in distribution.choices or (low,):
                yield LoadedConfig(apply_params(loaded.config, {path: value}), loaded.file, places)


def _check_model(path: str, place: str) -> tuple[str, Path | None]:
    directory = local_model(path)
    if directory is None:
        return path, None
    where = f"{place}: model.path"
    if not directory.is_dir():
        near = [p.name for p in directory.parent.iterdir() if p.is_dir()] if directory.parent.is_dir() else []
        raise ModelError(
            f"{where}: no directory {path!r}{nearest(directory.name, near)}; allowed is a model directory or a hub id; "
            "fix the path"
        )
    have = ", ".join(sorted(p.name for p in directory.iterdir())[:12]) or "nothing"
    needed = {"config.json": ("config.json",), "weights (*.safetensors)": WEIGHT_FILES, "a tokenizer": TOKENIZER_FILES}
    for what, patterns in needed.items():
        if not any(any(directory.glob(pattern)) for pattern in patterns):
            raise ModelError(
                f"{where}: {path!r} lacks {what} (it holds {have}); needed are config.json, weights and a tokenizer; "
                "save model and tokenizer there with save_pretrained"
            )
    _read_json(directory / "config.json", where)
    files = [directory / "config.json", *sorted(directory.glob("*.safetensors"))]
    parts = [f"{file.name} {file_fingerprint(file, SAMPLE_ABOVE_BYTES)}" for file in files]
    return f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}", directory


def _check_split(split: str, loaded: LoadedConfig, model: Path | None) -> str:
    data, place = loaded.config.data, loaded.where(f"data.{split}")
    given, where = getattr(data, split), f"{place}: data.{split}"
    if not is_local(given):
        for entry in entries_of(given):
            if not is_file_source(entry.path):
                hub_parts(entry.path, where)
        return fingerprint(given, where)
    names = {name: f"{loaded.where(f'data.{name}')}: data.{name}" for name in ("prompt", "completion", "messages")}
    examples = [placed.example for placed in Source(split, data, places=Places(source=where, **names)).examples()]
    if split != "train" and _answers(loaded.config):
        _check_answers(loaded, examples)
    if model is not None:
        where = f"{loaded.where('data.max_length')}: data.max_length"
        _check_room(examples, model, split, data.max_length, where)
        if any(example.is_chat for example in examples) and not _has_chat_template(model):
            raise ModelError(
                f"{names['messages']}: the tokenizer in {str(model)!r} has no chat template; needed is one; "
                "take a chat model, or use data.prompt and data.completion"
            )
    return fingerprint(given, where)


def leak_warnings(loaded: LoadedConfig) -> list[str]:
    """Return a line for each held-out split of which prompts also stand in the training data; only files are compared.

    Raises:
        DataError: a file cannot be read.
    """
    found = leaks_of(loaded.config.data)
    return [line for split, leaks in found.items() if (line := leaks_line(split, leaks))]


def _answers(config: Config) -> bool:
    """Whether answers are generated and compared with the references of the data."""
    names = config.evaluate.metrics
    return any(name == "accuracy" or is_sampled(name) for name in names) and config.evaluate.answer != "code"


def _check_answers(loaded: LoadedConfig, examples: Sequence[Example]) -> None:
    texts = [str(e.completion if isinstance(e.completion, str) else e.completion[-1]["content"]) for e in examples]
    how = loaded.config.evaluate.answer
    if is_function(how):
        return  # on the Python path of the nodes, perhaps not of this machine
    try:
        check_answer(how, texts)
    except ConfigError as error:
        raise ConfigError(f"{loaded.where('evaluate.answer')}: {error}") from None


def _check_room(examples: Sequence[Example], model: Path, split: str, max_length: int, where: str) -> None:
    """Raise DataError unless at least one example keeps a completion token after cutting; stop at the first one."""
    file = model / "tokenizer.json"
    if not file.is_file():
        return
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(file))
    context = context_length(_read_json(model / "config.json", where))
    limit = min(max_length, context or max_length)
    shortest = None
    for prompt, completion, _ in examples:
        kept = _prompt_tokens(tokenizer, prompt, completion)
        if kept < limit:
            return
        shortest = kept if shortest is None else min(shortest, kept)
    said = f"{max_length}" if limit == max_length else f"{max_length}, and the model's context of {limit},"
    raise DataError(
        f"{where}: {said} leaves no completion token of any of the {len(examples)} examples of data.{split}: the "
        f"shortest prompt has {shortest} tokens; allowed is more; raise data.max_length or shorten data.prompt"
    )


def _prompt_tokens(tokenizer: Any, prompt: Any, completion: Any) -> int:
    """Return how many tokens precede the completion; for chat a lower bound, because the template adds some."""
    if isinstance(prompt, str):
        whole = tokenizer.encode(prompt + completion).ids
        return common_prefix(tokenizer.encode(prompt).ids, whole)
    text = "".join(turn["content"] for turn in prompt)
    return len(tokenizer.encode(text, add_special_tokens=False).ids) if text else 0


def _has_chat_template(model: Path) -> bool:
    if (model / "chat_template.jinja").is_file() or (model / "chat_template.json").is_file():
        return True
    file = model / "tokenizer_config.json"
    return file.is_file() and bool(_read_json(file, "model.path").get("chat_template"))


def _read_json(file: Path, where: str) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{where}: {str(file)!r} is not JSON ({error}); needed is a JSON object; save the model again"
        ) from error
    if not isinstance(tree, dict):
        raise ModelError(
            f"{where}: {str(file)!r} holds {type(tree).__name__}; needed is a JSON object; save the model again"
        )
    return tree
