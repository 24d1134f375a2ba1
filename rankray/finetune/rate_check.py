"""The learning rates that a trial will have, looked at before it starts: made by the scheduler that training uses.

A schedule may take settings that make no sense beside the rest: a least rate above the highest, a decay that never
ends. What the library itself refuses is refused with the field, and what it computes is looked at step by step.
"""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

from transformers import get_scheduler
from trl import SFTConfig  # type: ignore[attr-defined]

from rankray.config import Config
from rankray.config.space import RATE, distributions
from rankray.errors import ConfigError, first_line, shown
from rankray.finetune.schedules import SETTINGS, TYPE

logger = logging.getLogger(__name__)

LOOKED_AT = 1000
"""How many steps of a longer run are looked at."""
ROUNDING = 1e-6


def check_rates(config: Config, arguments: SFTConfig, optimizer: Any) -> list[str]:
    """Make the schedule and follow it; return what is odd about it for some of the rates that the space has.

    Args:
        config: of one trial, or of a search with its space.
        arguments: made of `config`.
        optimizer: made of `arguments`, of any weights.

    Raises:
        ConfigError: transformers refuses the settings, or a rate is negative, not finite, or above the one that
            `train.learning_rate` gives as the highest.
    """
    sft = config.train.sft
    if TYPE not in sft and SETTINGS not in sft:
        return []
    searched = distributions(config).get(RATE) if config.space else None
    rates = [config.train.learning_rate]
    if searched is not None:
        rates = sorted(searched.choices or (searched.low, searched.high))
    problems = [_problem(config, arguments, optimizer, rate) for rate in rates]
    if not problems[-1] and problems[0]:
        return [f"train.sft.{SETTINGS}: {problems[0]}; min_lr_rate, a share of the rate, fits all of them"]
    if problems[-1]:
        raise ConfigError(f"train.sft.{SETTINGS}: {problems[-1]}; allowed are rates from 0 to that; correct it")
    return []


def _problem(config: Config, arguments: SFTConfig, optimizer: Any, rate: float) -> str:
    """Return what is odd about the learning rates from a highest one, or an empty text."""
    for step, found in rates_of(config, arguments, optimizer, rate).items():
        if not (math.isfinite(found) and found >= -ROUNDING * rate):
            return f"the learning rate is {found:.3g} at step {step} with train.learning_rate {rate:.3g}"
        if found > rate * (1 + ROUNDING):
            return f"the learning rate rises to {found:.3g} at step {step}, above train.learning_rate {rate:.3g}"
    return ""


def rates_of(config: Config, arguments: SFTConfig, optimizer: Any, rate: float) -> dict[int, float]:
    """Return step -> the learning rate with which the step is made, from 0, for at most LOOKED_AT steps.

    Raises:
        ConfigError: transformers refuses the settings.
    """
    total = config.train.max_steps
    optimizer = copy.deepcopy(optimizer)
    for place in (optimizer.defaults, *optimizer.param_groups):
        place["lr"] = rate
        place.pop("initial_lr", None)
    try:
        scheduler: Any = get_scheduler(
            arguments.lr_scheduler_type,
            optimizer,
            num_warmup_steps=arguments.get_warmup_steps(total),
            num_training_steps=total,
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )
        every = max(1, math.ceil(total / LOOKED_AT))
        factor = scheduler.lr_lambdas[0]
        return {step: rate * float(factor(step)) for step in range(0, total, every)}
    except Exception as error:
        logger.debug("transformers refuses the schedule", exc_info=True)
        first = first_line(error)
        name = getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type)
        raise ConfigError(
            f"train.sft.{SETTINGS}: got {shown(arguments.lr_scheduler_kwargs)}: {shown(first, 300)}; allowed are "
            f"settings that {name} takes; correct it"
        ) from error
