"""Which learning-rate schedules `train.sft` may name beside those of `train.schedule`, and with which settings.

Names, settings and their types are read from the source of the installed transformers, which takes milliseconds; an
import takes seconds. A schedule that needs what the trainer does not have here, evaluations of its own, is refused.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from rankray.config.load import LoadedConfig
from rankray.config.schema import Config
from rankray.config.sections import TrainSection
from rankray.config.space import distributions
from rankray.errors import ConfigError, nearest, shown

TYPE, SETTINGS = "lr_scheduler_type", "lr_scheduler_kwargs"
OURS = {
    "optimizer": "nothing",
    "num_warmup_steps": "train.warmup_ratio",
    "num_training_steps": "train.max_steps",
    "last_epoch": "nothing",
}
"""Arguments that the trainer gives a schedule by itself -> where to set them."""
NEED_EVALUATIONS = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow the trainer's own evaluations, of which there are none: `finetune.run` evaluates."""
WITHOUT_SETTINGS = ("constant", "constant_with_warmup")
"""Schedules that transformers makes without `lr_scheduler_kwargs`, whatever these hold."""


@dataclass(frozen=True)
class Setting:
    """One argument of a schedule.

    Attributes:
        annotation: its type as it stands in the source.
        required: whether it has no default.
    """

    annotation: str
    required: bool


def check_schedule(config: Config, where: Callable[[str], str] | None = None) -> None:
    """Check the schedule that `train.sft` names, and its settings.

    Args:
        config: of one trial.
        where: from a dotted path to `file:line`; None where no file is known.

    Raises:
        ConfigError: there is no such schedule or setting, one that it needs is missing, or its steps do not add up.
    """
    sft = config.train.sft
    if TYPE not in sft and SETTINGS not in sft:
        return

    def refuse(path: str, text: str) -> ConfigError:
        place = f"{where(f'train.sft.{path}')}: " if where else ""
        return ConfigError(f"{place}train.sft.{path}: {text}")

    name = sft.get(TYPE, config.train.schedule)
    known = schedules()
    if name not in known:
        raise refuse(
            TYPE, f"got {shown(name)}{nearest(str(name), known)}; allowed: {', '.join(searchable())}; choose one"
        )
    if name in NEED_EVALUATIONS:
        raise refuse(
            TYPE, f"{name} follows evaluations of TRL's trainer, which makes none here; allowed: "
            f"{', '.join(searchable())}; choose one"
        )  # fmt: skip
    given = sft.get(SETTINGS) or {}
    if not isinstance(given, Mapping):
        raise refuse(SETTINGS, f"got {shown(given)}; allowed is a mapping of settings to values; write one")
    allowed = {} if name in WITHOUT_SETTINGS else known[name]
    for key, value in given.items():
        _check_setting(str(key), value, name, allowed, refuse)
    _check_least(name, given, allowed, refuse)
    missing = [key for key, setting in allowed.items() if setting.required and key not in given]
    if missing:
        raise refuse(
            SETTINGS if SETTINGS in sft else TYPE,
            f"{name} needs {', '.join(missing)}, which has no default; allowed are values for it; set "
            f"train.sft.{SETTINGS}: {{{missing[0]}: ...}}",
        )
    _check_steps(config, name, given, refuse)


def check_one_schedule(loaded: LoadedConfig) -> None:
    """Refuse a schedule that is named twice, or in `train.sft` where `train.schedule` has it.

    Raises:
        ConfigError: it is.
    """
    path, config = f"train.sft.{TYPE}", loaded.config
    given = config.train.sft.get(TYPE)
    if path not in config.space and given is None:
        return
    if path not in config.space and given in plain_schedules():
        raise ConfigError(
            f"{loaded.where(path)}: {path}: got {given}; allowed there are schedules that train.schedule does not "
            f"name; set train.schedule: {given}"
        )
    if "train.schedule" in config.space or ("train", "schedule") in loaded.places:
        raise ConfigError(
            f"{loaded.where(path)}: {path} beside train.schedule, which it replaces; allowed is one of the two; remove "
            "train.schedule (the choices of a searched lr_scheduler_type may include those of train.schedule)"
        )


def ignored_warmup(loaded: LoadedConfig) -> list[str]:
    """Return a warning where a file gives or searches a warm-up, and a schedule that has none."""
    path, config = "train.warmup_ratio", loaded.config
    if TYPE in config.train.sft or f"train.sft.{TYPE}" in config.space:
        return []
    drawn = distributions(config) if config.space else {}
    schedule, warmup = drawn.get("train.schedule"), drawn.get(path)
    names = schedule.choices if schedule else (config.train.schedule,)
    given = ("train", "warmup_ratio") in loaded.places and config.train.warmup_ratio > 0
    wanted = given if warmup is None else "constant" in warmup.when.get("train.schedule", names)
    if "constant" not in names or not wanted:
        return []
    place = f"{loaded.where(f'space.{path}')}: space.{path}" if warmup else f"{loaded.where(path)}: {path}"
    return [
        f"{place}: ignored where train.schedule is constant, which has no warm-up; constant_with_warmup has one; "
        "choose that, or leave the warm-up out"
    ]


def searchable() -> list[str]:
    """Return the schedules that a trial can have."""
    return [name for name in schedules() if name not in NEED_EVALUATIONS]


