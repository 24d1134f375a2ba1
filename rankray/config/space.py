"""The search space: dotted configuration paths mapped to distributions.

A key of `space:` is the path of a configuration field, and nothing else: the path *is* the parameter's name in the
store. Every bound and every choice is checked by putting it into the configuration and validating that. It must be
allowed beside the fixed values, or beside some values of the other parameters. A combination that is refused all the
same fails its trial when it is drawn, and `check` says how often that will be. `when: {path: value}` makes a parameter
exist only where another field has that value (or one of a list of values); the other field may be searched itself, or
fixed.

A space is parsed and checked once: `Config.search_space` keeps the result, and everything here reads it from there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rankray.config.distribution import Distribution, parse_distribution
from rankray.config.fields import searchable_paths
from rankray.config.other_names import OTHER_NAMES, did_you_mean
from rankray.config.params import get_path
from rankray.config.points import DRAWS, refusal, some_draw_allows, when_all_refused
from rankray.config.schema import SEARCHABLE_SECTIONS, Config
from rankray.config.study import BASELINES, LADDER, PUBLISHED, PUBLISHED_RATES
from rankray.errors import ConfigError, listed, nearest, shown

RATE = "train.learning_rate"


@dataclass(frozen=True)
class SearchSpace:
    """A space that was parsed and checked.

    Attributes:
        source: the `space:` it was made from.
        distributions: each after the ones that its `when` looks at; of what is wrong, only what could be parsed.
        problems: what is wrong, as (path, message); empty if nothing is.
        refused: what a file is refused for as well, though a study that has it can be opened: it makes no sense, but
            earlier versions began such studies.
    """

    source: Mapping[str, Any]
    distributions: dict[str, Distribution]
    problems: tuple[tuple[str, str], ...]
    refused: tuple[tuple[str, str], ...] = ()


def distributions(config: Config) -> dict[str, Distribution]:
    """Return the space's distributions, each after the ones its `when` looks at.

    Raises:
        ConfigError: on the first problem; `space_problems` lists them all.
    """
    for path, message in config.search_space.problems:
        raise ConfigError(f"space.{path}: {message}")
    return config.search_space.distributions


def space_problems(config: Config) -> list[tuple[str, str]]:
    """Return what is wrong with the space, as (path, message) pairs; an empty list if nothing is.

    The path is that of a parameter, or of a point to try first (`study.known[0]`); see `key_of` and `problem_text`.
    """
    return [*config.search_space.problems, *config.search_space.refused]


def parse_space(config: Config) -> SearchSpace:
    """Parse and check `config.space`. Callers use `Config.search_space`, which does this once."""
    problems: list[tuple[str, str]] = []
    parsed: dict[str, Distribution] = {}
    for path, raw in config.space.items():
        try:
            _check_path(path, config)
            parsed[path] = parse_distribution(path, raw)
        except ConfigError as error:
            problems.append((path, str(error)))
    for path, dist in parsed.items():
        for other in dist.when:
            if other not in parsed and not _is_field(other, config):
                near = nearest(other, [*parsed, *searchable_paths()])
                problems.append((path, f"when: {other} names no configuration field{near}; correct the path"))
    if not problems:
        parsed, problems = _ordered(parsed)
    for path in [] if problems else parsed:
        try:
            _check_values(parsed[path], config, parsed)
        except ConfigError as error:
            problems.append((path, str(error)))
    refused = [] if problems else _senseless(parsed, config)
    return SearchSpace(config.space, parsed, tuple(problems), tuple(refused))


def _senseless(space: dict[str, Distribution], config: Config) -> list[tuple[str, str]]:
    found = [(path, text) for path, dist in space.items() if (text := _same_choice_twice(dist) or dist.step_problem)]
    for path, dist in space.items():
        for other, values in dist.when.items():
            if message := _when_problem(other, values, space, config):
                found.append((path, message))
    found = found or _never_active(space)
    return found or _point_problems(config, space) or _all_refused(config, space)


def baseline_points(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Return the points to try first, as (origin, params): those that `study.known` names, then the warm starts' own.

    A named setting takes part only if the space can express it: each of its values is either searched and allowed, or
    fixed to just that value. The other searched fields start from the file's own fixed values where they are allowed.
    The points of earlier studies that `study.warm_start` names are in the store, not here (`store/warm.py`).

    The origins are `baseline:sft`, `baseline:paper`, `known:rates`, `known`, `warm_start` and `warm_start:published`.
    """
    space = distributions(config)
    named = [name for name in config.study.known if isinstance(name, str) and name != LADDER]
    points: list[tuple[str, dict[str, Any]]] = []
    for each in config.study.known:
        if not isinstance(each, str):
            points.append(("known", with_conditions(each, space, config)))
        elif each == LADDER:
            points.extend(("known:rates", params) for params in _ladder(named, space, config))
        elif params := _named_params(BASELINES[each], space, config):
            points.append((f"baseline:{each}", params))
    for each in config.study.warm_start:
        if each == PUBLISHED:
            found = [_named_params({RATE: rate}, space, config) for rate in PUBLISHED_RATES]
            points.extend((f"warm_start:{PUBLISHED}", params) for params in found if params)
        elif not isinstance(each, str):
            points.append(("warm_start", with_conditions(each, space, config)))
    return points


