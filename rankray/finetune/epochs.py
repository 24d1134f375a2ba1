"""`train.epochs`: from passes over the training examples to optimizer steps, counted before a study is opened.

The last batch of a pass may be smaller and is a step, as in transformers. Examples that keep no supervised token are
not trained on, and do not count.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from rankray.config import LoadedConfig, config_from
from rankray.data.encode import measure
from rankray.data.examples import Places
from rankray.data.parse import ROWS_AT_A_TIME
from rankray.data.sources import Source, is_local
from rankray.errors import ConfigError
from rankray.finetune.preview import tokenizer_and_limit
from rankray.model.files import local_model

logger = logging.getLogger(__name__)


def with_steps(loaded: LoadedConfig, download: bool = False) -> LoadedConfig:
    """Return the configuration with `train.max_steps` set from `train.epochs`, where that is given.

    Args:
        loaded: the configuration.
        download: load data and tokenizer from the hub to count; else a configuration that names them is left as it is.

    Raises:
        ConfigError: the number of steps would differ from trial to trial, or cannot be known.
        DataError: the data cannot be read.
    """
    config = loaded.config
    if config.train.epochs is None:
        return loaded
    where = f"{loaded.where('train.epochs')}: train.epochs"
    moving = [path for path in ("train.epochs", "train.batch_size") if path in config.space]
    if moving:
        raise ConfigError(
            f"{where}: {config.train.epochs:g} with {moving[0]} in the space, so that trials would have different "
            "numbers of steps; allowed is the same for all; set train.max_steps instead"
        )
    if config.train.sft.get("packing"):
        raise ConfigError(
            f"{where}: {config.train.epochs:g} with packing, which joins examples; allowed is one of the two; set "
            "train.max_steps instead"
        )
    if not download and not (is_local(config.data.train) and local_model(config.model.path)):
        logger.debug("steps of %g epochs are counted when the data are loaded", config.train.epochs)
        return loaded
    steps = steps_of(config.train.epochs, trained_examples(loaded), config.train.batch_size)
    tree = config.model_dump(mode="json")
    tree["train"]["max_steps"] = steps
    tree["store"] = config.store
    try:
        config_from(tree)  # refuses what does not go with this number of steps
    except ConfigError as error:
        raise ConfigError(f"{where}: {config.train.epochs:g} passes: {error}") from None
    counted = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps})})
    return replace(loaded, config=counted)


def steps_of(epochs: float, examples: int, batch_size: int) -> int:
    """Return the optimizer steps of so many passes; at least one, and of endlessly many more than is allowed."""
    return max(1, math.ceil(min(epochs * math.ceil(examples / batch_size), 2.0**31)))


def trained_examples(loaded: LoadedConfig) -> int:
    """Return how many training examples keep a supervised token."""
    config = loaded.config
    tokenizer, limit = tokenizer_and_limit(loaded)
    hub: Any = None
    if not is_local(config.data.train):
        from rankray.data.hub import HubOrigin

        hub = partial(HubOrigin, streaming=config.data.streaming)
    named = Places.at(loaded.where, "train")
    placed, count = Source("train", config.data, hub=hub, places=named, tokenizer=tokenizer).placed(), 0
    while part := list(islice(placed, ROWS_AT_A_TIME)):
        examples, places = [p.example for p in part], [p.place for p in part]
        count += sum(n.kept > 0 for n in measure(examples, tokenizer, config.data, limit, places))
    return count
