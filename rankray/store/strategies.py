"""Samplers and pruners: a name, and how it is made from a configuration.

A new strategy is one line in `SAMPLERS` or `PRUNERS` here, and nothing else: the names that `study.sampler` and
`study.pruner` allow are these keys. Options given as `{name: tpe, n_startup_trials: 20}` go to the Optuna class as they
are, and win over what is set here.

The seed of a sampler is derived from the study's seed and the *number of the trial it is made for*, which is the
number of trials already in the study. So a search that is stopped and started again continues with new draws, and the
same history gives the same proposal, whichever driver asks. If two drivers ask at the same moment, the later one asks
again with its own name as `seed_salt`, so two drivers never draw the same point either.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, TypeVar

import optuna
from optuna import pruners, samplers
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import Trial

from rankray.config import Distribution, distributions
from rankray.config.schema import Config
from rankray.errors import ConfigError, nearest
from rankray.store.auto import AutoSampler
from rankray.store.grid import GridSampler
from rankray.store.optuna_private import NumberedQMCSampler
from rankray.store.pruning import DivergencePruner

T = TypeVar("T")
Recipe = tuple[type[T], dict[str, Any]]
"""A class, and the arguments it gets unless the configuration gives others."""
Where = Callable[[str], str]
"""From the dotted path of a value to the place where it was written, as `file:line`."""


INVENTED_TRIALS = 12
"""So many trials `try_out` invents: more than TPE draws at random at first."""


def direction(config: Config) -> StudyDirection:
    """Return the study's direction as an Optuna constant."""
    return StudyDirection.MAXIMIZE if config.direction == "maximize" else StudyDirection.MINIMIZE


def prune_direction(config: Config) -> StudyDirection:
    """Return the direction of `study.prune_on` as an Optuna constant."""
    return StudyDirection.MAXIMIZE if config.prune_direction == "maximize" else StudyDirection.MINIMIZE


