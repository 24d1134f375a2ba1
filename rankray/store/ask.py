"""New trials: proposed in a dry run, created in one write, given a place in the budget.

A trial is created with its driver, its origin, its point and its parameters in one write, so there is never a trial
that belongs to nobody. Its parameters are proposed before, in a dry run (`dry_run`), for the number that the trial will
have if no other driver creates one first. Then three questions are decided by number, without a lock: lower numbers
win. A trial is withdrawn if lower numbers fill the budget, if a lower number has taken its point, or if another driver
has just created a trial of the same parameters. Every trial's place is judged after all lower ones exist, and trials
only ever leave the budget by failing, so the finished trials can never be more than the budget. READY says that the
place was judged: a trial whose driver died before that is discarded, never run.

A baseline, a warm start, and every point of a finite space is tried once (`points`): where the sampler proposes a point
again, one that nobody has tried takes its place, and where none is left there is no new trial. So does a baseline or
warm start that leaves something open, where what the sampler adds to it makes a point that was tried. There is one
exception: a point that failed under an earlier driver, none of whose trials has finished, counts as untried.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from rankray.config import distributions
from rankray.config.schema import Config
from rankray.store.auto import AutoSampler
from rankray.store.backend import RetryingStorage
from rankray.store.dry_run import DryRunStorage
from rankray.store.grid import GridSampler
from rankray.store.history import History
from rankray.store.optuna_private import trial_id
from rankray.store.pareto import joined
from rankray.store.points import FinitePoints, counts_as_tried
from rankray.store.records import (
    CREATED,
    DRIVER,
    ORIGIN,
    POINT,
    READY,
    VOID,
    counts_against_budget,
    is_void,
    point_key,
)
from rankray.store.stored import now, text
from rankray.store.strategies import derived_seed, sampler, suggest

logger = logging.getLogger(__name__)

COMPLETIONS = 50
"""How often what a given point leaves open is drawn again, where the point had been tried."""
Points = Sequence[tuple[str, dict[str, Any]]]
"""Points to try, each with the origin that its trial will have."""
Plan = Callable[[list[FrozenTrial]], Points]
Proposal = tuple[dict[str, Any], dict[str, BaseDistribution], dict[str, Any]]
"""Parameters, their distributions, and what the sampler wants to remember of them, as Optuna system attributes."""


class Asker:
    """Makes the new trials of one driver. Not thread-safe: its caller holds a lock.

    Args:
        storage: the store.
        study_id: the study's id there.
        history: the driver's copy of the study.
        config: the study's configuration.
        driver: the driver's id.
        points: what to try first, as (origin, params); or a plan, which says from the study's trials so far what is to
            be tried. A plan's points are all that is tried.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        history: History,
        config: Config,
        driver: str,
        points: Points | Plan,
    ) -> None:
        self._storage, self._study_id, self._history = storage, study_id, history
        self._config, self._driver = config, driver
        self._space = distributions(config)
        self._points: dict[str, tuple[str, dict[str, Any]]] = {}
        self._spent: set[str] = set()
        self._plan = points if callable(points) else None
        self._note_points([] if callable(points) else points)
        self.points = FinitePoints(config, history, driver)
        self._dry_run = DryRunStorage(storage, study_id, history.direction)

    def new(self) -> FrozenTrial | None:
        """Return a new trial with all its parameters, or None if the budget has no room; `history` is fresh.

        Raises:
            StoreUnavailable: the store does not answer. A trial that was begun is discarded by the next call.
        """
        seed_salt = ""
        while self._history.taken < self._config.study.trials:
            number = len(self._history.trials)
            key, origin, fixed = self._open_point()
            if self._plan is not None and not key:
                return None
            proposal = self._propose(number, seed_salt, fixed)
            if key and self._plan is None and self.points.is_tried(proposal[0]):
                other = self._completed(number, seed_salt, fixed)
                if other is None:
                    self._spent.add(key)
                    continue
                proposal = other
            if not key:
                seed = derived_seed(self._config.study.seed, number, seed_salt)
                point = self.points.untried(proposal[0], seed)
                if point is None:
                    return None
                proposal = proposal if point is proposal[0] else self._propose(number, seed_salt, point)
            trial = self._create(key, origin, proposal)
            if self._surplus(trial):
                withdraw(self._storage, trial, "surplus")
                return None
            twin = not seed_salt and self._has_twin(trial, number)
            if twin or key in self._tried(trial.number):
                withdraw(self._storage, trial, "surplus")
                self._history.refresh()
                seed_salt = self._driver if twin else seed_salt
                continue
            try:
                return self._ready(trial)
            except optuna.exceptions.UpdateFinishedTrialError:
                logger.debug("trial %d: another driver declared this one dead and discarded it", trial.number)
                self._history.refresh()
        return None

    def _ready(self, trial: FrozenTrial) -> FrozenTrial:
        """Write that a trial's place was judged; return it as it then is in the store."""
        if isinstance(self._storage, RetryingStorage) and self._storage.write_step(trial_id(trial), READY, True):
            self._history.wrote(trial.number, READY, True)
            return self._history.trials[trial.number]
        self._storage.set_trial_user_attr(trial_id(trial), READY, True)
        self._history.written.add(trial.number)
        return trial

    @property
    def plan_is_done(self) -> bool:
        """Whether there is a plan, and each of its points has had its trial; `history` is fresh."""
        return self._plan is not None and not self._history.unfinished and not self._open_point()[0]

    def _note_points(self, points: Points) -> None:
        for origin, params in points:
            self._points.setdefault(point_key(params), (origin, params))

    def _surplus(self, trial: FrozenTrial) -> bool:
        """Return whether trials of lower numbers fill the budget."""
        higher = self._history.trials[trial.number :]
        return self._history.taken - sum(map(counts_against_budget, higher)) >= self._config.study.trials

    def _has_twin(self, trial: FrozenTrial, number: int) -> bool:
        """Return whether another driver, asked for the same number, has just created a trial of the same parameters."""
        between = self._history.trials[number : trial.number]
        return any(each.params == trial.params and not is_void(each) for each in between)

    def _open_point(self) -> tuple[str, str, dict[str, Any]]:
        """Return (key, origin, params) of the first point nobody has tried."""
        if self._plan is not None:
            self._note_points(self._plan([trial for trial in self._history.trials if not is_void(trial)]))
        tried = self._tried(len(self._history.trials))
        for key, (origin, params) in self._points.items():
            if key not in tried and key not in self._spent:
                return key, origin, params
        return "", "sampler", {}

    def _tried(self, below: int) -> set[str]:
        """Return the keys of the points that trials of lower numbers tried; a void trial has tried nothing."""
        pointed = [self._history.trials[number] for number in self._history.pointed if number < below]
        counted = [trial for trial in pointed if counts_as_tried(trial, self._history, self._driver)]
        return {key for trial in counted if (key := text(trial.user_attrs[POINT]))}

    def _create(self, key: str, origin: str, proposal: Proposal) -> FrozenTrial:
        """Create a trial and return it as it is in the store; the history is then fresh."""
        attributes = {DRIVER: self._driver, ORIGIN: origin, CREATED: now()}
        attributes |= {POINT: key} if key else {}
        params, kinds, marks = proposal
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes, system_attrs=marks)
        template.params, template.distributions = params, kinds
        created = self._storage.create_new_trial(self._study_id, template)
        return next(each for each in reversed(self._history.refresh()) if trial_id(each) == created)

    def _completed(self, number: int, seed_salt: str, fixed: dict[str, Any]) -> Proposal | None:
        """Return a given point, completed so that nobody has tried it; None where that was not found."""
        for attempt in range(COMPLETIONS):
            found = self._propose(number, f"{seed_salt}:{attempt}", fixed)
            if found[0].keys() <= fixed.keys():
                return None
            if not self.points.is_tried(found[0]):
                return found
        return None

    def _propose(self, number: int, seed_salt: str, fixed: dict[str, Any]) -> Proposal:
        """Return what the trial of this number is to be."""
        draft = create_trial(state=TrialState.RUNNING, system_attrs={"fixed_params": fixed} if fixed else {})
        draft.number = number
        proposer = sampler(self._config, number, seed_salt)
        looks_at_runs = isinstance(proposer, AutoSampler) and proposer.looks_at_runs(len(self._history.whole))
        shown = self._history.whole_first() if looks_at_runs else self._history.shown()
        shown = self._history.trials if isinstance(proposer, GridSampler) else shown  # a part would hide tried points
        self._dry_run.trials = joined(shown, self._config, number) if self._config.study.metrics else shown
        self._dry_run.draft, self._dry_run.marks = draft, {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A new Study for each ask, because Optuna keeps a study's history per thread until its own ask().
            study = Study(self._config.name, self._dry_run, proposer)
            trial = Trial(study, trial_id(draft))
            params: dict[str, Any] = {}
            for path, dist in self._space.items():
                if dist.active(params, self._config):
                    params[path] = suggest(trial, dist)
        return params, trial.distributions, self._dry_run.marks


def withdraw(storage: BaseStorage, trial: FrozenTrial, reason: str) -> None:
    """Make a trial void: FAILED in the store, and counted nowhere. A finished trial is left as it is."""
    try:
        storage.set_trial_user_attr(trial_id(trial), VOID, reason)
        storage.set_trial_state_values(trial_id(trial), TrialState.FAIL)
    except optuna.exceptions.UpdateFinishedTrialError:
        logger.debug("trial %d: has ended already, and is not withdrawn as %s", trial.number, reason)
