from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from optuna.trial import TrialState

from rankray.errors import StoreError, StudyMismatch
from rankray.store import attach, list_studies, move, open_study, views
from rankray.store.backend import connect
from rankray.store.move import copy_study, delete_study, is_whole
from rankray.store.optuna_private import trial_id
from rankray.store.records import CREATED, RAN
from store.conftest import on_server, url_of
from store.helpers import begin, drive, make_config, said, stored

PAIRS = [
    ("sqlite", "journal"),
    ("journal", "sqlite"),
    on_server("journal", "postgresql"),
    on_server("postgresql", "mysql"),
    on_server("mysql", "sqlite"),
]


def half_done(url: str) -> Any:
    """A study with a trial in each state: pruned, complete, failed, and one that was running when its driver left."""
    store = open_study(url, make_config(study={"trials": 6, "known": ["sft"]}), provenance={"data": "d"})
    with store:
        for number in range(2):
            ticket = begin(store)
            store.report(ticket.number, said(ticket.params, 10))
            if stored(store, number).state == TrialState.RUNNING:
                store.complete(ticket.number, {"eval/nll": 0.5 + number})
        store.fail(begin(store).number, "broken", "Traceback", retry=False)
        ticket = begin(store)
        store.report(ticket.number, said(ticket.params | {"train.learning_rate": 0.0003}, 10))
    return store


def shown(url: str) -> tuple[Any, ...]:
    view = attach(url, "s")
    status = {key: value for key, value in views.status(view).items() if key != "store"}
    trials = [views.trial(view, row["number"]) for row in views.trials(view)]
    for trial in trials:
        trial.pop("started") if trial["state"] == "waiting" else None
    ran = [(view.seconds(trial), view.stretches(trial)) for trial in view.trials()]
    return status, trials, ran, view.provenance, view.config.model_dump(exclude={"store"})


@pytest.mark.parametrize(("kind", "other"), PAIRS)
def test_a_copy_shows_what_the_original_shows_and_is_resumed(
    kind: str, other: str, request: pytest.FixtureRequest
) -> None:
    source, target = url_of(kind, request), url_of(other, request)
    half_done(source)
    before = shown(source)
    assert copy_study(source, target, "s") == 4
    assert shown(target) == before == shown(source)
    copied = open_study(target, make_config(study={"trials": 6, "known": ["sft"]}), provenance={"data": "d"})
    waiting = [trial.number for trial in copied.trials() if trial.state == TrialState.WAITING]
    with copied:
        assert [begin(copied).number for _ in waiting] == waiting
    drive(copied)
    assert copied.finished == 6
    drivers = [driver for driver, *_ in copied.stretches(copied.trials()[waiting[0]])]
    assert drivers[-2:] == [copied.driver] * 2, "what was before the copy comes first"
    assert attach(source, "s").finished == before[0]["budget"]["finished"]


def test_what_a_killed_driver_left_running_ends_in_the_copy_with_its_last_record(
    sqlite_url: str, journal_url: str
) -> None:
    store = open_study(sqlite_url, make_config()).join()
    begin(store)
    store.charge({"from": time.time() - 300, "to": time.time() - 100, "gpu_seconds": 0.0, "nodes": {}})
    created = datetime.now().astimezone() - timedelta(seconds=300)
    store.storage.set_trial_user_attr(trial_id(stored(store, 0)), CREATED, created.isoformat())
    store._lease.drop()
    copy_study(sqlite_url, journal_url, "s")
    copied = attach(journal_url, "s")
    assert copied.seconds(copied.trials()[0]) == pytest.approx(200, abs=5)


def test_nothing_is_overwritten(sqlite_url: str, journal_url: str) -> None:
    half_done(sqlite_url)
    open_study(journal_url, make_config())
    with pytest.raises(StoreError, match="nothing is overwritten"):
        copy_study(sqlite_url, journal_url, "s")
    assert attach(journal_url, "s").trials() == []