def plain_schedules() -> tuple[str, ...]:
    """Return the schedules that `train.schedule` names itself."""
    names: tuple[str, ...] = get_args(TrainSection.model_fields["schedule"].annotation)
    return names


def _check_setting(
    key: str, value: Any, name: str, allowed: Mapping[str, Setting], refuse: Callable[[str, str], ConfigError]
) -> None:
    path = f"{SETTINGS}.{key}"
    if key in OURS:
        raise refuse(path, f"the trainer gives it to the schedule; allowed are settings it does not; set {OURS[key]}")
    if key not in allowed:
        some = ", ".join(allowed) or "none"
        raise refuse(path, f"no such setting of {name}{nearest(key, allowed)}; allowed: {some}; correct or remove it")
    kinds = {part.strip() for part in allowed[key].annotation.split("|")}
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    fits = {
        "int": is_whole or (isinstance(value, float) and value.is_integer()),
        "float": is_whole or isinstance(value, float),
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "None": value is None,
    }
    if kinds <= fits.keys() and not any(fits[kind] for kind in kinds):
        wanted = {
            "int": "a whole number",
            "float": "a number",
            "str": "a name",
            "bool": "true or false",
            "None": "null",
        }
        words = " or ".join(wanted[kind] for kind in sorted(kinds))
        raise refuse(path, f"got {shown(value)}; allowed is {words}; correct it")


def _check_least(
    name: str,
    given: Mapping[str, Any],
    allowed: Mapping[str, Setting],
    refuse: Callable[[str, str], ConfigError],
) -> None:
    """Refuse a schedule down to a least rate that has none, or two."""
    ways = [key for key in ("min_lr", "min_lr_rate") if key in allowed]
    if len(ways) == 2 and sum(given.get(key) is not None for key in ways) != 1:
        raise refuse(
            SETTINGS,
            f"got {shown(dict(given))}, and {name} needs its least rate once; allowed: min_lr, a rate, or min_lr_rate, "
            "a share of train.learning_rate; give one of the two",
        )


def _check_steps(
    config: Config, name: str, given: Mapping[str, Any], refuse: Callable[[str, str], ConfigError]
) -> None:
    """Refuse parts of a schedule that are longer than the run, or leave it before its end without a decay."""
    steps = config.train.max_steps
    negative = next((key for key, value in given.items() if isinstance(value, int | float) and value < 0), None)
    if negative is not None:
        raise refuse(f"{SETTINGS}.{negative}", f"got {given[negative]}; allowed is 0 or more; correct it")
    if name != "warmup_stable_decay":
        return
    warmup, decay, stable = warmup_steps(config), given["num_decay_steps"], given.get("num_stable_steps")
    if stable is None and warmup + decay > steps:
        raise refuse(
            f"{SETTINGS}.num_decay_steps",
            f"{decay} and a warm-up of {warmup} steps are more than train.max_steps {steps}; allowed: up to "
            f"{steps - warmup}; lower it, or train.warmup_ratio",
        )
    if stable is not None and warmup + stable + decay != steps:
        raise refuse(
            f"{SETTINGS}.num_stable_steps",
            f"{stable}, a warm-up of {warmup} and {decay} steps of decay make {warmup + stable + decay}, and "
            f"train.max_steps is {steps}; allowed: {max(0, steps - warmup - decay)}; leave it out, and it is what "
            "remains",
        )


def warmup_steps(config: Config) -> int:
    """Return over how many steps the learning rate rises."""
    return round(config.train.warmup_ratio * config.train.max_steps)


@cache
def schedules() -> dict[str, dict[str, Setting]]:
    """Return the names of all schedules of transformers, each with the settings that `lr_scheduler_kwargs` may hold."""
    functions, names = _source("optimization.py"), _source("trainer_utils.py")
    kinds = next(node for node in names.body if isinstance(node, ast.ClassDef) and node.name == "SchedulerType")
    values = {
        node.targets[0].id: node.value.value
        for node in kinds.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    made_by = next(
        node.value
        for node in functions.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TYPE_TO_SCHEDULER_FUNCTION"
    )
    assert isinstance(made_by, ast.Dict)
    arguments = {node.name: node.args for node in functions.body if isinstance(node, ast.FunctionDef)}
    return {
        values[key.attr]: _settings(arguments[function.id])
        for key, function in zip(made_by.keys, made_by.values, strict=True)
        if isinstance(key, ast.Attribute) and isinstance(function, ast.Name)
    }


def _settings(arguments: ast.arguments) -> dict[str, Setting]:
    first_default = len(arguments.args) - len(arguments.defaults)
    return {
        argument.arg: Setting(
            _annotation(
                argument,
                arguments.defaults[index - first_default : index - first_default + 1] if index >= first_default else [],
            ),
            index < first_default,
        )
        for index, argument in enumerate(arguments.args)
        if argument.arg not in OURS
    }


def _annotation(argument: ast.arg, default: list[ast.expr]) -> str:
    """Return an argument's type as it stands there, or that of its default."""
    if argument.annotation is not None:
        return ast.unparse(argument.annotation)
    return type(default[0].value).__name__ if default and isinstance(default[0], ast.Constant) else ""


def _source(file: str) -> ast.Module:
    spec = importlib.util.find_spec("transformers")
    assert spec is not None, "transformers is not installed"
    assert spec.origin is not None, "transformers has no file"
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))
