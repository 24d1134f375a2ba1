"""Recorded runs: a csv or parquet file with one row per (setting, seed, step).

Columns are the dotted paths of the space's fields (empty where a field does not exist), `seed`, `step`, and metrics by
their names. Other columns are ignored, but a field of the configuration that varies and is not searched: of that, the
rows with the file's own value count. Which runs count, and what stands for a number that is missing, is in `runs`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankray.config import Config, all_fields, distributions
from rankray.config.params import get_path
from rankray.errors import UserError, listed, nearest, shown
from rankray.rehearse.cells import (
    OutsideSpace,
    is_empty,
    is_same,
    is_written_otherwise,
    metric_number,
    number,
    params_of,
    text,
    value_of,
)
from rankray.rehearse.files import rows_of
from rankray.rehearse.runs import Recorded, Table, gathered

__all__ = ["Table", "read_table", "table_of_trials"]

SEED = "train.seed"
"""A field that makes no setting of its own: it tells runs apart, as the column `seed` does."""
SAME = 1e-9
"""By how much two figures of one row that is there twice may differ, relative to their size."""


def read_table(file: Path, config: Config) -> Table:
    """Read a table for a configuration's space and metrics.

    Raises:
        UserError: the file is no table, a column is missing, a cell makes no sense, rows contradict each other, or too
            few settings are left.
    """
    columns, rows = rows_of(file)
    space = distributions(config)
    objectives = config.study.metrics or [config.study.metric]
    for name, what in [
        ("seed", "column"),
        ("step", "column"),
        *((name, "metric") for name in objectives),
        *((path, "field") for path in space),
    ]:
        if name not in columns:
            raise UserError(
                f"rehearse: {file} has no {what} {name}{nearest(name, columns)}; its columns: "
                f"{listed(columns) or 'none'}; rename a column, or change the space or study.metric"
            )
    metrics = [name for name in columns if name not in space and is_metric(name) and _has_numbers(rows, name)]
    for name in objectives:
        if name not in metrics:
            raise UserError(
                f"rehearse: {file} has no number in the column {name}; allowed: numbers, as far as runs have not "
                "diverged; fill it, or change study.metric"
            )
    numbered = dict(enumerate(rows, 1))
    kept = _of_this_file(file, numbered, columns, config)
    recorded = _Reader(file, metrics, columns, config).read(kept)
    named = [path for path in columns if path in all_fields() or path in space]
    for at in numbered.keys() - kept.keys():
        row = numbered[at]
        recorded.leave_out(
            (*(text(row[path]) for path in named), text(row["seed"])), f"row {at} has another fixed field"
        )
    return gathered(recorded, config)


@dataclass(frozen=True)
class _Reader:
    """Makes runs of a file's rows."""

    file: Path
    metrics: list[str]
    columns: list[str]
    config: Config

    def read(self, rows: Mapping[int, Mapping[str, Any]]) -> Recorded:
        space = distributions(self.config)
        recorded = Recorded(str(self.file), tuple(self.metrics))
        first: dict[Any, tuple[int, Mapping[str, Any]]] = {}
        for at, row in rows.items():
            seed, step = self._seed(at, row["seed"]), self._step(at, row["step"])
            try:
                params = params_of(row, space, self.config)
            except OutsideSpace as error:
                recorded.leave_out((*(text(row[path]) for path in space), seed), f"{error} in row {at}")
                continue
            key = (tuple(params.items()), seed)
            run = recorded.runs.setdefault(key, {})
            figures = [self._figure(at, row, name) for name in self.metrics]
            run[step] = self._merged(run[step], figures, at, first[key, step], row) if step in run else figures
            first.setdefault((key, step), (at, row))
        return recorded

    def _figure(self, at: int, row: Mapping[str, Any], name: str) -> float:
        study = self.config.study
        if name in (study.metric, study.prune_on, *study.metrics) and is_written_otherwise(row[name]):
            raise UserError(
                f"rehearse: {self.file}: {name} is {shown(row[name])} in row {at}; allowed: a number with a point, as "
                "0.35; nan, inf or a word where it was not finite; nothing where it was not measured; correct it"
            )
        return metric_number(row[name])

    def _seed(self, at: int, cell: Any) -> str:
        if is_empty(cell):
            raise UserError(
                f"rehearse: {self.file}: seed is empty in row {at}; allowed: a number or a name that tells the runs of "
                "a setting apart; fill it"
            )
        return text(cell)

    def _step(self, at: int, cell: Any) -> int:
        found = number(cell)
        if not math.isfinite(found) or found != int(found) or found < 0:
            raise UserError(
                f"rehearse: {self.file}: step is {shown(cell)} in row {at}; allowed: the number of optimizer steps "
                "until then, a whole number; correct it"
            )
        return int(found)

    def _merged(
        self,
        there: list[float],
        more: list[float],
        at: int,
        first: tuple[int, Mapping[str, Any]],
        row: Mapping[str, Any],
    ) -> list[float]:
        """Return the figures of two rows of the same setting, seed and step: each may have what the other lacks."""
        for name, one, other in zip(self.metrics, there, more, strict=True):
            if math.isfinite(one) and math.isfinite(other) and not math.isclose(one, other, rel_tol=SAME):
                differ = [each for each in self.columns if each not in self.metrics and row[each] != first[1][each]]
                raise UserError(
                    f"rehearse: {self.file}: rows {first[0]} and {at} are of the same setting, seed and step, and "
                    f"{name} is {one:g} and {other:g}{_beside(differ)}; allowed: one row of each; give each run a seed "
                    "of its own, or leave one out"
                )
        return [
            other if math.isnan(one) or math.isfinite(other) else one for one, other in zip(there, more, strict=True)
        ]


