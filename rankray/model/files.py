"""What a model's path refers to and what its config.json says, without torch."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from rankray.errors import ModelError
from rankray.paths import resolved

logger = logging.getLogger(__name__)


def local_model(path: str) -> Path | None:
    """Return the directory that a model path refers to, or None if it is a hub id.

    Raises:
        ModelError: it is no path.
    """
    if path.startswith((".", "/", "~")) or os.path.isdir(path):
        try:
            return Path(resolved(path))
        except ValueError as error:
            raise ModelError(f"model.path: {error}") from None
    return None


def model_on_disk(path: str, revision: str | None = None) -> Path | None:
    """Return the directory of a local model, or of a hub id in the hub's local cache; None where it is not there.

    The hub is not asked.

    Args:
        path: as `model.path` has it.
        revision: branch, tag or commit of a hub id; None is its main branch.

    Raises:
        ModelError: it is no path.
    """
    directory = local_model(path)
    if directory is not None:
        return directory
    from huggingface_hub import try_to_load_from_cache

    try:
        file = try_to_load_from_cache(path, "config.json", revision=revision)
    except ValueError as error:  # an id that cannot be one
        logger.debug("%s is not looked for in the cache: %s", path, error)
        return None
    return Path(file).parent if isinstance(file, str) else None


def weight_files(directory: Path) -> list[Path]:
    """Return the files that transformers would load a model's weights from; they need not all be there.

    Those of safetensors come first, then those that torch saved (`pytorch_model.bin`). A model may come in two forms,
    as Mistral's: `consolidated.safetensors` holds the weights a second time.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (directory / name).is_file():
            return [directory / name]
        named = _named_by(directory / f"{name}.index.json")
        if named:
            return named
    return sorted(directory.glob("*.safetensors"))


def _named_by(index: Path) -> list[Path]:
    """Return the files that an index of weights names; none where it cannot be read."""
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [index.parent / name for name in sorted(set(names))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.debug("%s has no list of weights to read: %s", index, error)
        return []


def has_chat_template(directory: Path) -> bool:
    """Whether the tokenizer in a model's directory has a chat template."""
    if any((directory / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        tree = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        logger.debug("%s has no tokenizer_config.json to read: %s", directory, error)
        return False
    return isinstance(tree, dict) and bool(tree.get("chat_template"))


def context_of(directory: Path) -> int | None:
    """Return the longest sequence a local model supports; None where its config.json is missing or does not say.

    Raises:
        ModelError: that file is no JSON object.
    """
    file = directory / "config.json"
    if not file.is_file():
        return None
    return context_length(json_object(file, "model.path"))


def json_object(file: Path, where: str) -> dict[str, Any]:
    """Return what a model's JSON file holds.

    Args:
        file: to read.
        where: how errors begin.

    Raises:
        ModelError: it cannot be read, or is no JSON object.
    """
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{where}: {str(file)!r} is not JSON ({error}); needed is a JSON object; save the model again"
        ) from error
    if not isinstance(tree, dict):
        raise ModelError(
            f"{where}: {str(file)!r} holds {type(tree).__name__}; needed is a JSON object; save the model again"
        )
    return tree


def context_length(config: dict[str, Any]) -> int | None:
    """Return the longest sequence a model supports, from its config.json; None where that does not say."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            length = source.get(key)
            if isinstance(length, int) and length > 0:
                return length
    return None
