"""Which recorded runs make a table: whole ones, from the same steps, and what stands for a number that is missing.

The end is the last step at which at least LEAST_SETTINGS settings have the study's metrics. A run that has no row there
was stopped before and is left out, unless its last row is not a finite number: then it diverged. The steps of the table
are those at which most of the runs that reach the end have one of the metrics that a search reads. A number that is
missing there, where most runs have one, or that is not finite, counts as the worst of its column: a run that diverged
is a bad run. Where most runs have none, the metric was not measured: it tells nothing, and is the same for all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Config
from rankray.config.evaluation import natural_direction
from rankray.errors import UserError

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Run = dict[int, list[float]]
Key = tuple[tuple[tuple[str, Any], ...], str]
LEAST_SETTINGS = 8
MOST = 0.8
"""The share of the runs that counts as most."""


@dataclass(frozen=True)
class Table:
    """Recorded runs of several settings.

    Attributes:
        steps: the steps that every run reported, in order.
        metrics: the metrics' names.
        settings: each setting's parameters.
        curves: of each setting, its runs; each (seeds, steps, metrics).
        left_out: runs that were left out, because the space cannot propose them or because they lack steps.
    """

    steps: tuple[int, ...]
    metrics: tuple[str, ...]
    settings: tuple[dict[str, Any], ...]
    curves: tuple[Array, ...]
    left_out: int = 0

    @property
    def means(self) -> Array:
        """Each setting's mean over its seeds; (settings, steps, metrics)."""
        return np.stack([runs.mean(axis=0) for runs in self.curves])

    def pairs(self) -> list[tuple[int, Array]]:
        """Return (setting, difference of two seeds / sqrt 2), each as large as the noise of one run."""
        return [
            (index, (runs[first] - runs[first + 1]) / math.sqrt(2))
            for index, runs in enumerate(self.curves)
            for first in range(0, len(runs) - 1, 2)
        ]


@dataclass
class Recorded:
    """Runs as they were read.

    Attributes:
        where: what they were read from.
        metrics: the names of each row's figures.
        runs: by (setting, seed), each with its figures by step: NaN is missing, infinity not finite.
        outside: runs that the space cannot propose.
        example: why one of them is outside.
    """

    where: str
    metrics: tuple[str, ...]
    runs: dict[Key, Run] = field(default_factory=dict)
    outside: set[Any] = field(default_factory=set)
    example: str = ""

    def leave_out(self, run: Any, why: str) -> None:
        """Note that the space cannot propose a run."""
        self.outside.add(run)
        self.example = self.example or why


def gathered(recorded: Recorded, config: Config) -> Table:
    """Return the table of what was recorded.

    Raises:
        UserError: too few settings are left.
    """
    asked = [recorded.metrics.index(name) for name in config.study.metrics or [config.study.metric]]
    end = _end(recorded.runs, asked)
    if end is None:
        raise _too_few(recorded, len({setting for setting, _ in recorded.runs}), "")
    ended = [run for run in recorded.runs.values() if _has(run, end, asked)]
    kept = [index for index in range(len(recorded.metrics)) if index in asked or _is_measured(ended, end, index)]
    read = [index for index in kept if index in asked or recorded.metrics[index] == config.study.prune_on]
    steps = sorted({step for run in ended for step in run if 0 < step <= end})
    measured = {step: [index for index in kept if _is_measured(ended, step, index)] for step in steps}
    steps = [step for step in steps if any(index in measured[step] for index in read)]
    curves: dict[Any, list[Array]] = {}
    for (setting, _), run in _by_seed(recorded.runs):
        whole = all(step in run for step in steps) and _has(run, end, asked)
        if whole or _diverged(run, end, {step: [i for i in measured[step] if i in read] for step in steps}):
            curves.setdefault(setting, []).append(_curve(run, steps, kept, measured))
    if len(curves) < LEAST_SETTINGS:
        raise _too_few(recorded, len(curves), f" and whole until step {end}")
    metrics = tuple(recorded.metrics[index] for index in kept)
    filled = _without_gaps(list(curves.values()), metrics, config)
    count = sum(len(each) for each in filled)
    left_out = len(recorded.outside) + len(recorded.runs) - count
    logger.debug("table %s: %d settings, %d runs, %d left out", recorded.where, len(curves), count, left_out)
    return Table(tuple(steps), metrics, tuple(dict(setting) for setting in curves), tuple(filled), left_out)