def with_conditions(point: Mapping[str, Any], space: Mapping[str, Distribution], config: Config) -> dict[str, Any]:
    """Return a point in which its fields exist: where it leaves a condition of theirs open, that is fulfilled.

    The field that conditions look at gets the file's own value where all of them name it, or else the first value that
    they have in common.
    """
    found = dict(point)
    asked: dict[str, Sequence[Any]] = {}
    for path in reversed(list(space)):  # a field stands behind all that its conditions look at
        if path in asked:
            own = get_path(config, path)
            found[path] = own if own in asked[path] and space[path].contains(own) else asked[path][0]
        for other, values in space[path].when.items() if path in found else ():
            if other in space and other not in found:
                asked[other] = [value for value in asked.get(other, values) if value in values] or values
    return found


def known_left_out(config: Config) -> dict[str, str]:
    """Return the settings that `study.known` asks for and the space does not contain: name -> why.

    The default of `study.known` asks for nothing: it takes what the space contains.
    """
    space, found = distributions(config), {}
    asked = [name for name in config.study.known if isinstance(name, str) and name in BASELINES]
    for name in asked if "known" in config.study.model_fields_set else ():
        for obstacle in _searched_params(BASELINES[name], space, config)[1][:1]:
            found[name] = obstacle
    return found


def _ladder(named: Sequence[str], space: dict[str, Distribution], config: Config) -> list[dict[str, Any]]:
    """Return the named settings, or the file's own, at three times and a third of their learning rate.

    Where the space does not contain the file's rate, they are tried low, in the middle and high in the space's range.
    """
    if RATE not in space:
        return []
    rungs: list[dict[str, Any]] = []
    starts = [_named_params(BASELINES[name], space, config) for name in named] or [_named_params({}, space, config)]
    for start in starts:
        if (named and not start) or not space[RATE].active(start, config):
            continue
        middle = start.get(RATE)
        rates = [middle * 3, middle / 3] if middle else [space[RATE].at(share) for share in (0.5, 1 / 6, 5 / 6)]
        rungs.extend({**start, RATE: rate} for rate in rates if space[RATE].contains(rate))
    return rungs


def _named_params(wanted: dict[str, Any], space: dict[str, Distribution], config: Config) -> dict[str, Any]:
    params, obstacles = _searched_params(wanted, space, config)
    return {} if obstacles else params


def _searched_params(
    wanted: dict[str, Any], space: dict[str, Distribution], config: Config
) -> tuple[dict[str, Any], list[str]]:
    """Return the values of the searched fields in a named setting, and what the space cannot express of it."""
    params: dict[str, Any] = {}
    obstacles = []
    for path, dist in space.items():
        if not dist.active(params, config):
            continue
        value = wanted.get(path, get_path(config, path))
        if dist.contains(value):
            params[path] = value
        elif path in wanted:
            obstacles.append(f"{path} is {value} there, which the space does not allow")
    for path, value in wanted.items():
        fixed = get_path(config, path)
        if path not in params and fixed != value:
            searched = path in space and not space[path].active(params, config)
            obstacles.append(f"{path} is {value} there, {fixed} in this file, and not searched{' there' * searched}")
    return params, obstacles


def _check_path(path: str, config: Config) -> None:
    """Raise ConfigError unless a space may vary the field at `path`."""
    section = path.split(".")[0]
    if path.startswith("train.sft.") and all(path.split(".")):
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
    name = path.split(".")[-1]
    hint = did_you_mean(name, known) if name in OTHER_NAMES else nearest(path, known)
    raise ConfigError(f"names no configuration field{hint}; allowed: {listed(same)}; correct the path")


def _check_values(dist: Distribution, config: Config, space: Mapping[str, Distribution]) -> None:
    """Raise ConfigError where the configuration refuses a bound or a choice, whatever the other parameters are."""
    for value in dist.choices if dist.kind == "choice" else (dist.low, dist.high):
        if dist.kind == "choice" and not isinstance(value, (str, int, float, bool, type(None))):
            raise ConfigError(
                f"choice {shown(value)} is not a plain value; allowed: strings, numbers, true, false, null; replace it"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"choice {value} is not finite; allowed: finite numbers; replace it by a very large one")
        value = int(value) if dist.kind == "int" else value
        why = refusal(config, {dist.path: value})
        if why and not (len(space) > 1 and some_draw_allows(config, space, dist.path, value)):
            raise ConfigError(f"{shown(value)} is not allowed there: {why}")


