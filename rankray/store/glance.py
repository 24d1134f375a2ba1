"""A study at a glance: a database is asked for what is shown, instead of being read as a whole.

A study of ten thousand trials with a hundred reports each is a million rows. To show its state takes counts, its best
trials and the few that run. So the questions are asked in SQL over Optuna's tables (`optuna_private.tables`), and only
the trials that are shown are read. Journals and proxies have no such tables; there everything is read, as before.

All answers are the same as those computed from all trials (`tests/store/test_glance.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from rankray.store import optuna_private
from rankray.store.backend import RetryingStorage
from rankray.store.records import ORIGIN, VOID, is_void

OBJECTIVE = "loss.objective"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NO_MORE = 2**31 - 1
"""An id above that of any trial."""


class Glance:
    """Questions about one study in a database. Every answer is as of now, and none is kept.

    Args:
        storage: the storage, over a database.
        study_id: the study.
        maximize: whether larger values are better.
    """

    def __init__(self, storage: RetryingStorage, study_id: int, *, maximize: bool) -> None:
        self._storage, self._study_id, self._maximize = storage, study_id, maximize

    def counts(self) -> tuple[dict[TrialState, int], list[FrozenTrial]]:
        """Return how many trials have ended in which state, and those that have not ended; void ones are in neither."""
        from sqlalchemy import func, select

        trials = optuna_private.tables().trials
        asked = select(trials.state, func.count()).where(trials.study_id == self._study_id).group_by(trials.state)
        found = {TrialState[getattr(state, "name", state)]: int(count) for state, count in self._ask(asked)}
        found[TrialState.FAIL] = found.get(TrialState.FAIL, 0) - len(self._void_ids())
        running = select(trials.trial_id).where(
            trials.study_id == self._study_id, trials.state.in_([TrialState.RUNNING, TrialState.WAITING])
        )
        unfinished = self._read(row[0] for row in self._ask(running))
        return {state: found.get(state, 0) for state in (*ENDED, TrialState.FAIL)}, unfinished

    def best(self) -> list[FrozenTrial]:
        """Return the best complete trial; none where no trial is complete."""
        return self._read(row[0] for row in self._ended(TrialState.COMPLETE)[:1])

    def alike(self) -> dict[str, Any] | None:
        """Return `trials` and `value` where all complete trials have the same value; else None."""
        values = [row[1] for row in self._ended(TrialState.COMPLETE)]
        return {"trials": len(values), "value": values[0]} if values and values[0] == values[-1] else None

    def leaders(self) -> list[FrozenTrial]:
        """Return, of each objective, the best complete and the best pruned trial; and the baselines."""
        from sqlalchemy import select

        tables = optuna_private.tables()
        asked = (
            select(tables.params.trial_id, tables.params.param_value)
            .join(tables.trials, tables.trials.trial_id == tables.params.trial_id)
            .where(tables.trials.study_id == self._study_id, tables.params.param_name == OBJECTIVE)
        )
        objective_of = dict(tuple(row) for row in self._ask(asked))
        first: dict[Any, int] = {}
        for state in ENDED:
            for trial, _ in self._ended(state):
                first.setdefault((state, objective_of.get(trial)), trial)
        origins = (
            select(tables.trials.trial_id)
            .join(tables.attributes, tables.attributes.trial_id == tables.trials.trial_id)
            .where(
                tables.trials.study_id == self._study_id,
                tables.attributes.key == ORIGIN,
                tables.attributes.value_json.in_(['"baseline:sft"', '"baseline:paper"']),
            )
        )
        return self._read({*first.values(), *(row[0] for row in self._ask(origins))})

    def tried(self, paths: Iterable[str]) -> list[tuple[str, Any]]:
        """Return each value, as (path, value), that some trial has of one of these parameters."""
        from sqlalchemy import select

        tables = optuna_private.tables()
        params = tables.params
        asked = (
            select(params.param_name, params.param_value, params.distribution_json)
            .join(tables.trials, tables.trials.trial_id == params.trial_id)
            .where(tables.trials.study_id == self._study_id, params.param_name.in_([*paths]))
            .where(tables.trials.trial_id.not_in(self._void_ids()))
            .distinct()
        )
        return [(path, json_to_distribution(kind).to_external_repr(value)) for path, value, kind in self._ask(asked)]

    def first_failed(self) -> list[FrozenTrial]:
        """Return the failed trial of the lowest number; none where none failed."""
        from sqlalchemy import select

        trials = optuna_private.tables().trials
        asked = (
            select(trials.trial_id)
            .where(trials.study_id == self._study_id, trials.state == TrialState.FAIL)
            .where(trials.trial_id.not_in(self._void_ids()))
            .order_by(trials.number)
            .limit(1)
        )
        return self._read(row[0] for row in self._ask(asked))

    def numbered(self, number: int) -> list[FrozenTrial]:
        """Return the trial of a number; none where there is none."""
        from sqlalchemy import select

        trials = optuna_private.tables().trials
        if not 0 <= number <= NO_MORE:
            return []
        asked = select(trials.trial_id).where(trials.study_id == self._study_id, trials.number == number)
        return self._read(row[0] for row in self._ask(asked))

    def ranked(self, most: int) -> list[FrozenTrial]:
        """Return at most so many trials: those that have not ended, then complete, pruned and failed ones.

        The best complete and pruned ones come first, and of the others those of the lowest numbers.
        """
        from sqlalchemy import select

        trials = optuna_private.tables().trials
        by_number = select(trials.trial_id).where(trials.study_id == self._study_id).order_by(trials.number)
        running = by_number.where(trials.state.in_([TrialState.RUNNING, TrialState.WAITING]))
        failed = by_number.where(trials.state == TrialState.FAIL, trials.trial_id.not_in(self._void_ids()))
        ids = [row[0] for row in self._ask(running)]
        for state in ENDED:
            if len(ids) < most:
                ids += [row[0] for row in self._ended(state)]
        if len(ids) < most:
            ids += [row[0] for row in self._ask(failed)]
        place = {trial: index for index, trial in enumerate(ids[:most])}
        return sorted(self._read(place), key=lambda trial: place[optuna_private.trial_id(trial)])

    def _ended(self, state: TrialState) -> Sequence[Any]:
        """Return (trial's id, value) of the trials that ended in a state with a finite value, the best first."""
        from sqlalchemy import select

        tables = optuna_private.tables()
        value = tables.values.value
        asked = (
            select(tables.trials.trial_id, value)
            .join(tables.values, tables.values.trial_id == tables.trials.trial_id)
            .where(tables.trials.study_id == self._study_id, tables.trials.state == state)
            .where(tables.values.objective == 0, value.is_not(None))
            .order_by(value.desc() if self._maximize else value, tables.trials.number)
        )
        return self._ask(asked)

    def _void_ids(self) -> list[int]:
        """Return the ids of the void trials, all of which have failed, so that few rows are looked at."""
        from sqlalchemy import select

        tables = optuna_private.tables()
        asked = (
            select(tables.trials.trial_id)
            .join(tables.attributes, tables.attributes.trial_id == tables.trials.trial_id)
            .where(
                tables.trials.study_id == self._study_id,
                tables.trials.state == TrialState.FAIL,
                tables.attributes.key == VOID,
            )
        )
        return [row[0] for row in self._ask(asked)]

    def _read(self, ids: Iterable[int]) -> list[FrozenTrial]:
        """Return some trials in order of number, without void ones."""
        wanted = set(ids)
        if not wanted:
            return []
        found = self._storage.changed_trials(self._study_id, wanted, NO_MORE)
        assert found is not None, "a database can be asked for single trials"
        return sorted((trial for trial in found if not is_void(trial)), key=lambda trial: trial.number)

    def _ask(self, statement: Any) -> Sequence[Any]:
        return self._storage.ask(statement)