def _by_seed(runs: Mapping[Key, Run]) -> list[tuple[Key, Run]]:
    """Return runs by setting, as these were recorded, and seed: which two make a pair must not depend on the rows."""
    first = {setting: at for at, (setting, _) in reversed(list(enumerate(runs)))}

    def place(item: tuple[Key, Run]) -> tuple[int, float, str]:
        setting, seed = item[0]
        return first[setting], int(seed) if seed.isdecimal() else math.inf, seed

    return sorted(runs.items(), key=place)


def _too_few(recorded: Recorded, count: int, whole: str) -> UserError:
    outside = f", and {len(recorded.outside)} runs that it cannot" if recorded.outside else ""
    example = f" ({recorded.example})" if recorded.example else ""
    unequal = "" if whole or count < LEAST_SETTINGS else ", but no step at which so many have the study's metrics"
    return UserError(
        f"rehearse: {recorded.where} has {count} settings that the space can propose{whole}{unequal}{outside}"
        f"{example}; needed: {LEAST_SETTINGS} that end at the same step; widen the space, or record more"
    )


def _end(runs: Mapping[Key, Run], asked: Sequence[int]) -> int | None:
    """Return the last step at which enough settings have the study's metrics."""
    reached: dict[int, set[Any]] = {}
    for (setting, _), run in runs.items():
        for step in run:
            if step > 0 and _has(run, step, asked):
                reached.setdefault(step, set()).add(setting)
    return max((step for step, settings in reached.items() if len(settings) >= LEAST_SETTINGS), default=None)


def _has(run: Run, step: int, metrics: Sequence[int]) -> bool:
    """Return whether a run has a finite number of each metric at a step."""
    return step in run and all(math.isfinite(run[step][index]) for index in metrics)


def _is_measured(runs: Sequence[Run], step: int, metric: int) -> bool:
    """Return whether most runs have a number of a metric at a step."""
    return sum(_has(run, step, [metric]) for run in runs) >= MOST * len(runs)


def _diverged(run: Run, end: int, measured: Mapping[int, Sequence[int]]) -> bool:
    """Return whether a run's last row until the end lacks a number because it was not finite.

    Args:
        run: figures by step.
        end: the last step that counts.
        measured: of each step of the table, the metrics that most runs have there and that a search reads.
    """
    last = max((step for step in run if 0 < step <= end), default=None)
    if last is None:
        return False
    return any(math.isinf(figure) for figure in run[last]) or any(
        not math.isfinite(run[last][index]) for index in measured.get(last, ())
    )


def _curve(run: Run, steps: Sequence[int], kept: Sequence[int], measured: Mapping[int, Sequence[int]]) -> Array:
    """Return a run's figures, (steps, metrics); NaN where the worst of the column is to stand."""
    figures = [
        [run[step][index] if step in run and index in measured[step] else math.nan for index in kept] for step in steps
    ]
    return np.array(figures, dtype=float)


def _without_gaps(curves: Sequence[Sequence[Array]], metrics: Sequence[str], config: Config) -> list[Array]:
    """Return curves whose numbers are finite: what is not is the worst of its column."""
    stacked = [np.stack(each) for each in curves]
    everything = np.concatenate([each.reshape(-1, len(metrics)) for each in stacked])
    for index, name in enumerate(metrics):
        column = everything[:, index]
        there = column[np.isfinite(column)]
        larger_is_better = metric_direction(name, config) == "maximize"
        worst = float(there.min() if larger_is_better else there.max()) if len(there) else 0.0
        for each in stacked:
            values = each[:, :, index]
            values[~np.isfinite(values)] = worst
    return stacked


def metric_direction(name: str, config: Config) -> str:
    """Return `minimize` or `maximize` for a metric: the study's own; of others, NLLs and losses are minimised."""
    if name == config.study.metric:
        return config.direction
    falls = any(part in name for part in ("nll", "loss", "bits", "perplexity"))
    return natural_direction(name) or ("minimize" if falls else "maximize")
