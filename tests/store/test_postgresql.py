"""New trials in two statements: what Optuna would have written, and numbers of their own."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from rankray.store.backend import connect
from rankray.store.optuna_private import changed_trials, database_of, engine_of, trial_id
from rankray.store.postgresql import create_running

MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.mark.db
def test_a_running_trial_is_created_in_two_statements_as_optuna_would(postgresql_url: str) -> None:
    storage: Any = connect(postgresql_url).behind
    database = database_of(storage)
    assert database is not None
    study, other = (storage.create_new_study(MINIMIZE, name) for name in ("one", "two"))
    space = {
        "rate": FloatDistribution(1e-5, 1e-2, log=True),
        "base": CategoricalDistribution(["one", None, 2]),
        "rank": IntDistribution(4, 64),
    }
    trial = create_trial(
        state=TrialState.RUNNING,
        params={"rate": 1 / 3e3, "base": None, "rank": 7},
        distributions=space,
        user_attrs={"text": 'it\'s "quoted" \\ \u00e4 % :study', "none": None, "figure": 0.1 + 0.2},
        system_attrs={"marks": [1, {"a": math.inf}]},
    )
    for each in (other, study, study):
        storage.create_new_trial(each, trial)
    statements: list[str] = []
    event.listen(engine_of(database), "before_cursor_execute", lambda *given: statements.append(given[2]))
    created = create_running(database, study, trial)
    assert created is not None
    assert len(statements) == 2
    assert create_running(database, study, create_trial(state=TrialState.RUNNING)) is not None, "nothing in it"
    *_, plain, ours, empty = changed_trials(database, study, set(), -1)
    assert trial_id(ours) == created
    assert [each.number for each in (plain, ours, empty)] == [1, 2, 3]
    assert (empty.params, empty.user_attrs, empty.state) == ({}, {}, TrialState.RUNNING)
    for name in ("state", "params", "distributions", "user_attrs", "system_attrs", "datetime_start", "values"):
        assert getattr(ours, name) == getattr(plain, name), name
    assert list(ours.params) == list(plain.params)
    assert create_running(database, 10**6, trial) is None


@pytest.mark.db
def test_trials_created_at_once_have_numbers_of_their_own(postgresql_url: str) -> None:
    storage = connect(postgresql_url)
    study = storage.create_new_study(MINIMIZE, "s")
    running = create_trial(state=TrialState.RUNNING)
    with ThreadPoolExecutor(6) as threads:
        created = list(threads.map(lambda _: storage.create_new_trial(study, running), range(40)))
    trials = storage.get_all_trials(study)
    assert [trial.number for trial in trials] == list(range(40))
    assert sorted(created) == [trial_id(trial) for trial in trials]


def test_other_databases_are_left_to_optuna() -> None:
    storage: Any = optuna.storages.get_storage("sqlite://")
    database = database_of(storage)
    assert database is not None
    study = storage.create_new_study(MINIMIZE, "s")
    assert create_running(database, study, create_trial(state=TrialState.RUNNING)) is None
    assert storage.get_all_trials(study) == []
