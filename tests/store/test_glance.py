"""What a database is asked for is what all trials together say."""

from __future__ import annotations

from typing import Any

import pytest

from rankray.store import attach, open_study, views
from rankray.store.trials import StudyStore
from store.conftest import on_server, url_of
from store.helpers import begin, begin_and_die, make_config, said


def mixed(url: str, direction: str) -> None:
    """A study with trials in every state, of both objectives, a baseline, and void ones."""
    config = make_config(study={"trials": 14, "known": ["sft"], "pruner": "median", "direction": direction})
    with open_study(url, config) as store:
        for number in range(9):
            ticket = begin(store)
            for step in (10, 20, 30, 40):
                if store.report(ticket.number, said(ticket.params, step)).stop:
                    break
            else:
                store.complete(ticket.number, {"eval/nll": 3.0 - number / 7})
        begin_and_die(store)
        store.fail(begin(store).number, "broken", "Traceback", retry=False)
        store.fail(begin(store).number, "broken again", "Traceback", retry=False)
        store.release(begin(store).number)
        begin(store)


def shown(study: Any) -> dict[str, Any]:
    status = views.status(study)
    status.pop("drivers")
    rows = views.trials(study)
    return {
        "status": status,
        "rows": rows,
        "first": views.trials(study, 3),
        "best": views.best(study),
        "alike": views.alike(study),
        "untried": views.untried(study),
        "objectives": views.objectives(study),
        "each": [views.trial(study, row["number"]) for row in rows],
    }


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("kind", ["sqlite", on_server("postgresql"), on_server("mysql")])
def test_a_glance_shows_what_reading_everything_shows(
    kind: str, direction: str, request: pytest.FixtureRequest
) -> None:
    url = url_of(kind, request)
    mixed(url, direction)
    at_a_glance, whole = attach(url, "s"), attach(url, "s")
    assert at_a_glance.glance is not None
    whole.glance = None
    seen = shown(at_a_glance)
    assert seen == shown(whole)
    states = {row["state"] for row in seen["rows"]}
    assert {"complete", "failed", "waiting"} <= states
    assert len(seen["objectives"]) >= 2
    assert seen["status"]["first_failure"]["reason"] == "broken"


@pytest.mark.parametrize("values", [(), (0.5,), (0.5, 0.5, 0.5), (0.5, 0.25, 0.5)])
def test_whether_all_trials_have_one_value(sqlite_url: str, values: tuple[float, ...]) -> None:
    with open_study(sqlite_url, make_config(name="s")) as store:
        for value in values:
            store.complete(begin(store).number, {"eval/nll": value})
        begin(store)
    at_a_glance, whole = attach(sqlite_url, "s"), attach(sqlite_url, "s")
    whole.glance = None
    wanted = {"trials": len(values), "value": values[0]} if len(set(values)) == 1 else None
    assert views.alike(at_a_glance) == views.alike(whole) == wanted


@pytest.mark.parametrize("tried", [(), ("rri",), ("rri", "sft")])
def test_which_choices_no_trial_has_had(
    sqlite_url: str, tried: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that failed, or still runs, has tried its choice; one that never was, a void one, has not."""
    space = {
        "loss.objective": {"choice": ["sft", "rri", "dft"]},
        "loss.base": {"choice": ["one", "prob"], "when": {"loss.objective": "rri"}},
        "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
    }
    base = {"rri": {"loss.base": "one"}}
    known = [{"loss.objective": name, "train.learning_rate": 1e-3, **base.get(name, {})} for name in tried]
    config = make_config(name="s", space=space, study={"known": known})
    with open_study(sqlite_url, config) as store:
        for _ in known[:1]:
            store.fail(begin(store).number, "broken", "Traceback", retry=False)
        for _ in known[1:]:
            begin(store)
    at_a_glance, whole = attach(sqlite_url, "s"), attach(sqlite_url, "s")
    whole.glance = None
    left = [name for name in ("sft", "rri", "dft") if name not in tried]
    wanted = {"loss.objective": left, "loss.base": ["prob"] if tried else ["one", "prob"]}
    assert views.untried(at_a_glance) == views.untried(whole) == wanted
    monkeypatch.setattr(StudyStore, "exhausted", True)
    assert views.untried(whole) == {}, "a finite space has no other point that the configuration allows"


def test_what_is_shown_is_all_that_is_read(sqlite_url: str) -> None:
    mixed(sqlite_url, "minimize")
    study = attach(sqlite_url, "s")
    views.status(study)
    views.best(study)
    views.alike(study)
    views.untried(study)
    views.objectives(study)
    views.trial(study, 0)
    views.trials(study, 3)
    assert study._history.trials == []


def test_stores_without_tables_are_read_as_a_whole(journal_url: str) -> None:
    mixed(journal_url, "minimize")
    study = attach(journal_url, "s")
    assert study.glance is None
    assert views.status(study)["trials"]["failed"] == 2
