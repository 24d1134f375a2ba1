"""What a search costs is counted while it runs."""

from __future__ import annotations

from typing import Any

import pytest
from store.helpers import make_config

from rankray.search.control import Control
from rankray.search.meter import Meter
from rankray.store import attach, open_study, views


class Clock:
    """Unix time, as the test sets it."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def made(url: str, **budget: Any) -> tuple[Any, Control, Clock, Meter, dict[str, Any]]:
    config = make_config(study={"trials": 9, "budget": budget}, resources={"gpus_per_worker": 0.5, "workers": 2})
    study, control, clock, nodes = open_study(url, config), Control(), Clock(), {"n1": ("g5", False)}
    return study, control, clock, Meter(study, control, lambda: nodes, clock, clock), nodes


def test_trials_are_charged_while_they_hold_their_gpus_whatever_becomes_of_them(tmp_path):
    url = f"journal:///{tmp_path}/store.log"
    study, _, clock, meter, _ = made(url)
    meter.started(0, {}, "sampler", 0)
    clock.now += 10
    meter.started(1, {}, "sampler", 0)
    clock.now += 10
    meter.ended(0, "lost", None, "its process died")
    clock.now += 10
    meter.ended(1, "complete", 1.0, "")
    clock.now += 100
    meter.tick()
    spent = study.spent
    assert (spent.gpu_seconds, spent.wall_seconds) == (10 + 20 + 10, 130)


def test_nodes_are_charged_from_when_they_were_first_seen_until_they_are_gone(tmp_path):
    url = f"journal:///{tmp_path}/store.log"
    study, _, clock, meter, nodes = made(url, money=100.0, price={"g5": 3600.0, "spot-kind": {"spot": 36.0}})
    meter.tick()
    clock.now += 10
    nodes["n2"] = ("spot-kind", True)
    meter.tick()
    clock.now += 5
    del nodes["n1"]
    meter.tick()
    clock.now += 5
    meter.tick()
    assert study.spent.money == 10 + 10 * 0.01


def test_a_limit_stops_the_search_and_the_store_says_why(tmp_path):
    url = f"journal:///{tmp_path}/store.log"
    study, control, clock, meter, _ = made(url, wall_hours=0.01)
    meter.tick()
    assert (control.stopping, study.done) == (False, False)
    clock.now += 36
    meter.tick()
    assert control.stopping
    assert control.ended == "0.01 of 0.01 hours are spent"
    assert views.status(attach(url, "s"))["ended"] == {"by": "wall_hours", "reason": control.ended}


def test_it_ticks_by_itself_and_once_more_at_the_end(tmp_path):
    url = f"journal:///{tmp_path}/store.log"
    study, _, clock, meter, _ = made(url)
    with meter:
        clock.now += 7
    assert study.spent.wall_seconds == 7


def test_what_cannot_be_asked_or_written_is_tried_again(tmp_path, monkeypatch):
    url = f"journal:///{tmp_path}/store.log"
    study, _, clock, meter, _ = made(url)

    def broken(record: Any) -> None:
        raise ConnectionError("the store is unreachable")

    with monkeypatch.context() as outage:
        outage.setattr(study, "charge", broken)
        clock.now += 5
        meter.tick()
    assert study.spent.wall_seconds == 0
    clock.now += 5
    meter.tick()
    assert study.spent.wall_seconds == 10


def test_a_clock_that_is_set_back_gives_nothing_back(tmp_path):
    url = f"journal:///{tmp_path}/store.log"
    study, _, clock, meter, _ = made(url)
    meter.started(0, {}, "sampler", 0)
    clock.now += 10
    meter.tick()
    clock.now -= 100
    meter.tick()
    assert (study.spent.wall_seconds, study.spent.gpu_seconds) == (10, 10)


@pytest.mark.parametrize("jump", [50 * 365 * 86_400, -3600], ids=["to the present, from 1970", "back"])
def test_a_clock_that_is_set_is_no_work(tmp_path, jump):
    """A machine starts with a wrong time, or sleeps: what the search may cost is not used up by that."""
    url = f"journal:///{tmp_path}/store.log"
    study, control, clock, _, nodes = made(url, wall_hours=1.0, money=5.0, price={"g5": 3.6})
    steady = Clock()
    meter = Meter(study, control, lambda: nodes, clock, steady)
    meter.started(0, {}, "sampler", 0)
    meter.tick()
    clock.now, steady.now = clock.now + jump, steady.now + 10
    meter.tick()
    spent = study.spent
    assert (spent.wall_seconds, spent.gpu_seconds) == (10, 10)
    assert spent.money == pytest.approx(0.01)
    assert not control.stopping
