"""The verdict on a report: the pruner is asked once, in a dry run, and its answer is written once.

Optuna's pruners write while they are asked. Successive halving notes each rung on the trial and, asked again, gives
another answer. So a kill between the question and the write of its answer would change the verdict. Here the pruner is
asked in a dry run (`dry_run`). What it would write becomes `marks` in the step record, which is one write: before it
nothing has happened, after it everything that follows can be done again from the record alone.

A baseline is never pruned: every search keeps the run that its winner is compared with. The pruner is asked all the
same, because other trials are compared with what it notes of this one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from optuna.pruners import BasePruner
from optuna.study import Study
from optuna.trial import FrozenTrial

from rankray.config.schema import Config
from rankray.contracts import Report
from rankray.store.dry_run import DryRunStorage
from rankray.store.records import StepRecord, is_baseline, steps_of
from rankray.store.strategies import pruner, strategy_name


class Judge:
    """Decides on reports for one study. Not thread-safe: its caller holds a lock."""

    def __init__(self, dry_run: DryRunStorage, name: str, config: Config) -> None:
        self._config = config
        self._metric, self._prune_on = config.study.metric, config.study.prune_on
        self._name = strategy_name(config.study.pruner)
        self._pruner: BasePruner = pruner(config)
        self._dry_run = dry_run
        self._study = Study(study_name=name, storage=self._dry_run, pruner=self._pruner)

    def judge(self, trial: FrozenTrial, report: Report, trials: Sequence[FrozenTrial]) -> StepRecord:
        """Return the record to commit for a report that has none yet. Writes nothing.

        A study metric, or a metric to prune on, that is not a finite number stops the trial as failed. The pruner is
        asked if the report has the metric to prune on, is of a later step than all before it, and is not of the last
        step: a trial trained to its end is never pruned, nor is a baseline.

        Args:
            trial: the trial as it is in the store.
            report: what it reports.
            trials: the study's trials, the values of `study.prune_on` as their intermediate ones.
        """
        metrics = {name: float(value) for name, value in report.metrics.items()}
        spread = dict(report.spread or {})
        record = StepRecord(step=report.step, metrics=metrics, checkpoint=report.checkpoint, spread=spread)
        for name in dict.fromkeys((self._metric, self._prune_on, *self._config.study.metrics)):
            if not math.isfinite(metrics.get(name, 0.0)):
                reason = f"{name} is {metrics[name]} at step {report.step}"
                return StepRecord(**{**vars(record), "stop": True, "failed": True, "reason": reason})
        if self._prune_on not in metrics or self._metric not in metrics:
            return record
        if report.step >= self._config.steps_with(trial.params) or any(step > report.step for step in steps_of(trial)):
            return record
        self._dry_run.trials = trials
        value = metrics[self._prune_on]
        stop, marks = self._ask(trials[trial.number], report.step, value)
        stop = stop and not is_baseline(trial)
        return StepRecord(
            **{**vars(record), "stop": stop, "reason": self._reason(report.step, value, stop), "marks": marks}
        )

    def _ask(self, trial: FrozenTrial, step: int, value: float) -> tuple[bool, dict[str, Any]]:
        seen = copy.copy(trial)
        seen.intermediate_values = {**trial.intermediate_values, step: value}
        self._dry_run.marks = {}
        stop = bool(self._pruner.prune(self._study, seen))
        return stop, self._dry_run.marks

    def _reason(self, step: int, value: float, stop: bool) -> str:
        if not stop:
            return ""
        why = getattr(self._pruner, "reason", "")
        if self._name == "threshold" and isinstance(options := self._config.study.pruner, dict):
            bounds = [f"{side} {options[side]:g}" for side in ("lower", "upper") if side in options]
            return f"threshold at step {step}: {self._prune_on} {value:.6g} is beyond {' or '.join(bounds)}"
        return (
            f"{self._prune_on} {why}" if why else f"{self._name} at step {step}: {self._prune_on} {value:.6g} is behind"
        )
