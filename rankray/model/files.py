"""What a model's path means and what its config.json says, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def local_model(path: str) -> Path | None:
    """Return the directory a model path means, or None if it is an id on the hub."""
    if path.startswith((".", "/", "~")) or Path(path).is_dir():
        return Path(path).expanduser()
    return None


def context_length(config: dict[str, Any]) -> int | None:
    """Return the longest sequence a model was made for, from its config.json; None where it does not say."""
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in ("max_position_embeddings", "n_positions", "max_sequence_length"):
            if isinstance(source.get(key), int) and source[key] > 0:
                return source[key]
    return None
