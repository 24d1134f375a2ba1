"""Ordered outbox through outages."""

import pytest

from rankray.contracts import Report, Verdict
from rankray.errors import ConfigError, LeaseLost, StoreError, StoreUnavailable
from rankray.search.delivery import StoreOutbox, patience_seconds_default
from rankray.search.news import News


class Study:
    """A store that can become unreachable, and remembers what was written."""

    name = "s"

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


class Reports:
    """An observer that remembers reports."""

    def __init__(self):
        self.steps, self.said = [], []

    def reported(self, number, report):
        self.steps.append((number, report.step))

    def phase(self, text):
        self.said.append(text)


@pytest.fixture
def study():
    return Study()


def test_verdicts_come_back(study):
    outbox = StoreOutbox(study)
    study.stop_at = 2
    assert not outbox.report(7, Report(1, {})).stop
    assert outbox.report(7, Report(2, {})).reason == "behind"


def test_an_outage_keeps_the_order(study):
    seen = Reports()
    outbox = StoreOutbox(study, news=News(seen))
    study.away = True
    assert not outbox.report(1, Report(5, {})).stop
    assert not outbox.report(2, Report(5, {})).stop
    outbox.complete(1, {})
    assert not outbox.flush()
    assert (study.told, seen.steps) == ([], [])
    study.away = False
    outbox.report(2, Report(10, {}))
    assert study.told == [("report", 1, 5), ("report", 2, 5), ("complete", 1), ("report", 2, 10)]
    assert seen.steps == [(1, 5), (2, 5), (2, 10)]
    assert outbox.flush()


def test_a_late_stop_holds(study):
    """A trial pruned by a report that came late has ended: it is not completed, and is stopped when it reports."""
    outbox = StoreOutbox(study)
    study.stop_at = 5
    study.away = True
    outbox.report(1, Report(5, {}))
    outbox.report(2, Report(5, {}))
    outbox.complete(1, {})
    study.away = False
    assert outbox.flush()
    assert ("complete", 1) not in study.told
    study.lost = {2}
    assert outbox.report(2, Report(10, {})).stop


def test_a_lost_lease_stops_the_trial_and_nothing_else(study):
    outbox = StoreOutbox(study)
    study.lost = {1}
    assert "another driver" in outbox.report(1, Report(5, {})).reason
    outbox.complete(1, {})
    assert not outbox.report(2, Report(5, {})).stop
    assert study.told == [("report", 2, 5)]


def test_a_new_attempt_starts_afresh(study):
    outbox = StoreOutbox(study)
    study.lost = {1}
    assert outbox.report(1, Report(5, {})).stop
    study.lost = set()
    outbox.begin(1)
    assert not outbox.report(1, Report(5, {})).stop


def test_patience_ends(study):
    outbox = StoreOutbox(study, patience_seconds=0.0)
    assert outbox.lost == ""
    study.away = True
    outbox.report(1, Report(5, {}))
    assert "did not answer" in outbox.lost
    assert "1 writes are pending" in outbox.lost


def test_patience_ends_even_if_there_is_nothing_to_deliver(study):
    outbox = StoreOutbox(study, patience_seconds=0.0)
    outbox.unanswered(StoreUnavailable("away"))
    assert outbox.flush()
    assert "0 writes are pending" in outbox.lost
    outbox.answered()
    assert outbox.lost == ""


@pytest.mark.parametrize("given", ["soon", "-1", "nan"])
def test_a_wrong_patience_is_refused(given, monkeypatch):
    monkeypatch.setenv("RANKRAY_STORE_PATIENCE_SECONDS", given)
    with pytest.raises(ConfigError, match="RANKRAY_STORE_PATIENCE_SECONDS"):
        patience_seconds_default()


def test_an_outage_is_said_once_with_its_reason_and_its_end(study, monkeypatch):
    seen = Reports()
    outbox = StoreOutbox(study, patience_seconds=60.0, news=News(seen))

    def full(*words):
        raise StoreUnavailable("store: u has no room left (disk full); free some space")

    with monkeypatch.context() as patch:
        patch.setattr(study, "_hear", full)
        outbox.report(1, Report(5, {}))
        outbox.report(1, Report(10, {}))
        outbox.unanswered(StoreUnavailable("other"))
    [line] = seen.said
    assert line.startswith("store: u has no room left (disk full); trials keep training;")
    assert "for up to 60 s" in line
    outbox.report(1, Report(15, {}))
    assert study.told == [("report", 1, 5), ("report", 1, 10), ("report", 1, 15)]
    assert len(seen.said) == 2
    assert seen.said[1].startswith("the store answers again")


@pytest.mark.parametrize("error", [StoreError("store: line 3 is malformed"), KeyError("metrics"), TypeError("x")])
def test_what_is_malformed_in_the_store_ends_the_search_in_one_line(study, error):
    """Tune would wrap it in two tracebacks."""
    outbox = StoreOutbox(study)
    outbox.report(1, Report(1, {}))

    def malformed(*words):
        raise error

    study.report = study.release = malformed
    assert not outbox.report(1, Report(2, {})).stop
    assert "malformed" in outbox.lost
    outbox.release(1)
    outbox.complete(1, {})
    assert study.told == [("report", 1, 1)]
    assert not outbox.flush()
