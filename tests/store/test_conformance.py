"""Whole: what every kind of store must answer alike, in one suite.

All of it runs on SQLite and the journal (`url`). What can fail on a server alone, the core of it, runs on PostgreSQL,
MySQL (or MariaDB), and Optuna's gRPC proxy in front of PostgreSQL, too (`any_url`; `test_share` has the proxy in front
of SQLite). The core is what depends on the database and not on our logic above it:

- claims: which of two entries came first, and what a driver that was replaced may still do;
- leases: drivers that leave, and trials that change their state from running to waiting and back;
- concurrency: several drivers adopt, or create a study, at the same moment (`test_kills` has processes);
- transactions and errors: a whole search, reports that come twice, the errors that the code above relies on;
- types: texts that are long or not English, numbers that are not finite, attributes as they come back.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from rankray.config.space import baseline_points
from rankray.contracts import Report, Verdict
from rankray.errors import LeaseLost, StudyMismatch
from rankray.store import StudyStore, Ticket, attach, open_study, views
from rankray.store.backend import connect
from rankray.store.records import ATTEMPTS, END, is_void, steps_of
from store.conftest import on_server, url_of
from store.helpers import FULL, begin, begin_and_die, drive, make_config, run_trial, said, states, stored


def test_a_search_ends_with_the_exact_budget(any_url: str) -> None:
    store = open_study(any_url, make_config(study={"trials": 7, "sampler": "tpe", "known": ["sft", "paper"]}))
    drive(store)
    counts = store.counts()
    assert (counts.finished, counts.running, counts.waiting, counts.failed) == (7, 0, 0, 0)
    assert counts.pruned > 0
    assert (store.finished, store.budget, store.done) == (7, 7, True)
    assert store.next_trial() is None


def test_an_empty_space_has_trials_without_parameters(url: str) -> None:
    with open_study(url, make_config(space={}, study={"trials": 2})) as store:
        ticket = begin(store)
        assert ticket.params == {}
        store.release(ticket.number)
        assert begin(store) == Ticket(number=0, params={}, adopted=True, untrained=True)


def test_a_report_is_judged_once_and_always_answered_the_same(any_url: str) -> None:
    config = make_config(study={"trials": 3})
    with open_study(any_url, config) as store:
        good, bad = begin(store), begin(store)
        first = store.report(good.number, Report(10, {"eval/nll": 1.0}, "c10"))
        assert first == Verdict(False)
        stop = store.report(bad.number, Report(10, {"eval/nll": 2.5}))
        assert stop == Verdict(True, "successive_halving at step 10: eval/nll 2.5 is behind")
        again = [store.report(bad.number, Report(10, {"eval/nll": 0.1})) for _ in range(2)]
        assert again == [stop, stop]
        assert store.report(bad.number, Report(20, {"eval/nll": 0.1})) == stop
        assert store.report(good.number, Report(10, {"eval/nll": 9.0}, "other")) == first
        store.report(good.number, Report(20, {"eval/nll": 0.9}))
        assert store.report(good.number, Report(10, {"eval/nll": 9.0})) == first
    ended, running = stored(store, bad.number), stored(store, good.number)
    assert (ended.state, ended.value, ended.last_step) == (TrialState.PRUNED, 2.5, 10)
    assert running.intermediate_values == {10: 1.0, 20: 0.9}
    assert steps_of(running)[10].checkpoint == "c10"


@pytest.mark.parametrize(
    ("kind", "value"),
    [(kind, value) for kind in ("sqlite", "journal") for value in (math.nan, math.inf, -math.inf)]
    + [on_server("postgresql", math.nan), on_server("mysql", math.inf), on_server("grpc", -math.inf)],
)
def test_a_metric_that_is_no_number_fails_the_trial(kind: str, value: float, request: pytest.FixtureRequest) -> None:
    """The number reaches a store as text only, so that each value on one server says what all on each would."""
    with open_study(url_of(kind, request), make_config(study={"trials": 2, "max_failures_per_trial": 3})) as store:
        ticket = begin(store)
        store.report(ticket.number, Report(10, {"eval/nll": 1.0}))
        verdict = store.report(ticket.number, Report(20, {"eval/nll": value}))
        assert verdict == Verdict(True, f"eval/nll is {value} at step 20", failed=True)
        assert store.report(ticket.number, Report(20, {"eval/nll": 1.0})) == verdict
        other = begin(store)
        store.complete(other.number, {"eval/nll": value})
    assert states(store) == ["FAIL", "FAIL"]
    assert stored(store, 0).intermediate_values == {10: 1.0}
    assert store.counts().failed == 2
    assert store.finished == 0


def test_completing_twice_changes_nothing(url: str) -> None:
    with open_study(url, make_config()) as store:
        ticket = begin(store)
        store.report(ticket.number, Report(FULL, {"eval/nll": 0.5}))
        store.complete(ticket.number, {"eval/nll": 0.5, "eval/accuracy": 0.25})
        store.complete(ticket.number, {"eval/nll": 0.1})
        assert store.fail(ticket.number, "late") is False
        store.release(ticket.number)
        trial = stored(store, 0)
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
        assert store.report(ticket.number, Report(FULL, {"eval/nll": 0.1})) == Verdict(False)
        with pytest.raises(LeaseLost, match="has ended as COMPLETE"):
            store.report(ticket.number, Report(FULL + 1, {"eval/nll": 0.1}))


def test_failures_are_tried_again_as_often_as_allowed(url: str) -> None:
    with open_study(url, make_config(study={"max_failures_per_trial": 2})) as store:
        ticket = begin(store)
        store.report(ticket.number, said(ticket.params, 10))
        for attempt in range(2):
            assert store.fail(ticket.number, f"out of memory {attempt}", "trace") is True
            again = begin(store)
            assert (again.number, again.params, again.checkpoint) == (ticket.number, ticket.params, "checkpoint-10")
        assert store.fail(ticket.number, "out of memory 2", "trace") is False
        other = begin(store)
        assert store.fail(other.number, "impossible", retry=False) is False
    assert states(store) == ["FAIL", "FAIL"]
    assert store.counts().failed == 2


def test_points_are_tried_first_and_once_however_often_it_restarts(url: str) -> None:
    warm = [{"train.learning_rate": 1e-4}, {"loss.objective": "sft"}, {"train.learning_rate": 1e-4}]
    config = make_config(study={"trials": 5, "known": ["sft", "paper"], "warm_start": warm})
    origins = []
    for _ in range(4):
        with open_study(url, config) as store:
            ticket = begin(store)
            origins.append(ticket.origin)
            wanted = dict(baseline_points(config))
            if ticket.origin.startswith("baseline"):
                assert ticket.params == wanted[ticket.origin]
            run_trial(store, ticket)
    drive(open_study(url, config))
    everything = [trial.user_attrs["rankray:origin"] for trial in store.trials()]
    assert origins == ["baseline:sft", "baseline:paper", "warm_start", "warm_start"]
    assert everything == [*origins, "sampler"]
    rates = [trial.params["train.learning_rate"] for trial in store.trials()]
    assert rates.count(1e-4) == 1


def test_what_was_killed_before_it_had_parameters_is_discarded(url: str) -> None:
    """Trap 2, and a warm-start point lost that way is tried again."""
    config = make_config(study={"trials": 3, "known": ["sft"]})
    killed = open_study(url, config)
    killed.join()
    begin_and_die(killed)
    killed._lease.drop()
    with open_study(url, config) as store:
        ticket = begin(store)
    assert stored(store, 0).params == {}
    assert states(store)[0] == "FAIL"
    assert is_void(stored(store, 0))
    assert (ticket.number, ticket.origin) == (1, "baseline:sft")
    assert store.counts().failed == 0
    drive(open_study(url, config))
    assert store.finished == 3


def test_nothing_stays_running_after_its_driver_has_left(any_url: str) -> None:
    config = make_config()
    with open_study(any_url, config) as store:
        tickets = [begin(store) for _ in range(3)]
        for ticket in tickets:
            store.report(ticket.number, said(ticket.params, 10))
        assert store.counts().running + store.counts().pruned == 3
    assert "RUNNING" not in states(store)
    assert store.counts().running == 0
    with open_study(any_url, config) as again:
        for ticket in tickets:
            if stored(store, ticket.number).state == TrialState.WAITING:
                adopted = begin(again)
                assert (adopted.number, adopted.params, adopted.adopted) == (ticket.number, ticket.params, True)
                assert adopted.checkpoint == "checkpoint-10"
                assert adopted.history == [{"step": 10, **said(ticket.params, 10).metrics}]


def take_over(url: str) -> tuple[StudyStore, StudyStore, int]:
    """Return a driver that lost its trial, the one that has it now, and the trial's number."""
    config = make_config(study={"trials": 3})
    old, new = open_study(url, config), open_study(url, config)
    old.join()
    ticket = old.next_trial()
    assert ticket is not None
    old.report(ticket.number, said(ticket.params, 10))
    old._lease._stop.set()
    new.join()
    new._watch._still[old.driver] = (new._watch._still[old.driver][0], 1e9)
    adopted = new.next_trial()
    assert adopted is not None
    assert (adopted.number, adopted.adopted, adopted.checkpoint) == (ticket.number, True, "checkpoint-10")
    return old, new, ticket.number


