"""Samplers and pruners: a name, and how it is made from a configuration.

A new strategy is one line in `SAMPLERS` or `PRUNERS` here and its name in `rankray.config.schema`. Options given as
`{name: tpe, n_startup_trials: 20}` go to the optuna class as they are and win over what is set here.

The seed of a sampler is derived from the study's seed and the *number of the trial it is made for*, which is the
number of trials already in the study. So a search that is stopped and started again goes on with fresh draws, and the
same history gives the same proposal whoever asks. Of two drivers that ask at the same moment, the later one asks again,
set `seed_salt` by its own name, so two drivers never draw the same point either.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection

from rankray.config.schema import Config
from rankray.errors import ConfigError, nearest

Factory = Callable[[Config, int], tuple[type, dict[str, Any]]]
"""From (configuration, seed) to a class and the arguments it takes unless the file says otherwise."""


def direction(config: Config) -> StudyDirection:
    """Return the study's direction as optuna has it."""
    return StudyDirection.MAXIMIZE if config.direction == "maximize" else StudyDirection.MINIMIZE


def _tpe(config: Config, seed: int) -> tuple[type, dict[str, Any]]:
    startup = max(4, min(10, config.study.trials // 4))
    return TPESampler, {
        "multivariate": True,
        "group": True,
        "constant_liar": True,
        "n_startup_trials": startup,
        "seed": seed,
    }


def _first_rung(config: Config) -> int:
    return min(config.evaluate.every_steps, config.full_steps)


SAMPLERS: dict[str, Factory] = {
    "tpe": _tpe,
    "random": lambda config, seed: (RandomSampler, {"seed": seed}),
}
PRUNERS: dict[str, Factory] = {
    "successive_halving": lambda config, seed: (
        SuccessiveHalvingPruner,
        {"min_resource": _first_rung(config), "reduction_factor": 3},
    ),
    "hyperband": lambda config, seed: (
        HyperbandPruner,
        {"min_resource": _first_rung(config), "max_resource": config.full_steps, "reduction_factor": 3},
    ),
    "median": lambda config, seed: (MedianPruner, {"n_startup_trials": 4, "n_warmup_steps": 0}),
    "none": lambda config, seed: (NopPruner, {}),
}
_NOT_OPTIONS = ("self", "seed", "gamma", "weights", "constraints_func", "categorical_distance_func")


def sampler(config: Config, number: int, seed_salt: str = "") -> BaseSampler:
    """Return the study's sampler, seeded for the trial of this number.

    `seed_salt` gives other draws than everybody else's for this number.

    Raises:
        ConfigError: `study.sampler` has an option that its class does not take, or a value that it refuses.
    """
    return _make(
        "study.sampler", config.study.sampler, SAMPLERS, config, derived_seed(config.study.seed, number, seed_salt)
    )


def pruner(config: Config) -> BasePruner:
    """Return the study's pruner.

    Raises:
        ConfigError: `study.pruner` has an option that its class does not take, or a value that it refuses.
    """
    return _make("study.pruner", config.study.pruner, PRUNERS, config, config.study.seed)


def strategy_name(given: str | Mapping[str, Any]) -> str:
    """Return the name in `tpe` or `{name: tpe, ...}`."""
    return given if isinstance(given, str) else str(given["name"])


def derived_seed(seed: int, number: int, seed_salt: str = "") -> int:
    """Return a 32-bit seed that depends on the study's seed, the trial's number and `seed_salt` only."""
    text = f"{seed}:{number}" + (f":{seed_salt}" if seed_salt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _make(where: str, given: str | dict[str, Any], table: dict[str, Factory], config: Config, seed: int) -> Any:
    name = strategy_name(given)
    options = {} if isinstance(given, str) else {key: value for key, value in given.items() if key != "name"}
    cls, arguments = table[name](config, seed)
    allowed = [option for option in inspect.signature(cls).parameters if option not in _NOT_OPTIONS]
    for option in options:
        if option == "seed":
            raise ConfigError(f"{where}: got seed; allowed: {_listed(allowed)}; set study.seed instead")
        if option not in allowed:
            raise ConfigError(
                f"{where}: unknown option {option!r}{nearest(option, allowed)}; {name} allows: {_listed(allowed)}; "
                "correct or remove it"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**{**arguments, **options})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {name} refuses {options}: {error}; correct the value") from error


def _listed(allowed: list[str]) -> str:
    return ", ".join(sorted(allowed)) or "no options"