def _is_field(path: str, config: Config) -> bool:
    try:
        get_path(config, path)
    except KeyError:
        return False
    return True


def _same_choice_twice(dist: Distribution) -> str:
    twice = [value for index, value in enumerate(dist.choices) if value in dist.choices[:index]]
    return f"choice: {shown(twice[0])} is there twice; allowed are different values; remove one" if twice else ""


def _when_problem(path: str, values: tuple[Any, ...], space: dict[str, Distribution], config: Config) -> str:
    if path in space:
        odd = [value for value in values if not space[path].contains(value)]
        if not odd:
            return ""
        near = nearest(odd[0], space[path].choices)
        return f"when: {path} can never be {shown(odd[0])} in this space{near}; correct one of the two"
    if get_path(config, path) in values:
        return ""
    for value in values:
        why = refusal(config, {path: value})
        if why:
            return f"when: {path} can never be {shown(value)}: {why}"
    return ""


def never_drawn(config: Config) -> dict[str, str]:
    """Return the parameters that exist only where a fixed field has another value than it has: path -> the condition.

    A space that several files share may well have some.
    """
    space = distributions(config)
    found: dict[str, str] = {}
    for path, dist in space.items():
        for other, values in dist.when.items():
            if other in found:
                found[path] = found[other]
            elif other not in space and get_path(config, other) not in values:
                found[path] = f"{other} is fixed to {shown(get_path(config, other))}"
    return found


def _never_active(space: Mapping[str, Distribution]) -> list[tuple[str, str]]:
    """Return the parameters whose conditions, and the conditions of what these look at, contradict each other."""
    problems = []
    for path, dist in space.items():
        wanted: dict[str, list[Any]] = {}
        waiting = list(dist.when.items())
        while waiting:
            other, values = waiting.pop()
            wanted[other] = [value for value in wanted.get(other, values) if value in values]
            if not wanted[other]:
                problems.append(
                    (path, f"when: {other} can never be what all conditions together ask for; correct one of them")
                )
                break
            waiting += space[other].when.items() if other in space else []
    return problems


def _all_refused(config: Config, space: Mapping[str, Distribution]) -> list[tuple[str, str]]:
    """Return a problem where the configuration accepts no combination of the values at all."""
    found = when_all_refused(config, space)
    if found is None:
        return []
    point, why = found
    return [(next(iter(space)), f"all of {DRAWS} random points are refused; {shown(point)}: {why}")]


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
    problems: list[tuple[str, str]] = []
    for field in ("known", "warm_start"):
        for index, point in enumerate(getattr(config.study, field)):
            if isinstance(point, str):
                continue
            where, found = f"study.{field}[{index}]", list[str]()
            if not point:
                found.append(f"is empty; allowed: values of {listed(space)}; give one, or leave it out")
            for path, value in point.items():
                if path not in space:
                    found.append(
                        f"{path} is not searched{nearest(path, space)}; allowed: {listed(space)}; correct the path, or "
                        "search it too"
                    )
                elif not space[path].contains(value):
                    found.append(
                        f"{path} is {shown(value)}; allowed: {_range(space[path])}, what space: has; correct the "
                        "value, or widen the range"
                    )
            if not found:
                found = _not_there(with_conditions(point, space, config), space, config)
            if not found and not problems and (why := refusal(config, point)):
                found.append(why)
            problems += [(where, text) for text in found]
    return problems


def _not_there(point: Mapping[str, Any], space: Mapping[str, Distribution], config: Config) -> list[str]:
    """Return what is wrong with a point whose fields do not all exist."""
    found = []
    for path in point:
        if not space[path].active(point, config):
            when = " and ".join(f"{other} is {' or '.join(map(str, v))}" for other, v in space[path].when.items())
            found.append(f"{path} exists only where {when}, which is not so in this point; correct it")
    return found


def _range(dist: Distribution) -> str:
    """Return what a distribution may propose, in words."""
    return listed(dist.choices) if dist.kind == "choice" else dist.in_words


def key_of(path: str) -> tuple[str, ...]:
    """Return where a problem of `space_problems` lies in the file: the keys of its path."""
    return ("study", path.split(".")[1].split("[")[0]) if path.startswith("study.") else ("space", path)


def problem_text(path: str, message: str) -> str:
    """Return a problem of `space_problems` as people read it."""
    return f"{path}: {message}" if path.startswith("study.") else f"space.{path}: {message}"
