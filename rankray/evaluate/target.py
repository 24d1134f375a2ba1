"""Evaluating what already exists: a checkpoint, a study's best, or the untrained model itself (`rankray evaluate`)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from rankray.config.load import load_config
from rankray.config.params import config_from
from rankray.config.schema import Config
from rankray.errors import ConfigError, ModelError, UserError
from rankray.evaluate.run import evaluate
from rankray.model.files import local_model
from rankray.model.resident import split_of, tokenizer_of
from rankray.model.trained import ADAPTER_FILE, load_model

logger = logging.getLogger(__name__)

STATE_FILE = "rankray.json"
"""What training leaves in a checkpoint."""
EXPORTED_FILE = "rankray.yaml"
"""What `rankray export` writes beside a model."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
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


def with_own_tokenizer(config: Config, checkpoint: Path | None) -> tuple[Config, Path | None]:
    """Return what a directory's weights are to be evaluated with, where it has a tokenizer: with its own.

    A whole model is then `model.path`, with its own context, unless it was trained from the configuration's model. Its
    chat template is its own wherever `data.chat_template` names none.

    Args:
        config: as the file has it.
        checkpoint: the directory; None is the model of `model.path` itself.

    Raises:
        ConfigError: it holds adapters, and its tokenizer is not that of the model they are to be put on.
        ModelError: the tokenizer of the configuration's model cannot be loaded.
    """
    if checkpoint is None or not any((checkpoint / name).is_file() for name in TOKENIZER_FILES):
        return config, checkpoint
    is_adapter = (checkpoint / ADAPTER_FILE).is_file()
    alone = _at(config, checkpoint)
    if not is_adapter and (checkpoint / "config.json").is_file() and not _is_trained_from(config, checkpoint):
        return alone, None
    try:
        own = tokenizer_of(alone)
    except ModelError as error:
        logger.debug("%s has part of a tokenizer, the model's is used: %s", checkpoint, error)
        return config, checkpoint
    other = tokenizer_of(config)
    if is_adapter and _differ(own.get_vocab(), other.get_vocab(), own.pad_token):
        raise ConfigError(
            f"evaluate: the adapters in {str(checkpoint)!r} have another tokenizer than {config.model.path!r} (tokens "
            "or their numbers differ); allowed is the model that they were trained on; set model.path to it"
        )
    template = own.chat_template
    if config.data.chat_template is None and isinstance(template, str) and template != other.chat_template:
        logger.debug("%s has a chat template of its own, which is used", checkpoint)
        config = config.model_copy(update={"data": config.data.model_copy(update={"chat_template": template})})
    return config, checkpoint


def _at(config: Config, directory: Path) -> Config:
    """Return a configuration whose model is what lies in a directory."""
    model = config.model.model_copy(update={"path": str(directory.absolute()), "revision": None})
    return config.model_copy(update={"model": model})


def _is_trained_from(config: Config, checkpoint: Path) -> bool:
    """Whether a checkpoint, or what `rankray export` made of it, says that it was trained from a file's model."""
    try:
        if (checkpoint / STATE_FILE).is_file():
            own = config_of(checkpoint)
        elif (checkpoint / EXPORTED_FILE).is_file():
            own = load_config(checkpoint / EXPORTED_FILE).config
        else:
            return False
    except UserError as error:
        logger.debug("%s does not say what it was trained from: %s", checkpoint, error)
        return False
    places = [local_model(each.model.path) or each.model.path for each in (own, config)]
    return places[0] == places[1]


def _differ(own: Mapping[str, int], other: Mapping[str, int], padding: str | None) -> bool:
    """Whether two vocabularies differ in more than a token for padding that one of them lacks."""
    return {k: v for k, v in own.items() if k != padding} != {k: v for k, v in other.items() if k != padding}


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