def _beside(columns: Sequence[str]) -> str:
    return f" (they differ in {listed(columns, 5)}, which the space does not have)" if columns else ""


def _of_this_file(
    file: Path, rows: Mapping[int, dict[str, Any]], columns: Sequence[str], config: Config
) -> Mapping[int, dict[str, Any]]:
    """Return the rows whose fixed fields are the configuration's own, where the table has several values of one."""
    space, fields = distributions(config), all_fields()
    for path in columns:
        if path in space or path not in fields or path == SEED:
            continue
        values = {text(row[path]) for row in rows.values() if not is_empty(row[path])}
        if len(values) < 2:
            continue
        own = get_path(config, path)
        kept = {at: row for at, row in rows.items() if is_empty(row[path]) or is_same(own, row[path])}
        if not any(not is_empty(row[path]) for row in kept.values()) and own is not None:
            raise UserError(
                f"rehearse: {file}: {path} is {listed(sorted(values), 5)} there, {shown(own)} in the file, and not "
                "searched; allowed: a field that the space has, or one of these values; search it, or set it to one"
            )
        rows = kept
    return rows


def table_of_trials(trials: Sequence[Mapping[str, Any]], config: Config, earlier: Config | None = None) -> Table:
    """Return the table of a study's complete trials, as `rankray.store.views.trial` gives them: one seed of each.

    Args:
        trials: of the study; those that failed because a number was not finite are bad runs.
        config: of the rehearsal; its space decides which trials count.
        earlier: the study's own configuration: where it fixed a field that is searched now, that value counts.

    Raises:
        UserError: too few of them are complete.
    """
    complete = [trial for trial in trials if trial["state"] == "complete" and trial["steps"]]
    if not complete:
        raise UserError(
            "rehearse: no complete trial was recorded; needed: some; use synthetic curves, or finish some trials"
        )
    names = tuple(name for name in complete[0]["steps"][-1]["metrics"] if is_metric(name))
    for name in config.study.metrics or [config.study.metric]:
        if name not in names:
            raise UserError(
                f"rehearse: the study's trials have no metric {name}{nearest(name, names)}; theirs: {listed(names)}; "
                "change study.metric"
            )
    recorded = Recorded("the study", names)
    for trial in trials:
        if trial["state"] != "complete" and not _has_diverged(trial):
            continue
        try:
            params = _translated(trial["params"], config, earlier)
        except OutsideSpace as error:
            recorded.leave_out(trial["number"], f"{error} in trial {trial['number']}")
            continue
        steps = {each["step"]: [_figure(each["metrics"], name) for name in names] for each in trial["steps"]}
        recorded.runs[tuple(params.items()), str(trial["number"])] = steps
    return gathered(recorded, config)


def _has_diverged(trial: Mapping[str, Any]) -> bool:
    return trial["state"] == "failed" and bool(trial["steps"]) and None in trial["steps"][-1]["metrics"].values()


def _figure(metrics: Mapping[str, float | None], name: str) -> float:
    """Return a reported metric; what `views` shows as None was not finite."""
    found = metrics.get(name, math.nan)
    return math.inf if found is None else found


def _translated(given: Mapping[str, Any], config: Config, earlier: Config | None) -> dict[str, Any]:
    """Return a trial's point in the space of the rehearsal."""
    params: dict[str, Any] = {}
    for path, field in distributions(config).items():
        if field.active(params, config):
            fixed = get_path(earlier, path) if earlier is not None else None
            params[path] = value_of(given.get(path, fixed), field)
    return params


def is_metric(name: str) -> bool:
    """Return whether a column is a metric by its name."""
    return name.startswith(("eval/", "train/"))


def _has_numbers(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(math.isfinite(metric_number(row[name])) for row in rows)
