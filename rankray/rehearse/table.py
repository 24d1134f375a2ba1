"""Recorded runs: a csv or parquet file with one row per (setting, seed, step).

Columns are the dotted paths of the space's fields (empty where a field does not exist), `seed`, `step`, and metrics by
their names. Other columns are ignored. A metric that is not a finite number counts as the worst one of its column, so
a run that diverged is a bad run. Runs that lack a step which most others have are left out, and so are settings that
the space cannot propose.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Config, Distribution, distributions
from rankray.errors import UserError, nearest

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
LEAST_SETTINGS = 8


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


def read_table(file: Path, config: Config) -> Table:
    """Read a table for a configuration's space and metric.

    Raises:
        UserError: there is no such file, a column is missing, or too few settings are left.
    """
    rows = _rows(file)
    space, metric = distributions(config), config.study.metric
    columns = list(rows[0]) if rows else []
    for name, what in [
        ("seed", "column"),
        ("step", "column"),
        (metric, "metric"),
        *((path, "field") for path in space),
    ]:
        if name not in columns:
            raise UserError(
                f"rehearse: {file} has no {what} {name}{nearest(name, columns)}; its columns: "
                f"{', '.join(columns) or 'none'}; rename a column, or change the space or study.metric"
            )
    metrics = [name for name in columns if name not in space and _is_metric(name) and _has_numbers(rows, name)]
    runs: dict[tuple[tuple[tuple[str, Any], ...], str], dict[int, list[float]]] = {}
    outside: set[tuple[Any, ...]] = set()
    for row in rows:
        params = _params(row, space, config)
        if params is None:
            outside.add(tuple(str(row[path]) for path in space))
            continue
        key = (tuple(params.items()), str(row["seed"]))
        runs.setdefault(key, {})[int(float(row["step"]))] = [_number(row[name]) for name in metrics]
    return _gathered(file, runs, metrics, config, len(outside))


def table_of_trials(trials: Sequence[Mapping[str, Any]], config: Config) -> Table:
    """Return the table of a study's complete trials, as `rankray.store.views.trial` gives them: one seed of each.

    Raises:
        UserError: too few of them are complete.
    """
    whole = [trial for trial in trials if trial["state"] == "complete" and trial["steps"]]
    if not whole:
        raise UserError(
            "rehearse: no complete trial was recorded; needed: some; use synthetic curves, or finish some trials"
        )
    names = [name for name in whole[0]["steps"][-1]["metrics"] if _is_metric(name)]
    runs: dict[Any, dict[int, list[float]]] = {}
    for trial in whole:
        key = (tuple(trial["params"].items()), str(trial["number"]))
        runs[key] = {each["step"]: [_number(each["metrics"].get(name)) for name in names] for each in trial["steps"]}
    return _gathered(Path("the study"), runs, names, config, 0)


def _gathered(
    file: Path, runs: Mapping[Any, Mapping[int, list[float]]], metrics: list[str], config: Config, outside: int
) -> Table:
    counts: dict[int, int] = {}
    for run in runs.values():
        for step in run:
            counts[step] = counts.get(step, 0) + 1
    steps = tuple(sorted(step for step, count in counts.items() if step > 0 and count >= 0.8 * len(runs)))
    whole = {key: run for key, run in runs.items() if all(step in run for step in steps)}
    curves: dict[Any, list[list[list[float]]]] = {}
    for (params, _), run in whole.items():
        curves.setdefault(params, []).append([run[step] for step in steps])
    if len(curves) < LEAST_SETTINGS or not steps:
        raise UserError(
            f"rehearse: {file} has {len(curves)} settings that the space can propose, whole from step to step, and "
            f"{outside} that it cannot; needed: {LEAST_SETTINGS}; widen the space, or record more"
        )
    filled = _without_gaps([np.array(each, dtype=float) for each in curves.values()], metrics, config)
    left_out = outside + len(runs) - len(whole)
    logger.debug("table %s: %d settings, %d runs, %d left out", file, len(curves), len(whole), left_out)
    return Table(steps, tuple(metrics), tuple(dict(params) for params in curves), tuple(filled), left_out)


def _without_gaps(curves: list[Array], metrics: list[str], config: Config) -> list[Array]:
    """Return curves whose numbers are finite: what is not is the worst of its column."""
    everything = np.concatenate([each.reshape(-1, len(metrics)) for each in curves])
    for index, name in enumerate(metrics):
        column = everything[:, index]
        there = column[np.isfinite(column)]
        larger_is_better = metric_direction(name, config) == "maximize"
        worst = float(there.min() if larger_is_better else there.max()) if len(there) else 0.0
        for each in curves:
            values = each[:, :, index]
            values[~np.isfinite(values)] = worst
    return curves


def metric_direction(name: str, config: Config) -> str:
    """Return `minimize` or `maximize` for a metric: the study's own, and NLLs and losses are minimised."""
    if name == config.study.metric:
        return config.direction
    return "minimize" if any(part in name for part in ("nll", "loss", "bits", "perplexity")) else "maximize"


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"rehearse: {file}: there is no such file; allowed: a .csv or .parquet file; correct --table")
    if file.suffix == ".parquet":
        import pyarrow.parquet

        try:
            found: list[dict[str, Any]] = pyarrow.parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:
            raise UserError(
                f"rehearse: {file} is no parquet file ({error}); allowed: csv or parquet; fix it"
            ) from error
        return found
    if file.suffix != ".csv":
        raise UserError(f"rehearse: {file}: got {file.suffix or 'no ending'}; allowed: .csv, .parquet; rename the file")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        return list(csv.DictReader(lines))


def _is_metric(name: str) -> bool:
    return name.startswith(("eval/", "train/"))


def _has_numbers(rows: list[dict[str, Any]], name: str) -> bool:
    return any(math.isfinite(_number(row[name])) for row in rows)


def _number(given: Any) -> float:
    try:
        return math.nan if given is None or given == "" else float(given)
    except ValueError:
        return math.nan


def _params(row: Mapping[str, Any], space: Mapping[str, Distribution], config: Config) -> dict[str, Any] | None:
    """Return the setting of a row, or None where the space cannot propose it."""
    params: dict[str, Any] = {}
    for path, field in space.items():
        if not field.active(params, config):
            continue
        found = _value(row[path], field)
        if found is _OUTSIDE:
            return None
        params[path] = found
    return params


_OUTSIDE = object()


def _value(given: Any, field: Distribution) -> Any:
    """Return a cell as a value of a field."""
    empty = given is None or given == "" or (isinstance(given, float) and math.isnan(given))
    if field.kind == "choice":
        for choice in field.choices:
            if (choice is None and (empty or str(given) in ("None", "null"))) or (not empty and _equal(choice, given)):
                return choice
        return _OUTSIDE
    number = math.nan if empty else _number(given)
    if not math.isfinite(number):
        return _OUTSIDE
    value = int(number) if field.kind == "int" and number == int(number) else number
    return value if field.contains(value) else _OUTSIDE


def _equal(choice: Any, given: Any) -> bool:
    """Whether a cell means a choice: csv has only texts, and parquet may hold whole numbers as floats."""
    if isinstance(choice, bool):
        return str(given).lower() == str(choice).lower()
    if isinstance(choice, (int, float)):
        return not isinstance(given, bool) and _number(given) == float(choice)
    return str(given) == str(choice)
