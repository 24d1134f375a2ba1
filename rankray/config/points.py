"""The points of a search space: random ones, all of a finite space, and those that the configuration refuses.

Each bound and each choice is checked when a space is parsed, but a combination of allowed values may still be refused:
a batch size that the micro batch does not divide, for one. How often that happens is found by drawing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

from rankray.config.distribution import Distribution
from rankray.config.params import apply_params
from rankray.config.schema import Config
from rankray.errors import ConfigError

MOST_POINTS = 2000
"""Finite spaces with more points than this are treated as if they were infinite."""
DRAWS = 200
"""How many random points are tried on a configuration to find out what it refuses."""
PointId = tuple[tuple[str, Any], ...]


def draw_point(space: Mapping[str, Distribution], config: Config, dice: random.Random) -> dict[str, Any]:
    """Return a random point; parameters that do not exist there are left out."""
    point: dict[str, Any] = {}
    for path, dist in space.items():
        if dist.active(point, config):
            point[path] = draw_value(dist, dice)
    return point


def draw_value(dist: Distribution, dice: random.Random) -> Any:
    """Return a random value of a distribution, each as likely as the others on its scale."""
    values = None if dist.log else _values(dist)
    if values is not None and (dist.kind == "choice" or len(values) <= MOST_POINTS):
        return dice.choice(values)
    around = 0.5 if dist.kind == "int" and not dist.step else 0.0  # of a number, all that is rounded to it
    low, high = dist.low - around, dist.high + around
    value = math.exp(dice.uniform(math.log(low), math.log(high))) if dist.log else dice.uniform(low, high)
    if dist.step:
        value = dist.low + round((value - dist.low) / dist.step - 0.5) * dist.step
    value = min(max(round(value) if dist.kind == "int" else value, dist.low), dist.high)
    return int(value) if dist.kind == "int" else value


def all_points(
    space: Mapping[str, Distribution], config: Config, most: int = MOST_POINTS
) -> list[dict[str, Any]] | None:
    """Return all points of a space that the configuration accepts; None if it has more than `most`, or no end."""
    points: list[dict[str, Any]] = [{}]
    for path, dist in space.items():
        values = _values(dist)
        if values is None:
            return None
        longer: list[dict[str, Any]] = []
        for point in points:
            longer += [{**point, path: value} for value in values] if dist.active(point, config) else [point]
            if len(longer) > most:
                return None
        points = longer
    if refusal(config, {}):  # a study of another version, which is looked at: that says nothing of its points
        return points
    return [point for point in points if not refusal(config, point)]


def point_id(point: Mapping[str, Any], space: Mapping[str, Distribution]) -> PointId:
    """Return what is equal for equal points: a value on a grid counts by its place there, however it was rounded."""
    return tuple((path, _place(value, space.get(path))) for path, value in sorted(point.items()))


def refusal(config: Config, point: Mapping[str, Any]) -> str:
    """Return why the configuration refuses a point, or an empty string."""
    try:
        apply_params(config, point)
    except ConfigError as error:
        return str(error)
    return ""


def refused_draws(config: Config, space: Mapping[str, Distribution]) -> list[tuple[dict[str, Any], str]]:
    """Return those of `DRAWS` random points that the configuration refuses, each with the reason."""
    return [(point, why) for point in _draws(config, space) if (why := refusal(config, point))]


def when_all_refused(config: Config, space: Mapping[str, Distribution]) -> tuple[dict[str, Any], str] | None:
    """Return a point and why it is refused, if each of `DRAWS` random points is; None as soon as one is accepted."""
    found = None
    for point in _draws(config, space):
        why = refusal(config, point)
        if not why:
            return None
        found = point, why
    return found


def _draws(config: Config, space: Mapping[str, Distribution]) -> Iterator[dict[str, Any]]:
    dice = random.Random(f"draws of {config.name}")
    for _ in range(DRAWS if space else 0):
        yield draw_point(space, config, dice)


def some_draw_allows(config: Config, space: Mapping[str, Distribution], path: str, value: Any) -> bool:
    """Return whether the configuration accepts a value at `path` together with some values of the other parameters."""
    dice = random.Random(f"{path} {value!r}")
    for _ in range(DRAWS):
        point = draw_point(space, config, dice)
        if path in point and not refusal(config, {**point, path: value}):
            return True
    return False


def _values(dist: Distribution) -> list[Any] | range | None:
    """Return every value of a distribution; None if there are infinitely many, or numbers more than `MOST_POINTS`."""
    if dist.kind == "choice":
        return list(dist.choices)
    if dist.kind == "int":
        low, high, step = int(dist.low), int(dist.high), int(dist.step or 1)
        return range(low, high + 1, step) if (high - low) // step < MOST_POINTS else None
    if dist.step is None:
        return None
    count = math.floor((dist.high - dist.low) / dist.step + 1e-9) + 1
    return [dist.at_step(index) for index in range(count)] if count <= MOST_POINTS else None


def _place(value: Any, dist: Distribution | None) -> Any:
    if dist is not None and dist.step and dist.kind == "float":
        return round((value - dist.low) / dist.step)
    return value