def _tpe(config: Config, seed: int) -> Recipe[BaseSampler]:
    startup = max(4, min(10, config.study.trials // 4))
    return samplers.TPESampler, {
        "multivariate": True,
        "group": True,
        "constant_liar": True,
        "n_startup_trials": startup,
        "seed": seed,
    }


def _qmc(config: Config, seed: int) -> Recipe[BaseSampler]:
    """One sequence for the whole study, scrambled by its seed; what it leaves out is drawn anew for each trial."""
    independent = samplers.RandomSampler(seed=seed)
    return NumberedQMCSampler, {"seed": config.study.seed, "scramble": True, "independent_sampler": independent}


def _first_rung(config: Config) -> int:
    return min(config.evaluate.every_steps, config.full_steps)


SAMPLERS: dict[str, Callable[[Config, int], Recipe[BaseSampler]]] = {
    "auto": lambda config, seed: (AutoSampler, {"config": config, "seed": seed}),
    "tpe": _tpe,
    "gp": lambda config, seed: (samplers.GPSampler, {"seed": seed}),
    "cmaes": lambda config, seed: (samplers.CmaEsSampler, {"seed": seed}),
    "qmc": _qmc,
    "random": lambda config, seed: (samplers.RandomSampler, {"seed": seed}),
    "grid": lambda config, seed: (GridSampler, {"config": config, "seed": seed}),
}
"""Name to recipe, from the configuration and a seed."""
PRUNERS: dict[str, Callable[[Config, int], Recipe[BasePruner]]] = {
    "auto": lambda config, seed: (DivergencePruner, {}),
    "successive_halving": lambda config, seed: (
        pruners.SuccessiveHalvingPruner,
        {"min_resource": _first_rung(config), "reduction_factor": 3},
    ),
    "hyperband": lambda config, seed: (
        pruners.HyperbandPruner,
        {"min_resource": _first_rung(config), "max_resource": config.full_steps, "reduction_factor": 3},
    ),
    "median": lambda config, seed: (pruners.MedianPruner, {"n_startup_trials": 4, "n_warmup_steps": 0}),
    "wilcoxon": lambda config, seed: (pruners.WilcoxonPruner, {}),
    "patient": lambda config, seed: (pruners.PatientPruner, {"wrapped_pruner": None, "patience": 2}),
    "threshold": lambda config, seed: (pruners.ThresholdPruner, {"lower": -math.inf, "upper": math.inf}),
    "none": lambda config, seed: (pruners.NopPruner, {}),
}
"""Name to recipe, from the configuration and a seed."""
_NOT_OPTIONS = (
    "self", "config", "seed", "gamma", "weights", "constraints_func", "categorical_distance_func",
    "independent_sampler", "wrapped_pruner", "source_trials", "x0",
)  # fmt: skip
"""Arguments of Optuna's classes that a YAML file cannot give."""


_NEEDS = {"gp": ("torch", "scipy"), "cmaes": ("cmaes",), "qmc": ("scipy",), "wilcoxon": ("scipy",)}
"""Packages that a strategy imports when it is asked, and that may be missing."""


def check(config: Config, where: Where | None = None) -> None:
    """Check that the study's sampler and pruner exist and accept their options.

    Args:
        config: the configuration.
        where: where a value was written (`LoadedConfig.where`), for messages that start with `file:line`.

    Raises:
        ConfigError: a name is unknown, or an option or its value is wrong; the message lists what is allowed.
    """
    for path, make in (("study.sampler", lambda: sampler(config, 0)), ("study.pruner", lambda: pruner(config))):
        try:
            make()
        except ConfigError as error:
            if where is None:
                raise
            raise ConfigError(f"{where(path)}: {error}") from error


def try_out(config: Config, where: Where | None = None) -> None:
    """Let sampler and pruner work on a few invented trials of the study's space, in memory.

    Some options are refused when they are first used, which in a search would be late.

    Raises:
        ConfigError: one of them fails.
    """
    space = distributions(config)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = "study.sampler"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(
                sampler=sampler(config, 0), pruner=pruner(config), direction=config.direction, study_name=config.name
            )
            for index in range(INVENTED_TRIALS):
                path = "study.sampler"
                trial, params = study.ask(), dict[str, Any]()
                for name, dist in space.items():
                    if dist.active(params, config):
                        params[name] = suggest(trial, dist)
                path = "study.pruner"
                for step in range(1, 4):
                    trial.report(float(index + 1 / step), min(step * config.evaluate.every_steps, config.full_steps))
                    trial.should_prune()
                study.tell(trial, float(index))
    except ConfigError:
        raise
    except Exception as error:  # of any kind: the classes check little when they are made
        given, table = (config.study.sampler, SAMPLERS) if path == "study.sampler" else (config.study.pruner, PRUNERS)
        place = f"{where(path)}: " if where else ""
        if isinstance(given, str):  # no option that could be wrong
            others = ", ".join(name for name in table if name != given)
            raise ConfigError(
                f"{place}{path}: {given} fails in this space, which is no fault of your file: {type(error).__name__}: "
                f"{error}; allowed: {others}; choose one of these, and report this one, with the file"
            ) from error
        raise ConfigError(f"{place}{path}: got {given!r}: {error}; allowed is what Optuna takes; correct it") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def suggest(trial: Trial, dist: Distribution) -> Any:
    """Return a value of a parameter for a trial, from its sampler."""
    if dist.kind == "choice":
        return trial.suggest_categorical(dist.path, dist.choices)
    if dist.kind == "int":
        return trial.suggest_int(dist.path, int(dist.low), int(dist.high), step=int(dist.step or 1), log=dist.log)
    return trial.suggest_float(dist.path, dist.low, dist.high, step=dist.step, log=dist.log)


def sampler(config: Config, number: int, seed_salt: str = "") -> BaseSampler:
    """Return the study's sampler, seeded for the trial of this number.

    With a `seed_salt` it draws other points than without.

    Raises:
        ConfigError: as for `check`.
    """
    seed = derived_seed(config.study.seed, number, seed_salt)
    return _make("study.sampler", config.study.sampler, SAMPLERS, config, seed)


def pruner(config: Config) -> BasePruner:
    """Return the study's pruner.

    Raises:
        ConfigError: as for `check`.
    """
    return _make("study.pruner", config.study.pruner, PRUNERS, config, config.study.seed)


def strategy_name(given: str | Mapping[str, Any]) -> str:
    """Return the name in `tpe` or `{name: tpe, ...}`; an empty string where a mapping has none."""
    return given if isinstance(given, str) else str(given.get("name", ""))


def derived_seed(seed: int, number: int, seed_salt: str = "") -> int:
    """Return a 32-bit seed that depends on the study's seed, the trial's number and `seed_salt` only."""
    text = f"{seed}:{number}" + (f":{seed_salt}" if seed_salt else "")
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _make(
    path: str,
    given: str | dict[str, Any],
    table: Mapping[str, Callable[[Config, int], Recipe[T]]],
    config: Config,
    seed: int,
) -> T:
    name = strategy_name(given)
    if name not in table:
        shown = repr(name) if name else f"{given!r} without a name"
        raise ConfigError(f"{path}: got {shown}{nearest(name, table)}; allowed: {', '.join(table)}; give one of these")
    options = {} if isinstance(given, str) else {key: value for key, value in given.items() if key != "name"}
    missing = [package for package in _NEEDS.get(name, ()) if find_spec(package) is None]
    if missing:
        usable = [each for each in table if all(find_spec(package) for package in _NEEDS.get(each, ()))]
        raise ConfigError(
            f"{path}: {name} needs {' and '.join(missing)}, not installed here; allowed: {', '.join(usable)}; "
            f"choose one of these, or pip install {' '.join(missing)}"
        )
    cls, arguments = table[name](config, seed)
    allowed = [option for option in inspect.signature(cls).parameters if option not in _NOT_OPTIONS]
    for option in options:
        if option == "seed":
            raise ConfigError(f"{path}: got the option seed; allowed: {_listed(allowed)}; set study.seed instead")
        if option not in allowed:
            raise ConfigError(
                f"{path}: unknown option {option!r}{nearest(option, allowed)}; {name} allows: {_listed(allowed)}; "
                "correct or remove it"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**{**arguments, **options})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: {name} refuses {options}: {error}; correct the value") from error


def _listed(allowed: list[str]) -> str:
    return ", ".join(sorted(allowed)) or "no options"
