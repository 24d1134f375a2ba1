"""The search space: dotted configuration paths mapped to distributions.

A key of `space:` is the path of a configuration field, and nothing else: the path *is* the parameter's name in the
store. Every bound and every choice is checked by putting it into the configuration and validating that, so a space can
never propose what the configuration would refuse. `when: {path: value}` makes a parameter exist only where another
field has that value (or one of a list of values); the other field may be searched itself, or fixed.

A space is parsed and checked once: `Config.search_space` keeps the result, and everything here reads it from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankray.config.distribution import Distribution, parse_distribution
from rankray.config.fields import searchable_paths
from rankray.config.params import apply_params, get_path
from rankray.config.schema import SEARCHABLE_SECTIONS, Config
from rankray.config.study import BASELINES, LADDER
from rankray.errors import ConfigError, nearest

RATE = "train.learning_rate"


@dataclass(frozen=True)
class SearchSpace:
    """A space that was parsed and checked.

    Attributes:
        source: the `space:` it was made from.
        distributions: each after the ones that its `when` looks at; of what is wrong, only what could be parsed.
        problems: what is wrong, as (path, message); empty if nothing is.
    """

    source: Mapping[str, Any]
    distributions: dict[str, Distribution]
    problems: tuple[tuple[str, str], ...]


def distributions(config: Config) -> dict[str, Distribution]:
    """Return the space's distributions, each after the ones its `when` looks at.

    Raises:
        ConfigError: on the first problem; `space_problems` lists them all.
    """
    for path, message in config.search_space.problems:
        raise ConfigError(f"space.{path}: {message}")
    return config.search_space.distributions


def space_problems(config: Config) -> list[tuple[str, str]]:
    """Return what is wrong with the space, as (path, message) pairs; an empty list if nothing is."""
    return list(config.search_space.problems)


def parse_space(config: Config) -> SearchSpace:
    """Parse and check `config.space`. Callers use `Config.search_space`, which does this once."""
    problems: list[tuple[str, str]] = []
    parsed: dict[str, Distribution] = {}
    for path, raw in config.space.items():
        try:
            _check_path(path, config)
            parsed[path] = parse_distribution(path, raw)
            _check_values(parsed[path], config)
        except ConfigError as error:
            problems.append((path, str(error)))
    for path, dist in parsed.items():
        for other, values in dist.when.items():
            message = _when_problem(other, values, parsed, config)
            if message:
                problems.append((path, message))
    if not problems:
        parsed, problems = _ordered(parsed)
    if not problems:
        problems = _point_problems(config, parsed)
    return SearchSpace(config.space, parsed, tuple(problems))


def baseline_points(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Return the points to try first, as (origin, params): those that `study.known` names, then the warm starts' own.

    A named setting takes part only if the space can express it: each of its values is either searched and allowed, or
    fixed to just that value. The other searched fields start from the file's own fixed values where they are allowed.
    The points of earlier studies that `study.warm_start` names are in the store, not here (`store/warm.py`).

    The origins are `baseline:sft`, `baseline:paper`, `known:rates`, `known` and `warm_start`.
    """
    space = distributions(config)
    named = [name for name in config.study.known if isinstance(name, str) and name != LADDER]
    points: list[tuple[str, dict[str, Any]]] = []
    for each in config.study.known:
        if not isinstance(each, str):
            points.append(("known", dict(each)))
        elif each == LADDER:
            points.extend(("known:rates", params) for params in _ladder(named, space, config))
        elif params := _named_params(BASELINES[each], space, config):
            points.append((f"baseline:{each}", params))
    points.extend(("warm_start", dict(point)) for point in config.study.warm_start if not isinstance(point, str))
    return points


def _ladder(named: Sequence[str], space: dict[str, Distribution], config: Config) -> list[dict[str, Any]]:
    """Return the named settings, or the file's own, at three times and a third of their learning rate.

    Where the space does not contain the file's rate, they are tried low, in the middle and high in the space's range.
    """
    if RATE not in space:
        return []
    rungs: list[dict[str, Any]] = []
    starts = [_named_params(BASELINES[name], space, config) for name in named] or [_named_params({}, space, config)]
    for start in starts:
        if named and not start:
            continue
        middle = start.get(RATE)
        rates = [middle * 3, middle / 3] if middle else [space[RATE].at(share) for share in (0.5, 1 / 6, 5 / 6)]
        rungs.extend({**start, RATE: rate} for rate in rates if space[RATE].contains(rate))
    return rungs


def _named_params(wanted: dict[str, Any], space: dict[str, Distribution], config: Config) -> dict[str, Any]:
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
    """Raise ConfigError unless a space may vary the field at `path`."""
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
            f"{section} says how the search runs and cannot be searched; allowed: {', '.join(SEARCHABLE_SECTIONS)}; "
            "set it outside space:"
        )
    same = [name for name in known if name.startswith(f"{section}.")] or known
    hint = nearest(path, known)
    raise ConfigError(f"names no configuration field{hint}; allowed: {', '.join(same)}; correct the path")


def _check_values(dist: Distribution, config: Config) -> None:
    """Raise ConfigError where the configuration would refuse a bound or a choice."""
    for value in dist.choices if dist.kind == "choice" else (dist.low, dist.high):
        if dist.kind == "choice" and not isinstance(value, (str, int, float, bool, type(None))):
            raise ConfigError(
                f"choice {value!r} is not a plain value; allowed: strings, numbers, true, false, null; replace it"
            )
        try:
            apply_params(config, {dist.path: int(value) if dist.kind == "int" else value})
        except ConfigError as error:
            raise ConfigError(f"{value!r} is not allowed there: {error}") from error


def _when_problem(path: str, values: tuple[Any, ...], space: dict[str, Distribution], config: Config) -> str:
    if path in space:
        odd = [value for value in values if not space[path].contains(value)]
        return f"when: {path} can never be {odd[0]!r} in this space; correct one of the two" if odd else ""
    try:
        get_path(config, path)
    except KeyError:
        near = nearest(path, [*space, *searchable_paths()])
        return f"when: {path} names no configuration field{near}; correct the path"
    return ""


def _ordered(space: dict[str, Distribution]) -> tuple[dict[str, Distribution], list[tuple[str, str]]]:
    """Return the distributions, each after the ones its `when` looks at, and the problem where that is impossible."""
    done: dict[str, Distribution] = {}
    waiting = dict(space)
    while waiting:
        ready = [path for path, dist in waiting.items() if not any(other in waiting for other in dist.when)]
        if not ready:
            first, names = next(iter(waiting)), ", ".join(waiting)
            return space, [(first, f"when: forms a circle among {names}; remove one of these conditions")]
        for path in ready:
            done[path] = waiting.pop(path)
    return done, []


def _point_problems(config: Config, space: dict[str, Distribution]) -> list[tuple[str, str]]:
    problems = []
    for field in ("known", "warm_start"):
        for index, point in enumerate(getattr(config.study, field)):
            for path, value in point.items() if not isinstance(point, str) else ():
                where = f"study.{field}[{index}]"
                if path not in space:
                    problems.append((path, f"{where} names {path}, which the space does not{nearest(path, space)}"))
                elif not space[path].contains(value):
                    problems.append((path, f"{where} has {value!r}, which lies outside the distribution"))
    return problems
