"""Evaluating what already exists: a checkpoint, a study's best, or the untrained model itself (`rankray evaluate`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from rankray.config.params import config_from
from rankray.config.schema import Config
from rankray.errors import ConfigError
from rankray.evaluate.run import evaluate
from rankray.model.resident import split_of, tokenizer_of
from rankray.model.trained import load_model

logger = logging.getLogger(__name__)

STATE_FILE = "rankray.json"
"""What training leaves in a checkpoint."""
EXPORTED_FILE = "rankray.yaml"
"""What `rankray export` writes beside a model."""
Reported = dict[str, dict[str, float | None]]
"""Name of a metric -> `value`, `stderr` and `n`."""


def config_of(checkpoint: Path) -> Config:
    """Return the configuration that a checkpoint was trained with.

    Raises:
        ConfigError: the directory is no checkpoint of rankray, or one of a version that did not keep it.
    """
    file = checkpoint / STATE_FILE
    try:
        held = json.loads(file.read_text(encoding="utf-8")).get("config")
    except (OSError, ValueError) as error:
        logger.debug("%s: %s", file, error)
        held = None
    if not held:
        raise ConfigError(
            f"evaluate: {str(checkpoint)!r} does not say what it was trained with; allowed is a checkpoint of this "
            "version, what `rankray export` wrote, or any model directory with a configuration; give the file as the "
            "second argument"
        )
    return config_from({**held, "store": "worker://"})


def evaluate_target(config: Config, checkpoint: Path | None, split: str = "eval") -> Reported:
    """Return the metrics of `evaluate:` on a model, each with its error.

    Args:
        config: which data and which metrics.
        checkpoint: whose weights; None is the model of `model.path` itself.
        split: `eval`, or `test`, all of which is used.

    Raises:
        DataError, ModelError, ConfigError: it cannot be evaluated so.
    """
    model, tokenizer = load_model(config, checkpoint), tokenizer_of(config)
    data = split_of(split, config, tokenizer)
    return grouped(evaluate(model, tokenizer, data, config))


def grouped(figures: Mapping[str, float]) -> Reported:
    """Return `name`, `name_stderr` and `name_n` as one entry for each name; null where there is no such number."""
    found: Reported = {}
    for name, value in figures.items():
        if not any(name == f"{other}{end}" for other in figures for end in ("_stderr", "_n")):
            found[name] = {
                "value": _number(value),
                "stderr": _number(figures.get(f"{name}_stderr")),
                "n": _number(figures.get(f"{name}_n")),
            }
    return found


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else value
