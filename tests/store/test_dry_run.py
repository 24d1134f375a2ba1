"""What samplers and pruners see of a store, and what becomes of their writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import Trial, TrialState, create_trial

from rankray.store.dry_run import DryRunStorage
from rankray.store.optuna_private import trial_id


@pytest.fixture
def store() -> tuple[InMemoryStorage, int, DryRunStorage]:
    storage = InMemoryStorage()
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    storage.create_new_trial(study_id, create_trial(state=TrialState.FAIL))
    return storage, study_id, DryRunStorage(storage, study_id, StudyDirection.MAXIMIZE)


def test_a_sampler_proposes_and_nothing_is_written(store: tuple[InMemoryStorage, int, DryRunStorage]) -> None:
    storage, study_id, dry = store
    dry.draft = create_trial(state=TrialState.RUNNING)
    study = Study("s", dry, RandomSampler(seed=1))
    trial = Trial(study, trial_id(dry.draft))
    assert 0 <= trial.suggest_float("x", 0, 1) <= 1
    assert trial.distributions == {"x": FloatDistribution(0, 1)}
    assert study.directions == [StudyDirection.MAXIMIZE]
    assert [each.state for each in storage.get_all_trials(study_id)] == [TrialState.FAIL]


def test_a_pruner_s_marks_are_kept_back(store: tuple[InMemoryStorage, int, DryRunStorage]) -> None:
    storage, study_id, dry = store
    running = create_trial(state=TrialState.RUNNING, intermediate_values={1: 0.5})
    study = Study("s", dry, pruner=SuccessiveHalvingPruner(min_resource=1))
    study.pruner.prune(study, running)
    assert dry.marks == {"completed_rung_0": 0.5}
    assert dry.get_trial_system_attrs(0) == dry.marks
    assert all(trial.system_attrs == {} for trial in storage.get_all_trials(study_id))


def test_the_best_trial_is_the_best_of_what_is_shown(store: tuple[InMemoryStorage, int, DryRunStorage]) -> None:
    """The store's own best one has the metric's values, and what is shown are those of another one, for pruners."""
    storage, study_id, dry = store
    storage.create_new_trial(study_id, create_trial(value=0.1))
    study = Study("s", dry)
    with pytest.raises(ValueError, match="no trial is complete"):
        _ = study.best_trial
    dry.trials = [create_trial(value=0.9, intermediate_values={1: 7.0, 2: last}) for last in (3.0, 2.0, 4.0)]
    dry.trials[2].number = 2
    assert study.best_trial.number == 2


def test_all_that_is_read_of_a_trial_is_what_is_shown(store: tuple[InMemoryStorage, int, DryRunStorage]) -> None:
    """Only the id of a trial's number is asked of the storage behind."""
    storage, study_id, dry = store
    storage.create_new_trial(study_id, create_trial(value=0.1, user_attrs={"of": "the store"}))
    kinds = {"x": FloatDistribution(0.0, 1.0)}
    dry.draft = create_trial(state=TrialState.RUNNING, params={"x": 0.5}, distributions=kinds, user_attrs={"of": "it"})
    dry.draft.number = 7
    assert (dry.get_trial_number_from_id(0), dry.get_trial_param(0, "x")) == (7, 0.5)
    assert (dry.get_trial_params(0), dry.get_trial_user_attrs(0)) == ({"x": 0.5}, {"of": "it"})
    reading = {name for name in vars(BaseStorage) if name.startswith("get_") and "trial" in name}
    assert {name for name in reading if name not in vars(DryRunStorage)} == {"get_trial_id_from_study_id_trial_number"}


def test_shown_trials_are_filtered_copied_and_counted(store: tuple[InMemoryStorage, int, DryRunStorage]) -> None:
    _, _, dry = store
    dry.trials = [create_trial(state=TrialState.RUNNING), create_trial(state=TrialState.COMPLETE, value=1.0)]
    assert dry.get_all_trials(0, deepcopy=False) == dry.trials
    [complete] = dry.get_all_trials(0, states=(TrialState.COMPLETE,))
    assert complete == dry.trials[1]
    assert complete is not dry.trials[1]
    assert (dry.get_n_trials(0), dry.get_n_trials(0, TrialState.RUNNING)) == (2, 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda dry: dry.create_new_study([StudyDirection.MINIMIZE], "other"),
        lambda dry: dry.delete_study(0),
        lambda dry: dry.create_new_trial(0),
        lambda dry: dry.set_trial_state_values(0, TrialState.COMPLETE, [1.0]),
        lambda dry: dry.set_trial_intermediate_value(0, 1, 1.0),
        lambda dry: dry.set_trial_user_attr(0, "key", 1),
        lambda dry: dry.set_study_user_attr(0, "key", 1),
        lambda dry: dry.set_study_system_attr(0, "key", 1),
    ],
)
def test_other_writes_are_refused(
    write: Callable[[Any], None], store: tuple[InMemoryStorage, int, DryRunStorage]
) -> None:
    storage, study_id, dry = store
    with pytest.raises(AssertionError, match="a dry run writes nothing"):
        write(dry)
    assert len(storage.get_all_trials(study_id)) == 1
