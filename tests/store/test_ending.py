"""Whole: a kill between any two writes is harmless: every write of every operation is the last one once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from rankray.contracts import Report
from rankray.store import StudyStore, open_study
from rankray.store.records import end_of, is_void, with_marks
from store.helpers import FULL, begin, make_config, stored


class Killed(BaseException):
    """Not an Exception, so that nothing catches it."""


WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
)


def kill_at(store: StudyStore, write: int) -> None:
    """Let the driver die instead of making its n-th write from here on."""
    storage: Any = store.storage
    left = [write]

    def mortal(name: str) -> Callable[..., Any]:
        real = getattr(storage.behind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real(*args, **kwargs)

        return call

    for name in WRITES:
        storage.__dict__[name] = mortal(name)


def die(store: StudyStore) -> None:
    """What remains to be seen of a dead driver: its registration is gone at the next look."""
    for name in WRITES:
        store.storage.__dict__.pop(name, None)
    store._lease.drop()


def survive(
    url: str, study: dict[str, Any], act: Callable[[StudyStore], Any], check: Callable[[StudyStore], None]
) -> int:
    """Kill `act` at each of its writes in a new study; `check` what the next driver finds."""
    write, killed = 0, True
    while killed:
        config = make_config(name=f"s{write}", study=study)
        store = open_study(url, config)
        store.join()
        prepare(store)
        kill_at(store, write)
        try:
            act(store)
            killed = False
        except Killed:
            pass
        die(store)
        with open_study(url, config) as heir:
            check(heir)
        write += 1
    return write - 1


def prepare(store: StudyStore) -> None:
    """A trial that has passed the first rung, so that a worse one is pruned there."""
    ticket = store.next_trial()
    assert ticket is not None
    store.report(ticket.number, Report(10, {"eval/nll": 1.0}))
    store.complete(ticket.number, {"eval/nll": 1.0})


def second(store: StudyStore) -> Any:
    return store.storage.get_all_trials(store.study_id)[1]


def test_a_new_trial(journal_url: str) -> None:
    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        everything = heir.storage.get_all_trials(heir.study_id)
        assert ticket.number == everything[-1].number
        assert ticket.params == everything[-1].params
        assert all(is_void(trial) and trial.state == TrialState.FAIL for trial in everything[1:-1])
        assert sum(not is_void(trial) for trial in everything[1:]) == 1

    assert survive(journal_url, {}, lambda store: store.next_trial(), check) == 2


def test_a_report_that_stops_its_trial(url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        assert store.report(1, Report(10, {"eval/nll": 2.0})).stop

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        if is_void(second(heir)):
            return
        if ticket.number == 1:
            assert ticket.history == []
            assert heir.report(1, Report(10, {"eval/nll": 2.0})).stop
        trial = second(heir)
        assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, 2.0, {10: 2.0})
        assert with_marks(trial).system_attrs["completed_rung_0"] == 2.0
        assert heir.report(1, Report(10, {"eval/nll": 2.0})).stop

    assert survive(url, {}, act, check) == 5


def test_a_report_that_does_not_stop_its_trial(journal_url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        assert not store.report(1, Report(10, {"eval/nll": 0.5}, "c10")).stop

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        if ticket.number != 1:
            return
        trial = second(heir)
        committed = ticket.checkpoint == "c10"
        assert ticket.history == ([{"step": 10, "eval/nll": 0.5}] if committed else [])
        assert trial.intermediate_values == ({10: 0.5} if committed else {})
        assert ("completed_rung_0" in with_marks(trial).system_attrs) == committed
        assert not heir.report(1, Report(10, {"eval/nll": 0.5}, "c10")).stop
        assert not heir.report(1, Report(20, {"eval/nll": 0.4}, "c20")).stop

    assert survive(journal_url, {}, act, check) == 4


def test_the_last_report_and_the_completion(journal_url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        store.report(1, Report(FULL, {"eval/nll": 2.0}, "c40"))
        store.complete(1, {"eval/nll": 2.0})

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        if ticket.number == 1:
            assert ticket.checkpoint is None
            heir.report(1, Report(FULL, {"eval/nll": 2.0}, "c40"))
            heir.complete(1, {"eval/nll": 2.0})
        if not is_void(second(heir)):
            assert (second(heir).state, second(heir).value) == (TrialState.COMPLETE, 2.0)

    assert survive(journal_url, {}, act, check) == 6


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failure(retries: int, journal_url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        store.fail(1, "broken", "trace")

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        if ticket.number == 1:
            noted = second(heir).user_attrs.get("rankray:attempts", [])
            assert noted in ([], [{"reason": "broken", "traceback": "trace"}])
            assert heir.fail(1, "broken", "trace") == (len(noted) < retries)
        elif not is_void(second(heir)):
            assert second(heir).state == TrialState.FAIL
            assert second(heir).user_attrs["rankray:end"]["traceback"] == "trace"

    assert survive(journal_url, {"max_failures_per_trial": retries}, act, check) == 4 + retries


def test_a_metric_that_is_no_number(journal_url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        assert store.report(1, Report(10, {"eval/nll": float("nan")})).stop

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        if ticket.number == 1:
            assert heir.report(1, Report(10, {"eval/nll": float("nan")})).stop
        assert second(heir).state == TrialState.FAIL

    assert survive(journal_url, {}, act, check) == 4


def test_a_release(journal_url: str) -> None:
    def act(store: StudyStore) -> None:
        ticket = store.next_trial()
        assert ticket is not None
        store.release(1)

    def check(heir: StudyStore) -> None:
        ticket = heir.next_trial()
        assert ticket is not None
        assert second(heir).state == (TrialState.FAIL if is_void(second(heir)) else TrialState.RUNNING)

    assert survive(journal_url, {}, act, check) == 4


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_trial_whose_steps_are_searched_is_whole_after_its_own(file_url: str, seeds: int) -> None:
    """The file's steps say nothing of it: adopted after as many, it goes on; after its own, it is complete."""
    space = {"train.max_steps": {"choice": [20, 80]}}
    points = [{"train.max_steps": 80}, {"train.max_steps": 20}]
    config = make_config(space=space, study={"warm_start": points, "seeds": seeds, "pruner": "none"})
    store = open_study(file_url, config)
    store.join()
    longer, shorter = begin(store), begin(store)
    for step in range(10, FULL * seeds + 10, 10):
        assert not store.report(longer.number, Report(step, {"eval/nll": 1.0}, f"checkpoint-{step}")).stop
    for step in range(10, 20 * seeds + 10, 10):
        assert not store.report(shorter.number, Report(step, {"eval/nll": 1.0})).stop
    die(store)
    with open_study(file_url, config) as other:
        again = begin(other)
        assert (again.number, again.checkpoint) == (longer.number, f"checkpoint-{FULL * seeds}")
        assert other.next_trial() is None, "the space has no third point"
        found = {trial.number: trial.state for trial in other.storage.get_all_trials(other.study_id)}
    assert found[shorter.number] == TrialState.COMPLETE


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"eval/accuracy": 0.5}, "eval/nll is missing in the final metrics"),
        ({"eval/nll": 1.0}, "eval/accuracy is missing in the final metrics"),
        ({"eval/nll": float("inf"), "eval/accuracy": 0.5}, "eval/nll is inf at the end"),
    ],
)
def test_final_metrics_without_one_of_the_study_s_end_a_trial_failed(
    metrics: dict[str, float], reason: str, file_url: str
) -> None:
    study = {"metrics": ["eval/accuracy", "eval/nll"], "pruner": "none"}
    made = make_config(study=study, evaluate={"every_steps": 10, "metrics": ["accuracy"]})
    with open_study(file_url, made) as store:
        number = begin(store).number
        store.complete(number, metrics)
        trial = stored(store, number)
        assert trial.state == TrialState.FAIL
        assert end_of(trial)["reason"] == reason
