"""Ordered delivery through outages."""

import pytest

from rankray.contracts import Report, Verdict
from rankray.errors import ConfigError, LeaseLost, StoreUnavailable
from rankray.search.delivery import Delivery, patience_seconds_default


class Study:
    """A store that can go away, and remembers what it was told."""

    def __init__(self):
        self.away = False
        self.told = []
        self.stop_at = None
        self.lost = set()

    def _hear(self, *words):
        if self.away:
            raise StoreUnavailable("away")
        if words[1] in self.lost:
            raise LeaseLost("taken over")
        self.told.append(words)

    def report(self, number, report):
        self._hear("report", number, report.step)
        return Verdict(stop=True, reason="behind") if report.step == self.stop_at else Verdict(stop=False)

    def complete(self, number, metrics):
        self._hear("complete", number)

    def fail(self, number, reason, traceback):
        self._hear("fail", number, reason)
        return False

    def release(self, number):
        self._hear("release", number)


@pytest.fixture
def study():
    return Study()


def test_verdicts_come_back(study):
    delivery = Delivery(study)
    study.stop_at = 2
    assert not delivery.report(7, Report(1, {})).stop
    assert delivery.report(7, Report(2, {})).reason == "behind"


def test_an_outage_keeps_the_order(study):
    seen = []
    delivery = Delivery(study, on_verdict=lambda number, report, _: seen.append((number, report.step)))
    study.away = True
    assert not delivery.report(1, Report(5, {})).stop
    assert not delivery.report(2, Report(5, {})).stop
    delivery.complete(1, {})
    assert not delivery.flush()
    assert (study.told, seen) == ([], [])
    study.away = False
    delivery.report(2, Report(10, {}))
    assert study.told == [("report", 1, 5), ("report", 2, 5), ("complete", 1), ("report", 2, 10)]
    assert seen == [(1, 5), (2, 5), (2, 10)]
    assert delivery.flush()


def test_a_late_stop_holds(study):
    """A trial pruned by a report that came late has ended: it is not completed, and is stopped when it speaks."""
    delivery = Delivery(study)
    study.stop_at = 5
    study.away = True
    delivery.report(1, Report(5, {}))
    delivery.report(2, Report(5, {}))
    delivery.complete(1, {})
    study.away = False
    assert delivery.flush()
    assert ("complete", 1) not in study.told
    study.lost = {2}
    assert delivery.report(2, Report(10, {})).stop


def test_a_lost_lease_stops_the_trial_and_nothing_else(study):
    delivery = Delivery(study)
    study.lost = {1}
    assert "another driver" in delivery.report(1, Report(5, {})).reason
    delivery.complete(1, {})
    assert not delivery.report(2, Report(5, {})).stop
    assert study.told == [("report", 2, 5)]


def test_a_new_attempt_starts_afresh(study):
    delivery = Delivery(study)
    study.lost = {1}
    assert delivery.report(1, Report(5, {})).stop
    study.lost = set()
    delivery.begin(1)
    assert not delivery.report(1, Report(5, {})).stop


def test_patience_ends(study):
    delivery = Delivery(study, patience_seconds=0.0)
    assert delivery.lost == ""
    study.away = True
    delivery.report(1, Report(5, {}))
    assert "did not answer" in delivery.lost
    assert "1 reports are waiting" in delivery.lost


def test_patience_ends_even_if_there_is_nothing_to_deliver(study):
    delivery = Delivery(study, patience_seconds=0.0)
    delivery.unanswered()
    assert delivery.flush()
    assert "0 reports are waiting" in delivery.lost
    delivery.answered()
    assert delivery.lost == ""


@pytest.mark.parametrize("given", ["soon", "-1", "nan"])
def test_a_wrong_patience_is_refused(given, monkeypatch):
    monkeypatch.setenv("RANKRAY_STORE_PATIENCE_SECONDS", given)
    with pytest.raises(ConfigError, match="RANKRAY_STORE_PATIENCE_SECONDS"):
        patience_seconds_default()
