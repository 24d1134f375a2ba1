"""A whole study as the report reads it."""

import itertools
import json
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rankray.contracts import Report, WorkLost
from rankray.report.findings import cost
from rankray.report.markdown import markdown
from rankray.report.page import page
from rankray.search.confirm import step_seconds
from rankray.store import attach, open_study, views
from rankray.store.optuna_private import trial_id
from rankray.store.overview import overview
from rankray.store.records import CREATED
from store.helpers import begin, drive, make_config, run_trial, said


def test_it_says_what_the_views_say_and_has_every_curve(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    drive(open_study(url, make_config(study={"trials": 6}), provenance={"file": "f.yaml"}))
    study = attach(url, "s")
    found = overview(study)
    assert found["status"] == views.status(study)
    assert found["best"] == views.best(study)
    for row in found["trials"]:
        shown = views.trial(study, row["number"])
        assert row["metrics"] == shown["metrics"]
        assert row["curve"] == [[step["step"], step["metrics"]["eval/nll"]] for step in shown["steps"]]
        assert len(row["stretches"]) == 1
        assert row["stretches"][0]["started"] <= row["stretches"][0]["ended"]
    assert found["space"]["train.learning_rate"] == {"low": 1e-6, "high": 1e-3, "log": True, "wider": ["low", "high"]}
    assert found["space"]["loss.objective"] == {"choices": ["sft", "rri"]}
    assert found["provenance"] == {"file": "f.yaml"}
    assert found["importance"]["why"] == "it takes 16 finished trials, and there are 6"
    assert "store" not in found["config"]
    json.dumps(found, allow_nan=False)


def test_an_end_of_a_range_that_is_the_fields_own_cannot_be_wider(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    ranges = {
        "loss.entropy_weight": {"float": [0.0, 2.0]},
        "train.warmup_ratio": {"float": [0.0, 1.0]},
        "train.batch_size": {"int": [1, 8]},
        "loss.temperature": {"float": [0.25, 4.0], "log": True},
    }
    open_study(url, make_config(space=ranges, loss={"objective": "rri"}))
    space = overview(attach(url, "s"))["space"]
    assert {path: space[path]["wider"] for path in ranges} == {
        "loss.entropy_weight": ["high"],
        "train.warmup_ratio": [],
        "train.batch_size": ["high"],
        "loss.temperature": ["low", "high"],
    }


def test_a_trial_that_was_given_back_has_a_stretch_per_owner(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    first = open_study(url, make_config(study={"trials": 1}))
    with first:
        ticket = begin(first)
        spread = {"first": -1, "shares": [0.25, 0.75]}
        first.report(ticket.number, replace(said(ticket.params, 10), node="10.0.0.1 (abcdef01)", spread=spread))
        first.release(ticket.number, WorkLost("its node is being taken away", 4, 2.5, preempted=True))
    second = open_study(url, make_config(study={"trials": 1}))
    drive(second)
    [trial] = overview(attach(url, "s"))["trials"]
    one, two = trial["stretches"]
    assert [one["driver"], two["driver"]] == [first.driver, second.driver]
    assert one["started"] <= one["ended"] <= two["started"] <= two["ended"]
    [lost] = trial["lost"]
    assert lost.pop("at").startswith("20")
    assert lost == {"reason": "its node is being taken away", "steps": 4, "wall_seconds": 2.5, "preempted": True}
    assert (one["node"], two["node"]) == ("10.0.0.1 (abcdef01)", None), "the second says nothing, as older ones do"
    assert (one["lost"]["reason"], two["lost"]) == (lost["reason"], None)
    assert trial["spread"] == {"step": 10, "first": -1, "shares": [0.25, 0.75]}


def test_the_time_after_a_driver_was_killed_is_not_work(tmp_path, monkeypatch):
    """It is killed at three in the morning, and the next one starts at nine: here, after a second."""
    monkeypatch.setattr("rankray.store.accounts.NOTED", timedelta(0))
    url = f"sqlite:///{tmp_path}/store.db"
    config = make_config(study={"trials": 1})
    killed = open_study(url, config).join()
    ticket = begin(killed)
    [since] = [start for _, start, _ in killed.stretches(killed.trials()[ticket.number])]
    last = since + timedelta(seconds=0.1)
    killed.charge({"from": since.timestamp(), "to": last.timestamp(), "gpu_seconds": 0.0, "nodes": {}})
    killed._lease.drop()
    time.sleep(1.0)
    drive(open_study(url, config))
    study = attach(url, "s")
    [trial] = overview(study)["trials"]
    first, second = trial["stretches"]
    assert (first["driver"], first["ended"]) == (killed.driver, last.isoformat())
    assert datetime.fromisoformat(second["started"]) - last > timedelta(seconds=0.8)
    hours = cost(overview(study)).trial_hours
    assert step_seconds(study) == pytest.approx(3600 * hours / trial["step"])
    assert 3600 * hours < (datetime.fromisoformat(second["ended"]) - since).total_seconds() - 0.8


@pytest.fixture
def in_zone(monkeypatch):
    """Return what puts this process into a time zone, by its POSIX rule: zoneinfo need not be installed."""

    def go(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield go
    monkeypatch.undo()
    time.tzset()


HERE, WEST, EAST = "UTC0", "EST5", "JST-9"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
@pytest.mark.parametrize("zone", [HERE, WEST, EAST])
def test_a_study_takes_as_long_as_it_took_wherever_it_is_looked_at(tmp_path, in_zone, zone, kind):
    """A server in UTC searches, a laptop elsewhere looks."""
    url = f"{kind}:///{tmp_path}/store"
    in_zone(HERE)
    config = make_config(study={"trials": 1})
    with open_study(url, config) as first:
        ticket = begin(first)
        first.report(ticket.number, replace(said(ticket.params, 10), node="10.0.0.1 (abcdef01)"))
        first.release(ticket.number, WorkLost("its node is being taken away", 4, 2.5))
    drive(open_study(url, config))
    before = cost(overview(attach(url, "s")))
    in_zone(zone)
    found = overview(attach(url, "s"))
    assert 0 < cost(found).trial_hours == before.trial_hours < 0.01
    assert cost(found).wall_hours == before.wall_hours
    one, two = found["trials"][0]["stretches"]
    assert (one["node"], one["lost"]["steps"], two["lost"]) == ("10.0.0.1 (abcdef01)", 4, None)
    assert {each[-6:] for row in (one, two) for each in (row["started"], row["ended"])} == {
        {HERE: "+00:00", WEST: "-05:00", EAST: "+09:00"}[zone]
    }


@pytest.mark.parametrize("zone", [HERE, WEST, EAST])
def test_times_of_an_earlier_version_say_not_where(tmp_path, in_zone, zone):
    """Optuna's own say it, so a trial that nobody has resumed took as long as it took."""
    url = f"sqlite:///{tmp_path}/store.db"
    in_zone(HERE)
    study = open_study(url, make_config(study={"trials": 1}))
    with study:
        ticket = begin(study)
        study.storage.set_trial_user_attr(trial_id(study.trials()[0]), CREATED, datetime.now().isoformat())
        run_trial(study, ticket)
    in_zone(zone)
    assert 0 < cost(overview(attach(url, "s"))).trial_hours < 0.01


def test_the_hour_that_the_clock_shows_twice_is_counted(tmp_path, in_zone):
    """Summer time ends at 3:00, which is 2:00 then: from 1:30 to 3:30 it is three hours."""
    url = f"sqlite:///{tmp_path}/store.db"
    in_zone("CET-1CEST,M3.5.0,M10.5.0/3")
    study = open_study(url, make_config(study={"trials": 1}))
    drive(study)
    [made] = attach(url, "s").trials()
    begun = datetime(2026, 10, 24, 23, 30, tzinfo=UTC)
    made.user_attrs[CREATED] = begun.astimezone().isoformat()
    made.datetime_complete = (begun + timedelta(hours=3)).astimezone().replace(tzinfo=None)
    assert made.datetime_complete == datetime(2026, 10, 25, 3, 30)
    assert study.seconds(made) == 3 * 3600


@pytest.mark.parametrize("spread", [{"first": "x", "shares": [1]}, {"first": 1, "shares": []}, {"shares": 3}, {"a": 1}])
def test_a_histogram_that_is_none_is_left_out(tmp_path, spread):
    url = f"sqlite:///{tmp_path}/store.db"
    study = open_study(url, make_config(study={"trials": 1}))
    with study:
        ticket = begin(study)
        study.report(ticket.number, replace(said(ticket.params, 10), spread=spread))
    assert overview(attach(url, "s"))["trials"][0]["spread"] is None


def test_a_running_trial_has_no_end_and_a_metric_that_is_not_finite_is_none(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    study = open_study(url, make_config(study={"trials": 2}))
    with study:
        ticket = begin(study)
        scale = {"train/scale_p05": 0.5, "train/scale_p50": 1.0, "train/scale_p95": float("inf")}
        study.report(ticket.number, Report(10, {"eval/nll": 2.0, **scale}))
        [trial] = overview(attach(url, "s"))["trials"]
    assert trial["state"] == "running"
    assert trial["stretches"][0]["ended"] is None
    assert trial["scale"] == [[10, 0.5, 1.0, None]]
    assert trial["metrics"]["train/scale_p95"] is None


def test_what_is_malformed_in_a_store_is_left_out(tmp_path):
    """A store is input: whoever writes into it makes no report fail."""
    url = f"sqlite:///{tmp_path}/store.db"
    study = open_study(url, make_config(study={"trials": 2}))
    drive(study)
    said = {"word": "better", "interval": "wide"}
    chosen = [[{"number": number, "params": {"a": {"b": []}}}] for number in (-1, 7, "1", True, None)]
    finalists = [{"verdict": said, "finalists": each} for each in (3, [], *chosen)]
    keys = ("rankray:verdict", "rankray:verdict:s.confirm")
    for key, value in itertools.product(keys, ("better", {"verdict": "better"}, *finalists)):
        study.storage.set_study_user_attr(study.study_id, key, value)
        found = overview(attach(url, "s"))
        assert all(each["verdict"]["interval"] is None for each in found["verdicts"])
        assert found["confirmed"] is None
        page(found, "now")
        markdown(found, "now")