def test_a_study_that_is_worked_on_is_neither_copied_nor_deleted(sqlite_url: str, journal_url: str) -> None:
    with open_study(sqlite_url, make_config()):
        with pytest.raises(StoreError, match="while drivers work on it"):
            copy_study(sqlite_url, journal_url, "s")
        with pytest.raises(StoreError, match="while drivers work on it"):
            delete_study(sqlite_url, "s")
    assert list_studies(sqlite_url) == ["s"]
    copy_study(sqlite_url, journal_url, "s")


def test_a_copy_that_was_interrupted_is_refused_and_made_again(
    sqlite_url: str, journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_done(sqlite_url)
    calls: list[Any] = []

    def ownerless(trial: Any, ran: Any) -> Any:
        calls.append(trial)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(trial, ran)

    real = move._ownerless
    monkeypatch.setattr(move, "_ownerless", ownerless)
    with pytest.raises(KeyboardInterrupt):
        copy_study(sqlite_url, journal_url, "s")
    assert list_studies(journal_url) == []
    with pytest.raises(StoreError, match="being copied, or that was interrupted"):
        open_study(journal_url, make_config(study={"trials": 6, "known": ["sft"]}))
    assert copy_study(sqlite_url, journal_url, "s") == 4
    assert shown(journal_url) == shown(sqlite_url)


@pytest.mark.parametrize("kind", ["sqlite", "journal", on_server("postgresql")])
def test_a_deleted_study_is_gone_and_others_stay(kind: str, request: pytest.FixtureRequest) -> None:
    any_url = url_of(kind, request)
    for name in ("one", "two"):
        drive(open_study(any_url, make_config(name=name, study={"trials": 2})))
    delete_study(any_url, "one")
    assert list_studies(any_url) == ["two"]
    assert len(connect(any_url).get_all_studies()) == 2
    assert attach(any_url, "two").finished == 2
    with pytest.raises(StoreError, match="there is none of this name"):
        delete_study(any_url, "one")
    drive(open_study(any_url, make_config(name="one", study={"trials": 1})))
    assert attach(any_url, "one").finished == 1


def test_a_deletion_that_was_interrupted_is_done_again(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    half_done(sqlite_url)

    def killed(storage: Any, name: str) -> None:
        storage.delete_study(storage.get_study_id_from_name(name))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(move, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            delete_study(sqlite_url, "s")
    with pytest.raises(StoreError, match="rankray store delete"):
        open_study(sqlite_url, make_config())
    delete_study(sqlite_url, "s")
    assert connect(sqlite_url).get_all_studies() == []


def test_what_a_killed_start_left_of_a_study_can_be_deleted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name would be taken for good, by a study that nobody sees."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as death:
        death.setattr("rankray.store.study._describe", killed)
        with pytest.raises(KeyboardInterrupt):
            open_study(url, make_config())
    assert (list_studies(url), is_whole(url, "s")) == ([], False)
    with pytest.raises(StudyMismatch):
        open_study(url, make_config(train={"max_steps": 41}))
    delete_study(url, "s")
    open_study(url, make_config(train={"max_steps": 41}))
    assert (list_studies(url), is_whole(url, "s")) == (["s"], True)


@pytest.mark.parametrize("stored", [None, "x", [1], [{"driver": "d"}], [{"driver": 1, "from": "x", "to": "y"}]])
def test_what_is_malformed_of_who_ran_a_trial_before_a_copy_is_left_out(sqlite_url: str, stored: Any) -> None:
    undated = {"driver": "d", "from": "2026-01-01T00:00:00+01:00", "to": "2026-01-32T01:00:00+01:00"}
    with open_study(sqlite_url, make_config()) as store:
        number = begin(store).number
        kept = [*stored, undated] if isinstance(stored, list) else stored
        store.storage.set_trial_user_attr(trial_id(store.trials()[number]), RAN, kept)
        [(driver, _, end)] = store.stretches(store.trials()[number])
        assert (driver, end) == (store.driver, None)
