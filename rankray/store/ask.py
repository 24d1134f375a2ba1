"""New trials: a place in the budget, a point or a proposal, and parameters that are complete or void.

A trial is created with its driver, its origin and its point in one write, so nobody ever meets a trial that belongs to
no one. Then two questions are decided by number, without a lock: lower numbers win. A trial that finds the budget
filled by lower ones, or its point taken by a lower one, withdraws. Every trial's place is judged after all lower ones
exist, and trials only ever leave the budget by failing, so the finished trials can never be more than the budget.

A point is tried once. Only while nothing in the study has finished yet does a point that failed under an earlier driver
count as untried: then it was most likely not the point that was broken, and the search was started again to mend it.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from rankray.config.schema import Config
from rankray.config.space import Distribution, baseline_points, distributions
from rankray.store.records import (
    DRIVER,
    ORIGIN,
    POINT,
    READY,
    VOID,
    counts_against_budget,
    is_void,
    point_key,
)
from rankray.store.strategies import sampler


class Asker:
    """Makes the new trials of one driver. Not thread-safe: its caller holds a lock."""

    def __init__(self, storage: BaseStorage, study_id: int, name: str, config: Config, driver: str) -> None:
        self._storage, self._study_id, self._config, self._driver = storage, study_id, config, driver
        self._space = distributions(config)
        self._points: dict[str, tuple[str, dict[str, Any]]] = {}
        for origin, params in baseline_points(config):
            self._points.setdefault(point_key(params), (origin, params))
        self._name = name

    def new(self) -> FrozenTrial | None:
        """Return a new trial with all its parameters, or None if the budget has no room.

        Raises:
            StoreUnavailable: the store does not answer. What was begun is discarded by the next call.
        """
        while True:
            trials = self._trials()
            if sum(map(counts_against_budget, trials)) >= self._config.study.trials:
                return None
            trial_id = self._create(self._open_point(trials))
            trials = self._trials()
            trial = next(each for each in reversed(trials) if each._trial_id == trial_id)
            lower = [each for each in trials if each.number < trial.number]
            if sum(map(counts_against_budget, lower)) >= self._config.study.trials:
                withdraw(self._storage, trial_id, "surplus")
                return None
            try:
                if trial.user_attrs.get(POINT) in self._tried(lower):
                    withdraw(self._storage, trial_id, "surplus")
                    continue
                self._suggest(trial_id, trial.number)
                self._storage.set_trial_user_attr(trial_id, READY, True)
                return self._storage.get_trial(trial_id)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # another driver took this one for dead and discarded the trial

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _open_point(self, trials: list[FrozenTrial]) -> tuple[str, str, dict[str, Any]]:
        """Return (key, origin, params) of the first point nobody has tried."""
        tried = self._tried(trials)
        for key, (origin, params) in self._points.items():
            if key not in tried:
                return key, origin, params
        return "", "sampler", {}

    def _tried(self, trials: list[FrozenTrial]) -> set[str]:
        """Return the keys of the points that some trials have tried; a void trial has tried nothing."""
        fruitful = any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)
        return {
            trial.user_attrs[POINT]
            for trial in trials
            if POINT in trial.user_attrs
            and not is_void(trial)
            and (fruitful or trial.state != TrialState.FAIL or trial.user_attrs.get(DRIVER) == self._driver)
        }

    def _create(self, point: tuple[str, str, dict[str, Any]]) -> int:
        key, origin, params = point
        attributes = {DRIVER: self._driver, ORIGIN: origin} | ({POINT: key} if key else {})
        fixed = {"fixed_params": params} if params else {}
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes, system_attrs=fixed)
        return self._storage.create_new_trial(self._study_id, template)

    def _suggest(self, trial_id: int, number: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A study of its own for each ask, as optuna keeps a study's history per thread until its own ask().
            study = Study(study_name=self._name, storage=self._storage, sampler=sampler(self._config, number))
            trial = Trial(study, trial_id)
            params: dict[str, Any] = {}
            for path, dist in self._space.items():
                if dist.active(params, self._config):
                    params[path] = _suggest(trial, dist)


def withdraw(storage: BaseStorage, trial_id: int, why: str) -> None:
    """Make a trial void: FAILED in the store, and counted nowhere. A finished trial is left as it is."""
    try:
        storage.set_trial_user_attr(trial_id, VOID, why)
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        pass


def _suggest(trial: Trial, dist: Distribution) -> Any:
    if dist.kind == "choice":
        return trial.suggest_categorical(dist.path, dist.choices)
    if dist.kind == "int":
        return trial.suggest_int(dist.path, int(dist.low), int(dist.high), step=int(dist.step or 1), log=dist.log)
    return trial.suggest_float(dist.path, dist.low, dist.high, step=dist.step, log=dist.log)