def test_a_driver_that_was_replaced_is_refused(any_url: str) -> None:
    old, new, number = take_over(any_url)
    before = views.trial(attach(any_url, "s"), number)
    for write in (
        lambda: old.report(number, Report(20, {"eval/nll": 0.5})),
        lambda: old.report(number, Report(10, {"eval/nll": 0.5})),
        lambda: old.complete(number, {"eval/nll": 0.5}),
        lambda: old.fail(number, "x"),
        lambda: old.release(number),
    ):
        with pytest.raises(LeaseLost, match=f"trial {number}"):
            write()
    assert old.sweep() == []
    after = views.trial(attach(any_url, "s"), number)
    assert after == before
    assert new.report(number, Report(20, {"eval/nll": 0.5})).stop is False
    new.leave()
    old.leave()


def test_a_write_that_was_under_way_when_its_driver_was_replaced_overwrites_nothing(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver freezes between its look at the claims and its write; meanwhile another one continues its trial."""
    old, new, number = take_over(any_url)
    kept = new.report(number, Report(20, {"eval/nll": 0.5}, "new"))
    trial = stored(old, number)
    monkeypatch.setattr(old._claims, "refresh", lambda: None)
    monkeypatch.setattr(old, "_read", lambda _, **again: with_steps_below(trial, 20))
    old.report(number, Report(20, {"eval/nll": 0.7}, "old"))
    assert new.report(number, Report(20, {"eval/nll": 9.0})) == kept
    records = steps_of(stored(new, number))
    assert (records[20].checkpoint, records[20].metrics) == ("new", {"eval/nll": 0.5})
    new.leave()


def with_steps_below(trial: Any, step: int) -> Any:
    """Return a trial as it was before it was reported at a step."""
    trial.user_attrs = {key: value for key, value in trial.user_attrs.items() if f":{step}" not in key}
    return trial


def test_of_many_drivers_one_adopts(any_url: str) -> None:
    config = make_config(study={"trials": 1})
    dead = open_study(any_url, config)
    dead.join()
    assert dead.next_trial() is not None
    dead._lease.drop()
    stores = [open_study(any_url, config).join() for _ in range(4)]
    found: list[Any] = []
    start = threading.Barrier(4)

    def adopt(store: StudyStore) -> None:
        start.wait()
        found.append(store.next_trial())

    threads = [threading.Thread(target=adopt, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [ticket.number for ticket in found if ticket is not None] == [0]
    for store in stores:
        store.leave()


def test_of_two_claims_at_once_the_first_wins(any_url: str) -> None:
    config = make_config(study={"trials": 1})
    with open_study(any_url, config) as dead:
        assert dead.next_trial() is not None
    one, two = open_study(any_url, config), open_study(any_url, config)
    trial = one.trials()[0]
    one._claims.refresh()
    two._claims.refresh()
    assert one._claims.owner(trial) == two._claims.owner(trial) == ("", 1)
    assert two._claims.take(trial, two.driver)
    assert not one._claims.take(trial, one.driver)
    assert one._claims.owner(trial) == two._claims.owner(trial) == (two.driver, 2)


def test_a_claim_whose_winner_died_can_be_followed_by_another(any_url: str) -> None:
    config = make_config(study={"trials": 1})
    with open_study(any_url, config) as first:
        assert first.next_trial() is not None
    killed = open_study(any_url, config).join()
    killed._claims.refresh()
    assert killed._claims.take(killed.trials()[0], killed.driver)
    killed._lease.drop()
    with open_study(any_url, config) as store:
        ticket = store.next_trial()
    assert ticket is not None
    assert (ticket.number, ticket.adopted) == (0, True)


def test_a_study_describes_itself(any_url: str) -> None:
    config = make_config(store=any_url)
    store = open_study(any_url, config, provenance={"data": "d1", "model": "m1", "host": "h"})
    attributes = store.storage.get_study_user_attrs(store.study_id)
    assert attributes["rankray:config"]["train"]["max_steps"] == 40
    assert "store" not in attributes["rankray:config"]
    assert attributes["rankray:provenance"] == {"data": "d1", "model": "m1", "host": "h"}
    assert {"rankray", "optuna", "python"} <= set(attributes["rankray:versions"])
    view = attach(any_url, "s")
    assert view.config.model_dump(exclude={"store"}) == config.model_dump(exclude={"store"})


def test_of_two_configurations_at_once_one_wins(any_url: str) -> None:
    configs = [make_config(train={"max_steps": 40 + i}) for i in range(4)]
    start, results = threading.Barrier(4), []

    def create(config: Any) -> None:
        start.wait()
        try:
            results.append(open_study(any_url, config).config.train.max_steps)
        except StudyMismatch:
            results.append(None)

    connect(any_url)
    threads = [threading.Thread(target=create, args=(config,)) for config in configs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [steps for steps in results if steps is not None]
    assert attach(any_url, "s").config.train.max_steps == winner


def test_long_and_foreign_texts_are_kept_or_shortened(any_url: str) -> None:
    """A column of MySQL holds 65,535 bytes, whatever is written into it."""
    long = "Traceback: " + "ошибка \U0001f600 " * 20_000 + " the end"
    with open_study(any_url, make_config(study={"trials": 2, "max_failures_per_trial": 9})) as store:
        ticket = begin(store)
        for attempt in range(8):
            assert store.fail(ticket.number, f"{attempt} {long}", long) is True
            begin(store)
        assert store.fail(ticket.number, long, long, retry=False) is False
        trial = stored(store, ticket.number)
    shown = views.trial(attach(any_url, "s"), ticket.number)
    assert trial.state == TrialState.FAIL
    assert [failure["reason"][0] for failure in trial.user_attrs[ATTEMPTS]] == list("01234567")
    assert shown["traceback"] == trial.user_attrs[END]["traceback"]
    for text in (shown["traceback"], shown["failures"][-1]["traceback"]):
        assert text.startswith("Traceback: ошибка \U0001f600")
        assert text.endswith("the end")
        assert "characters left out" in text


def test_errors_are_those_that_the_code_relies_on(any_url: str) -> None:
    """Optuna's, whatever the database or the proxy makes of them on the way."""
    storage = connect(any_url)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "s")
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([StudyDirection.MINIMIZE], "s")
    with pytest.raises(KeyError):
        storage.get_study_id_from_name("none")
    ended = storage.create_new_trial(study_id)
    storage.set_trial_state_values(ended, TrialState.COMPLETE, [1.0])
    for write in (
        lambda: storage.set_trial_user_attr(ended, "key", 1),
        lambda: storage.set_trial_intermediate_value(ended, 1, 1.0),
        lambda: storage.set_trial_state_values(ended, TrialState.FAIL),
    ):
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            write()
    storage.delete_study(study_id)
    with pytest.raises(KeyError):
        storage.set_study_user_attr(study_id, "key", 1)


def test_attributes_come_back_as_they_were(any_url: str) -> None:
    value = {"text": "ошибка \U0001f600", "none": None, "list": [1, 2.5, True], "small": 1e-300, "large": 2**53}
    storage = connect(any_url)
    study_id = storage.create_new_study([StudyDirection.MAXIMIZE], "s")
    for written in ("first", value):
        storage.set_study_user_attr(study_id, "key", written)
    template = create_trial(
        state=TrialState.RUNNING,
        user_attrs={"key": value},
        system_attrs={"mark": 0.1 + 0.2},
        params={"x": 1e-6},
        distributions={"x": FloatDistribution(1e-6, 1e-3, log=True)},
    )
    created = storage.create_new_trial(study_id, template)
    storage.set_trial_intermediate_value(created, 10, 0.1 + 0.2)
    trial = storage.get_trial(created)
    assert storage.get_study_user_attrs(study_id) == {"key": value}
    assert storage.get_study_directions(study_id) == [StudyDirection.MAXIMIZE]
    assert (trial.user_attrs, trial.system_attrs) == ({"key": value}, {"mark": 0.1 + 0.2})
    assert (trial.params, trial.distributions) == (template.params, template.distributions)
    assert trial.intermediate_values == {10: 0.1 + 0.2}
