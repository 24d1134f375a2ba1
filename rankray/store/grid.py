"""`sampler: grid`: every point of a grid over the conditional space, each once, whoever asks.

A choice and an `int` have all their values, a `float` with a `step` has its steps, and another `float` has `points`
values at even distances on its scale. Fields that do not exist in a setting make no points of their own. When the grid
is used up, settings are drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from rankray.config import Distribution, distributions
from rankray.config.schema import Config
from rankray.store.records import is_void, point_key


class GridSampler(BaseSampler):
    """See the module's docstring.

    Args:
        config: the study's configuration.
        seed: of the random settings that follow the grid.
        points: values of a `float` without a step.
    """

    def __init__(self, config: Config, seed: int, points: int = 5) -> None:
        if points < 2:
            raise ValueError(f"points is {points}, allowed: 2 or more")
        self._config, self._points = config, points
        self._random = RandomSampler(seed=seed)
        self._chosen: dict[str, Any] = {}

    @override
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        trials = study.get_trials(deepcopy=False)
        tried = {point_key(each.params) for each in trials if each.state != TrialState.FAIL or not is_void(each)}
        free = (point for point in grid(self._config, self._points) if point_key(point) not in tried)
        self._chosen = next(free, {})
        return {}

    @override
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._chosen:
            return self._chosen[param_name]
        return self._random.sample_independent(study, trial, param_name, param_distribution)


def grid(config: Config, points: int) -> Iterator[dict[str, Any]]:
    """Yield the grid's settings; of the last field the values change fastest."""
    return _completed({}, list(distributions(config).values()), config, points)


def _completed(
    params: Mapping[str, Any], fields: list[Distribution], config: Config, points: int
) -> Iterator[dict[str, Any]]:
    if not fields:
        yield dict(params)
        return
    field, rest = fields[0], fields[1:]
    if not field.active(params, config):
        yield from _completed(params, rest, config, points)
        return
    for value in _values(field, points):
        yield from _completed({**params, field.path: value}, rest, config, points)


def _values(field: Distribution, points: int) -> list[Any]:
    if field.kind == "choice":
        return list(field.choices)
    step = field.step or (1 if field.kind == "int" else None)
    if step is not None:
        count = int((field.high - field.low) / step + 1e-9) + 1
        values = [field.at_step(index) for index in range(count)]
        return [int(value) for value in values] if field.kind == "int" else values
    parts = [index / (points - 1) for index in range(points)]
    if field.log:
        inner = [field.low * (field.high / field.low) ** part for part in parts[1:-1]]
    else:
        inner = [field.low + (field.high - field.low) * part for part in parts[1:-1]]
    return [field.low, *inner, field.high]
