"""The search space: dotted configuration paths mapped to distributions.

A key of `space:` is the path of a configuration field, and nothing else: the path *is* the parameter's name in the
store. Every bound and every choice is checked by putting it into the configuration and validating that, so a space can
never propose what the configuration would refuse. `when: {path: value}` makes a parameter exist only where another
field has that value (or one of a list of values); the other field may be searched itself, or fixed.

A space is parsed and checked once: `Config.search_space` keeps the result, and everything here reads it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rankray.config.distribution import Distribution, parse_distribution
from rankray.config.fields import searchable_paths
from rankray.config.params import apply_params, get_path
from rankray.config.schema import SEARCHABLE_SECTIONS, Config
from rankray.config.study import BASELINES
from rankray.errors import ConfigError, nearest


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
        problems = _warm_start_problems(config, parsed)
    return SearchSpace(config.space, parsed, tuple(problems))


def baseline_points(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Return the points to try first, as (origin, params): the baselines that the space contains, then the warm starts.

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


def _warm_start_problems(config: Config, space: dict[str, Distribution]) -> list[tuple[str, str]]:
    problems = []
    for index, point in enumerate(config.study.warm_start):
        for path, value in point.items():
            where = f"study.warm_start[{index}]"
            if path not in space:
                problems.append((path, f"{where} names {path}, which the space does not{nearest(path, space)}"))
            elif not space[path].contains(value):
                problems.append((path, f"{where} has {value!r}, which lies outside the distribution"))
    return problems
