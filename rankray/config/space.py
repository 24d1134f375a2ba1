"""The search space: dotted configuration paths mapped to distributions.

A key of `space:` is the path of a configuration field, and nothing else: the path *is* the parameter's name in the
store. Every bound and every choice is checked by putting it into the configuration and validating that, so a space can
never propose what the configuration would refuse. `when: {path: value}` makes a parameter exist only where another
field has that value (or one of a list of values); the other field may be searched itself, or fixed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rankray.config.schema import SEARCHABLE_SECTIONS, Config
from rankray.errors import ConfigError, nearest

_KINDS = ("float", "int", "choice")
_OPTIONS = {"float": {"log", "step", "when"}, "int": {"log", "step", "when"}, "choice": {"when"}}

_PAPER = {
    "loss.objective": "rri",
    "loss.form": "bound",
    "loss.temperature": 1.0,
    "loss.entropy_weight": 1.0,
    "loss.max_scale": None,
}
BASELINES: dict[str, dict[str, Any]] = {"sft": {"loss.objective": "sft"}, "paper": _PAPER}
"""Settings every search should be seen against: plain SFT, and the paper's (its base weight is the file's own)."""


class Distribution(BaseModel):
    """What one parameter may be.

    `float` and `int` lie in [low, high], both ends included; `log` spreads them evenly over orders of magnitude, `step`
    puts them on a grid from `low`. `choice` takes one of `choices`. `when` maps paths to the values under which the
    parameter exists.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    kind: Literal["float", "int", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()
    when: dict[str, tuple[Any, ...]] = {}

    def contains(self, value: Any) -> bool:
        """Return whether `value` is one this distribution could propose."""
        if self.kind == "choice":
            return any(
                value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in self.choices
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        if self.kind == "int" and value != int(value):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose(round((value - self.low) / self.step) * self.step, value - self.low)

    def active(self, params: Mapping[str, Any], config: Config) -> bool:
        """Return whether this parameter exists, given the parameters drawn so far and the fixed fields.

        A condition on a searched parameter that does not itself exist is not met.
        """
        searched = config.space
        for path, values in self.when.items():
            if path in searched and path not in params:
                return False
            if (params[path] if path in params else get_path(config, path)) not in values:
                return False
        return True


def get_path(config: BaseModel, path: str) -> Any:
    """Return the value at a dotted path; KeyError where there is no such field."""
    node: Any = config
    for part in path.split("."):
        if isinstance(node, BaseModel):
            if part not in type(node).model_fields:
                raise KeyError(path)
            node = getattr(node, part)
        elif isinstance(node, Mapping):
            node = node.get(part)
        else:
            raise KeyError(path)
    return node


def set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path in nested dicts, making the dicts on the way."""
    *parents, last = path.split(".")
    for part in parents:
        child = tree.get(part)
        if not isinstance(child, dict):
            child = tree[part] = {}
        tree = child
    tree[last] = value


def apply_params(config: Config, params: Mapping[str, Any]) -> Config:
    """Return the configuration of one trial: `params` set at their paths, validated, without a space.

    Raises:
        ConfigError: a value the configuration does not accept.
    """
    tree = config.model_dump()
    tree["space"] = {}
    for path, value in params.items():
        set_path(tree, path, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, first['loc'])) or 'config'}: {first['msg']}") from error


def distributions(config: Config) -> dict[str, Distribution]:
    """Return the space's distributions, each after the ones its `when` looks at.

    Raises:
        ConfigError: on the first problem; `space_problems` lists them all.
    """
    problems = space_problems(config)
    if problems:
        path, message = problems[0]
        raise ConfigError(f"space.{path}: {message}")
    return _ordered({path: _parse(path, raw) for path, raw in config.space.items()})


def space_problems(config: Config) -> list[tuple[str, str]]:
    """Return what is wrong with the space, as (path, message) pairs; an empty list if nothing is."""
    problems: list[tuple[str, str]] = []
    parsed: dict[str, Distribution] = {}
    for path, raw in config.space.items():
        try:
            _check_path(path, config)
            parsed[path] = _parse(path, raw)
            _check_values(parsed[path], config)
        except ConfigError as error:
            problems.append((path, str(error)))
    for path, dist in parsed.items():
        for other, values in dist.when.items():
            message = _when_problem(other, values, parsed, config)
            if message:
                problems.append((path, message))
    if not problems:
        try:
            _ordered(parsed)
        except ConfigError as error:
            problems.append((str(error).split(":")[0], str(error)))
    return problems + [(path, message) for path, message in _point_problems(config, parsed) if not problems]


def searchable_paths() -> list[str]:
    """Return every dotted path a space may vary, `train.sft.*` left out."""
    found: list[str] = []

    def walk(model: type[BaseModel], prefix: str) -> None:
        for name, field in model.model_fields.items():
            inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(t, type)]
            sections = [t for t in inner if issubclass(t, BaseModel)]
            if sections:
                walk(sections[0], f"{prefix}{name}.")
            elif prefix:
                found.append(prefix + name)

    walk(Config, "")
    return [path for path in found if path.split(".")[0] in SEARCHABLE_SECTIONS]


def baseline_points(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Return the points to try first, as (origin, params): the baselines that the space holds, then the warm starts.

    A baseline takes part only if the space can express it: each of its settings is either searched and allowed, or
    fixed to just that value. The other searched fields start from the file's own fixed values where they are allowed.
    """
    space = distributions(config)
    points: list[tuple[str, dict[str, Any]]] = []
    for name in config.study.baselines:
        params = _baseline_params(BASELINES[name], space, config)
        if params:
            points.append((f"baseline:{name}", params))
    points.extend(("warm_start", dict(point)) for point in config.study.warm_start)
    return points


def _baseline_params(wanted: dict[str, Any], space: dict[str, Distribution], config: Config) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for path, dist in space.items():
        if not dist.active(params, config):
            continue
        value = wanted.get(path, get_path(config, path))
        if dist.contains(value):
            params[path] = value
        elif path in wanted:
            return {}
    for path, value in wanted.items():
        if path not in space and get_path(config, path) != value:
            return {}
    return params


def _check_path(path: str, config: Config) -> None:
    section = path.split(".")[0]
    if path.startswith("train.sft.") and path.count(".") == 2:
        return
    known = searchable_paths()
    if path in known:
        if path.startswith("model.lora.") and config.model.lora is None:
            raise ConfigError("model.lora is null, so there is nothing to vary; set model.lora: {}")
        return
    if section in Config.model_fields and section not in SEARCHABLE_SECTIONS:
        raise ConfigError(
            f"{section} says how the search is run and cannot be searched; "
            f"searchable are {', '.join(SEARCHABLE_SECTIONS)}"
        )
    same = [name for name in known if name.startswith(f"{section}.")] or known
    hint = nearest(path, known)
    raise ConfigError(f"names no configuration field{hint}; fields there are {', '.join(same)}")


def _parse(path: str, raw: dict[str, Any]) -> Distribution:
    kinds = [kind for kind in _KINDS if kind in raw]
    if len(kinds) != 1:
        raise ConfigError(f"needs exactly one of float, int or choice, got {', '.join(raw) or 'nothing'}")
    kind = kinds[0]
    for key in raw:
        if key != kind and key not in _OPTIONS[kind]:
            allowed = sorted(_OPTIONS[kind])
            raise ConfigError(
                f"unknown key {key!r}{nearest(key, allowed)}; beside {kind} allowed: {', '.join(allowed)}"
            )
    when = raw.get("when") or {}
    if not isinstance(when, dict):
        raise ConfigError(f"when: got {when!r}; write a mapping such as when: {{loss.objective: rri}}")
    conditions = {other: tuple(v) if isinstance(v, list) else (v,) for other, v in when.items()}
    if kind == "choice":
        choices = raw["choice"]
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f"choice: got {choices!r}; write a list of at least one value")
        return Distribution(path=path, kind="choice", choices=tuple(choices), when=conditions)
    return _parse_range(path, kind, raw, conditions)  # type: ignore[arg-type]


def _parse_range(path: str, kind: Literal["float", "int"], raw: dict[str, Any], when: dict[str, Any]) -> Distribution:
    bounds, log, step = raw[kind], raw.get("log", False), raw.get("step")
    numbers = isinstance(bounds, list) and len(bounds) == 2
    if not numbers or not all(isinstance(b, (int, float)) and not isinstance(b, bool) for b in bounds):
        raise ConfigError(f"{kind}: got {bounds!r}; write two numbers, [low, high]")
    low, high = bounds
    if not low < high:
        raise ConfigError(f"{kind}: low {low} is not below high {high}; write [low, high] with low < high")
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{kind}: [{low}, {high}] is not finite; give finite bounds")
    if kind == "int" and not (low == int(low) and high == int(high)):
        raise ConfigError(f"int: [{low}, {high}] are not whole numbers; use float: or whole bounds")
    if not isinstance(log, bool):
        raise ConfigError(f"log: got {log!r}; allowed are true and false")
    if log and low <= 0:
        raise ConfigError(f"log: true needs low > 0, got {low}; raise low or leave log out")
    if step is not None and (isinstance(step, bool) or not isinstance(step, (int, float)) or step <= 0):
        raise ConfigError(f"step: got {step!r}; allowed is a number above 0")
    if step is not None and log:
        raise ConfigError("step and log exclude each other; keep one")
    return Distribution(path=path, kind=kind, low=low, high=high, log=log, step=step, when=when)


def _check_values(dist: Distribution, config: Config) -> None:
    for value in dist.choices if dist.kind == "choice" else (dist.low, dist.high):
        if dist.kind == "choice" and not isinstance(value, (str, int, float, bool, type(None))):
            raise ConfigError(
                f"choice {value!r} is not a plain value; choices are strings, numbers, true, false or null"
            )
        try:
            apply_params(config, {dist.path: int(value) if dist.kind == "int" else value})
        except ConfigError as error:
            raise ConfigError(f"{value!r} is not allowed there: {error}") from error


def _when_problem(path: str, values: tuple[Any, ...], space: dict[str, Distribution], config: Config) -> str:
    if path in space:
        odd = [value for value in values if not space[path].contains(value)]
        return f"when: {path} can never be {odd[0]!r} in this space" if odd else ""
    try:
        get_path(config, path)
    except KeyError:
        return f"when: {path} names no configuration field{nearest(path, [*space, *searchable_paths()])}"
    return ""


def _ordered(space: dict[str, Distribution]) -> dict[str, Distribution]:
    done: dict[str, Distribution] = {}
    waiting = dict(space)
    while waiting:
        ready = [path for path, dist in waiting.items() if not any(other in waiting for other in dist.when)]
        if not ready:
            raise ConfigError(f"{next(iter(waiting))}: its when: goes round in a circle with {', '.join(waiting)}")
        for path in ready:
            done[path] = waiting.pop(path)
    return done


def _point_problems(config: Config, space: dict[str, Distribution]) -> list[tuple[str, str]]:
    problems = []
    for index, point in enumerate(config.study.warm_start):
        for path, value in point.items():
            if path not in space:
                problems.append(
                    (path, f"study.warm_start[{index}] names {path}, which the space does not{nearest(path, space)}")
                )
            elif not space[path].contains(value):
                problems.append((path, f"study.warm_start[{index}] has {value!r}, which lies outside the distribution"))
    return problems
