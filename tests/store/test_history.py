"""A driver's copy of a long study, and what of it a sampler is shown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe.sampler import _split_trials, default_gamma
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from rankray.store import history
from rankray.store.history import BEST, History

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def ended(number: int) -> Any:
    """Return a trial: one of three complete, one of five of the others failed, the others pruned at some step."""
    x = number * 0.618 % 1
    state = TrialState.COMPLETE if number % 3 == 0 else TrialState.FAIL if number % 5 == 0 else TrialState.PRUNED
    return create_trial(
        state=state,
        params={"x": x},
        distributions=SPACE,
        value=None if state == TrialState.FAIL else x,
        intermediate_values={10 * (1 + number % 3): x},
        user_attrs={"rankray:step:10": {"metrics": {}, "marks": {"completed_rung_0": x}}},
    )


def filled(direction: StudyDirection, trials: int) -> tuple[InMemoryStorage, int]:
    storage = InMemoryStorage()
    study_id = storage.create_new_study([direction], "s")
    for number in range(trials):
        storage.create_new_trial(study_id, ended(number))
    return storage, study_id


def test_what_is_counted_follows_the_store() -> None:
    storage, study_id = filled(StudyDirection.MINIMIZE, 30)
    seen = History(storage, study_id, StudyDirection.MINIMIZE)
    seen.refresh()
    failed = sum(ended(number).state == TrialState.FAIL for number in range(30))
    assert (seen.finished, seen.taken, len(seen.unfinished)) == (30 - failed, 30 - failed, 0)
    begun = storage.create_new_trial(study_id)
    assert len(seen.refresh()) == 31
    assert (seen.finished, seen.taken, seen.unfinished) == (30 - failed, 31 - failed, {30})
    storage.set_trial_state_values(begun, TrialState.FAIL)
    seen.refresh()
    assert (seen.finished, seen.taken, seen.unfinished) == (30 - failed, 30 - failed, set())


def test_a_pruner_finds_its_marks() -> None:
    storage, study_id = filled(StudyDirection.MINIMIZE, 3)
    for trial in History(storage, study_id, StudyDirection.MINIMIZE).refresh():
        assert trial.system_attrs == {"completed_rung_0": trial.params["x"]}
    assert all(trial.system_attrs == {} for trial in storage.get_all_trials(study_id))


@pytest.mark.parametrize("direction", [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
@pytest.mark.parametrize("complete_enough", [True, False])
def test_tpe_takes_the_same_trials_as_good_in_what_it_is_shown(
    direction: StudyDirection, complete_enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`History` ranks as TPE does; if this fails, optuna ranks otherwise now, or takes more than BEST as good."""
    monkeypatch.setattr(history, "SHOWN", 300)
    storage, study_id = filled(direction, 600 if complete_enough else 0)
    if not complete_enough:
        for number in range(600):
            if number % 3 or number < 30:  # ten complete trials: fewer than TPE takes as good
                storage.create_new_trial(study_id, ended(number))
    running = storage.create_new_trial(study_id)
    seen = History(storage, study_id, direction)
    everything = seen.refresh()
    shown = seen.shown()
    assert sum(trial.state.is_finished() for trial in shown) == 300
    assert {trial.state for trial in shown} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING}
    assert shown[-1]._trial_id == running
    assert [trial.number for trial in shown] == sorted({trial.number for trial in shown})
    study = Study("s", storage, TPESampler())
    good = [
        [each.number for each in _split_trials(study, trials, default_gamma(300))[0]]
        for trials in ([each for each in everything if each.state != TrialState.FAIL], shown)
    ]
    assert len(good[0]) == BEST == default_gamma(10**6)
    assert good[0] == good[1]


class Counting(InMemoryStorage):
    """A storage that hands out new copies, so that what was read again can be told from what was not."""

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> Any:
        return super().get_all_trials(study_id, True, states)


def test_its_own_running_trials_are_read_again_only_after_its_own_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "EVERYTHING_SECONDS", math.inf)
    storage = Counting()
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    for _ in range(4):
        storage.create_new_trial(study_id)
    own = {0, 1, 2}
    seen = History(storage, study_id, StudyDirection.MINIMIZE, own=own)
    before = list(seen.refresh())

    def read_again() -> set[int]:
        return {number for number, trial in enumerate(seen.trials) if trial is not before[number]}

    seen.written.add(1)
    seen.refresh()
    assert read_again() == {1, 3}, "what it wrote to, and another driver's"
    before = list(seen.trials)
    seen.refresh(0)
    assert read_again() == {0, 3}, "what is asked for"
    before = list(seen.trials)
    own.discard(2)
    seen.refresh()
    assert read_again() == {2, 3}, "what it has given back"
    before = list(seen.trials)
    seen.refresh(everything=True)
    assert read_again() == {0, 1, 2, 3}
    monkeypatch.setattr(history, "EVERYTHING_SECONDS", -1.0)
    before = list(seen.trials)
    seen.refresh()
    assert read_again() == {0, 1, 2, 3}, "after a while"


def test_of_a_thousand_running_trials_tpe_is_shown_the_latest_and_auto_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "SHOWN_RUNNING", 3)
    storage, study_id = filled(StudyDirection.MINIMIZE, 20)
    for _ in range(10):
        storage.create_new_trial(study_id)
    seen = History(storage, study_id, StudyDirection.MINIMIZE)
    seen.refresh()
    assert [trial.number for trial in seen.shown()] == [*range(20), 27, 28, 29]
    monkeypatch.setattr(history, "SHOWN_OTHERS", 4)
    shown = [trial.number for trial in seen.whole_first()]
    whole = [trial.number for trial in seen.trials if trial.state == TrialState.COMPLETE]
    early = [trial.number for trial in seen.trials if trial.state in (TrialState.PRUNED, TrialState.FAIL)]
    assert shown == sorted([*whole, *early[-4:], *range(20, 30)])


def test_a_short_study_is_shown_whole() -> None:
    storage, study_id = filled(StudyDirection.MINIMIZE, 20)
    seen = History(storage, study_id, StudyDirection.MINIMIZE)
    assert seen.refresh() == seen.shown()


@pytest.mark.parametrize("prune_on", [None, "eval/nll"])
def test_what_this_driver_wrote_is_noted_as_it_would_be_read(prune_on: str | None) -> None:
    storage = InMemoryStorage()
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    created = storage.create_new_trial(study_id)
    seen = History(storage, study_id, StudyDirection.MINIMIZE, prune_on, own={0})
    seen.refresh()
    seen.written.add(0)
    assert not seen.knows(0)
    record = {"metrics": {"eval/nll": 0.5, "eval/accuracy": 0.25}, "marks": {"completed_rung_0": 0.5}}
    storage.set_trial_user_attr(created, "rankray:step:10", record)
    storage.set_trial_intermediate_value(created, 10, 0.25)
    seen.wrote(0, "rankray:step:10", record, 10, 0.25)
    assert seen.knows(0)
    assert not seen.knows(1)
    noted = seen.trials[0], seen.for_pruner[0]
    seen.refresh(0)
    for before, after in zip(noted, (seen.trials[0], seen.for_pruner[0]), strict=True):
        assert before is not after
        assert before == after
