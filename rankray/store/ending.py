"""Ending trials: the writes that follow a committed step record or end record.

Everything here can be done twice, or by another driver than the one that committed. A trial that has already ended is
left as it is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.store.optuna_private import trial_id
from rankray.store.records import END, StepRecord, end_of, steps_of

logger = logging.getLogger(__name__)

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Ender:
    """Ends the trials of one study. The caller owns them."""

    def __init__(self, storage: BaseStorage, config: Config) -> None:
        self._storage = storage
        self._metric, self._others = config.study.metric, config.study.metrics[1:]
        self._steps_with = config.steps_with

    def carry_out(self, trial: FrozenTrial, record: StepRecord) -> None:
        """Do what a committed step record says, as far as it is not done."""
        value = record.metrics.get(self._metric)
        with _unless_ended(trial):
            if value is not None and not record.failed and trial.intermediate_values.get(record.step) != value:
                self._storage.set_trial_intermediate_value(trial_id(trial), record.step, value)
        if record.stop:
            state = "failed" if record.failed else "pruned"
            self._close(trial, {"state": state, "value": None if record.failed else value})

    def complete(self, trial: FrozenTrial, metrics: dict[str, float]) -> None:
        """End a trial by its final metrics: COMPLETE, or FAILED where the study's metric is missing or no number."""
        for name in (self._metric, *self._others):
            if name not in metrics:
                self.fail(trial, f"{name} is missing in the final metrics", metrics=metrics)
                return
            if not math.isfinite(metrics[name]):
                self.fail(trial, f"{name} is {metrics[name]} at the end", metrics=metrics)
                return
        self._commit(trial, {"state": "complete", "value": metrics[self._metric], "metrics": metrics})

    def fail(self, trial: FrozenTrial, reason: str, **more: Any) -> None:
        """End a trial as FAILED."""
        self._commit(trial, {"state": "failed", "reason": reason, **more})

    def committed(self, trial: FrozenTrial) -> str:
        """Return the state in which what is committed ends an unfinished trial; an empty string where nothing does."""
        steps = list(steps_of(trial).values())
        if stop := next((record for record in steps if record.stop), None):
            return "failed" if stop.failed else "pruned"
        if (state := end_of(trial).get("state")) in STATES:
            return str(state)
        return "complete" if steps and self._is_whole(trial, steps[-1]) else ""

    def finish_committed(self, trial: FrozenTrial) -> bool:
        """Do what an earlier owner committed and did not finish; return whether that ended the trial.

        A trial that has reported its last step is complete, even if its driver died before saying so.
        """
        steps = steps_of(trial)
        for record in steps.values():
            self.carry_out(trial, record)
            if record.stop:
                return True
        end = end_of(trial)
        if end.get("state") in STATES:
            self._close(trial, end)
            return True
        last = steps[max(steps)] if steps else None
        if last is not None and self._is_whole(trial, last):
            self.complete(trial, last.metrics)
            return True
        return False

    def _is_whole(self, trial: FrozenTrial, last: StepRecord) -> bool:
        """Return whether a trial has been trained to its end, with its own number of steps, and has its metric."""
        return last.step >= self._steps_with(trial.params) and self._metric in last.metrics

    def _commit(self, trial: FrozenTrial, end: dict[str, Any]) -> None:
        with _unless_ended(trial):
            self._storage.set_trial_user_attr(trial_id(trial), END, end)
            self._close(trial, end)

    def _close(self, trial: FrozenTrial, end: Mapping[str, Any]) -> None:
        value = end.get("value")
        values = None if value is None else [value]
        with _unless_ended(trial):
            self._storage.set_trial_state_values(trial_id(trial), STATES[end["state"]], values)


@contextmanager
def _unless_ended(trial: FrozenTrial) -> Iterator[None]:
    """Leave out a write to a trial that has ended."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError:
        logger.debug("trial %d: has ended already and is left as it is", trial.number)
