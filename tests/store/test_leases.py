"""Leases, and trials that are taken over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from rankray.contracts import Report
from rankray.errors import ConfigError, LeaseFailed, LeaseLost, StoreError, StoreUnavailable, StudyGone
from rankray.store import attach, leases, list_studies, open_study, ownership, views
from rankray.store.backend import connect
from rankray.store.leases import Watch, known_dead, process_start, this_process
from rankray.store.move import copy_study, delete_study
from rankray.store.records import steps_of
from store.helpers import Driver, begin, make_config, run_trial, stored, wait_for


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


ELSEWHERE = {"host": "far-away", "boot": "b", "space": "s", "pid": 1, "start": "1"}


def watch_for(seconds: float, watch: Watch, clock: Clock, record: dict[str, Any] | None, looks: int) -> None:
    for _ in range(looks):
        clock.now += seconds / looks
        watch.look({"d": record})


def test_a_driver_is_gone_after_a_lease_of_silence_on_the_observer_s_clock() -> None:
    clock = Clock()
    watch = Watch(60, clock)
    watch.look({"d": {**ELSEWHERE, "beat": 7}})
    watch_for(59, watch, clock, {**ELSEWHERE, "beat": 7}, 10)
    assert not watch.is_dead("d")
    assert watch.alive() == ["d"]
    watch_for(2, watch, clock, {**ELSEWHERE, "beat": 7}, 1)
    assert watch.is_dead("d")
    watch.look({"d": {**ELSEWHERE, "beat": 8}})
    assert not watch.is_dead("d")


def test_wall_clocks_do_not_matter_to_a_take_over() -> None:
    clock = Clock()
    watch = Watch(60, clock)
    watch_for(30, watch, clock, {**ELSEWHERE, "beat": 7, "at": 0.0}, 10)
    assert not watch.is_dead("d")


def test_one_look_after_an_outage_takes_nobody_s_trials() -> None:
    clock = Clock()
    watch = Watch(60, clock)
    watch.look({"d": {**ELSEWHERE, "beat": 7}})
    watch_for(3600, watch, clock, {**ELSEWHERE, "beat": 7}, 1)
    assert not watch.is_dead("d")


def test_a_driver_with_a_longer_lease_is_waited_for_that_long() -> None:
    clock = Clock()
    watch = Watch(6, clock)
    record = {**ELSEWHERE, "beat": 7, "lease": 60}
    watch.look({"d": record})
    watch_for(59, watch, clock, record, 100)
    assert not watch.is_dead("d")


def test_what_another_thread_read_before_makes_nobody_unknown() -> None:
    """The lease's thread looks, too, and its records may be older than those that were looked at last."""
    watch = Watch(60)
    watch.look({"before": None, "d": {**ELSEWHERE, "beat": 1}})
    watch.look({"before": None})
    assert not watch.is_dead("d")
    assert watch.is_dead("before")


def test_who_is_not_registered_is_gone() -> None:
    watch = Watch(60)
    watch.look({"left": None})
    assert watch.is_dead("left")
    assert watch.is_dead("never seen")
    assert watch.is_dead("")


def test_processes_on_this_machine_are_known_dead_as_soon_as_they_are() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = this_process() | {"pid": child.pid, "start": process_start(child.pid)}
    assert not known_dead(record)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert known_dead(record), "a zombie is dead"
    child.communicate()
    assert known_dead(record)
    assert not known_dead(this_process())
    assert known_dead(this_process() | {"start": "another"}), "the pid was given to another process"
    for key in ("host", "boot", "space"):
        assert not known_dead(record | {key: "another"}), "nothing is known of other machines"


def test_a_lease_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKRAY_LEASE_SECONDS", "soon")
    with pytest.raises(ConfigError, match="RANKRAY_LEASE_SECONDS: got 'soon'"):
        leases.lease_seconds_default()


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease alone tells who is dead, as between machines: nothing is known of processes."""
    monkeypatch.setattr(leases, "known_dead", lambda record: record is None)


def observed_by(store: Any) -> Clock:
    """Let a driver look at the others by a clock of the test's, and return that."""
    clock = Clock()
    store._watch = Watch(60, clock)
    store._lease._watch = store._watch
    return clock


@pytest.mark.usefixtures("elsewhere")
def test_a_silent_driver_s_trials_are_taken_after_its_lease(file_url: str) -> None:
    config = make_config(study={"trials": 2})
    silent = open_study(file_url, config, lease_seconds=60).join()
    ticket = silent.next_trial()
    assert ticket is not None
    silent._lease._stop.set()  # no renewal from now on
    store = open_study(file_url, config, lease_seconds=60)
    clock = observed_by(store)
    with store:
        fresh = store.next_trial()
        assert fresh is not None
        assert not fresh.adopted
        for _ in range(3):
            assert store.next_trial() is None
            clock.now += 19
        assert store.next_trial() is None, "57 s"
        clock.now += 19
        found = store.next_trial()
        assert found is not None
        assert (found.number, found.params, found.adopted) == (ticket.number, ticket.params, True)


@pytest.mark.usefixtures("elsewhere")
def test_a_live_driver_keeps_its_trials_while_others_look(file_url: str) -> None:
    config = make_config(study={"trials": 2})
    one, two = (open_study(file_url, config, lease_seconds=60) for _ in range(2))
    clock = observed_by(two)
    with one, two:
        tickets = [one.next_trial(), one.next_trial()]
        for _ in range(12):
            assert two.next_trial() is None
            clock.now += 19
            assert two.next_trial() is None
            clock.now += 19
            one._lease._renew()
        for ticket in tickets:
            assert ticket is not None
            one.complete(ticket.number, {"eval/nll": 1.0})
        assert two.done


@pytest.mark.parametrize("read", ["trials", "claims", "drivers"])
def test_a_driver_that_comes_while_another_looks_keeps_its_trial(
    url: str, monkeypatch: pytest.MonkeyPatch, read: str
) -> None:
    """It joins, and starts a trial, just before another driver reads the trials, the claims or the drivers."""
    one, two = (open_study(url, make_config(study={"trials": 4}), lease_seconds=600) for _ in range(2))
    came: list[Any] = []
    place, name = {
        "trials": (one._history, "refresh"),
        "claims": (one._claims, "refresh"),
        "drivers": (one, "_drivers"),
    }[read]
    real = getattr(place, name)

    def meanwhile(*args: Any, **options: Any) -> Any:
        if not came:
            came.append(begin(two))
        return real(*args, **options)

    with one:
        begin(one)
        monkeypatch.setattr(place, name, meanwhile)
        assert begin(one).number != came[0].number
        assert one.counts().running == 3
        run_trial(two, came[0])
        two.leave()


def test_the_lease_is_renewed_by_itself(file_url: str) -> None:
    """By the thread, on the real clock: six times per lease."""
    with open_study(file_url, make_config(), lease_seconds=0.12) as store:
        first = store.drivers()[store.driver]["beat"]
        wait_for(lambda: store.drivers().get(store.driver, {"beat": 0})["beat"] > first + 2)


def test_a_released_trial_is_adopted_by_another_driver_at_once(file_url: str) -> None:
    config = make_config(study={"trials": 1})
    with open_study(file_url, config) as one, open_study(file_url, config) as two:
        ticket = one.next_trial()
        assert ticket is not None
        assert two.next_trial() is None
        one.release(ticket.number)
        assert (one.counts().running, one.counts().waiting) == (0, 1)
        adopted = two.next_trial()
        assert adopted is not None
        assert adopted.params == ticket.params
        assert (one.counts().running, one.counts().waiting) == (1, 0)
        with pytest.raises(LeaseLost):
            one.report(ticket.number, Report(10, {"eval/nll": 1.0}))


def test_a_trial_that_got_lost_on_the_way_to_its_driver_is_handed_out_again(file_url: str) -> None:
    """The answer to the last write of a new trial is lost: it is this driver's, but the driver does not know."""
    with open_study(file_url, make_config()) as store:
        lost = store._asker.new()
        assert lost is not None
        ticket = store.next_trial()
        assert ticket is not None
        assert (ticket.number, ticket.params) == (0, lost.params)


def test_joining_and_leaving_twice_is_harmless(file_url: str) -> None:
    store = open_study(file_url, make_config())
    assert store.join() is store.join()
    assert list(store.drivers()) == [store.driver]
    store.leave()
    store.leave()
    assert store.drivers() == {}
    assert attach(file_url, "s").drivers() == {}


def test_an_error_is_not_hidden_by_the_store_s_own(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_study(file_url, make_config())

    def unavailable() -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store, "leave", unavailable)
    with pytest.raises(ZeroDivisionError), store:
        raise ZeroDivisionError
    with pytest.raises(StoreUnavailable), store:
        pass


def test_the_lease_survives_an_outage(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_study(file_url, make_config(), lease_seconds=0.12)
    tries = threading.Semaphore(0)
    down = threading.Event()
    real = store._lease._renew

    def renew() -> None:
        tries.release()
        if down.is_set():
            raise StoreUnavailable("gone")
        real()

    monkeypatch.setattr(store._lease, "_renew", renew)
    with store:
        down.set()
        for _ in range(3):
            assert tries.acquire(timeout=600)
        down.clear()
        beat = store.drivers()[store.driver]["beat"]
        for _ in range(3):
            assert tries.acquire(timeout=600)
        assert store.drivers()[store.driver]["beat"] > beat


def test_a_killed_driver_s_trials_are_adopted_at_once(url: str) -> None:
    config = make_config(study={"trials": 8, "pruner": "none"}, train={"max_steps": 400})
    store = open_study(url, config)
    driver = Driver(url, config, step_seconds=3600)
    wait_for(lambda: [trial for trial in store.trials() if steps_of(trial)])
    driver.kill()
    assert views.status(attach(url, "s"))["state"] == "interrupted"
    with store:
        adopted = store.next_trial()
        fresh = store.next_trial()
    assert adopted is not None
    assert fresh is not None
    assert (adopted.number, adopted.adopted, adopted.checkpoint) == (0, True, "checkpoint-10")
    assert (fresh.number, fresh.adopted) == (1, False)


@pytest.mark.parametrize("shift", [-3600.0, -300.0, 300.0, 3600.0])
def test_a_clock_that_is_shifted_never_makes_a_live_driver_look_dead(
    file_url: str, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to who looks, nor to who deletes or copies; here, and from another machine."""
    real = leases.time.time
    with open_study(file_url, make_config(), lease_seconds=1.5) as store:
        monkeypatch.setattr(leases.time, "time", lambda: real() + shift)
        store._lease._renew()
        monkeypatch.setattr(leases.time, "time", real)
        for elsewhere in (False, True):
            monkeypatch.setattr(leases, "driver_elsewhere", lambda record, there=elsewhere: there)
            monkeypatch.setattr(ownership, "driver_elsewhere", lambda record, there=elsewhere: there)
            seen = views.status(attach(file_url, "s"))
            assert seen["state"] == "running"
            assert [each["pid"] for each in seen["drivers"]] == [os.getpid()]
            with pytest.raises(StoreError, match="cannot be deleted while drivers work on it"):
                delete_study(file_url, "s")
            with pytest.raises(StoreError, match="cannot be copied while drivers work on it"):
                copy_study(file_url, file_url.replace("store.db", "other.db"), "s")
        monkeypatch.setattr(leases, "driver_elsewhere", lambda record: False)
    assert views.status(attach(file_url, "s"))["state"] == "interrupted"


def test_a_driver_elsewhere_that_died_is_watched_for_its_lease_and_then_counts_as_dead(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKRAY_LEASE_SECONDS", "0.3")
    store = open_study(file_url, make_config(), lease_seconds=0.3).join()
    store._lease._record |= ELSEWHERE
    monkeypatch.setattr(leases.time, "time", lambda: 0.0)
    store._lease._renew()
    store._lease._stop.set()
    monkeypatch.undo()
    monkeypatch.setenv("RANKRAY_LEASE_SECONDS", "0.3")
    assert views.status(attach(file_url, "s"))["state"] == "running", "one look says nothing about another machine"
    said: list[str] = []
    delete_study(file_url, "s", said.append)
    assert said == ["study s: watching its driver on far-away for up to 0 s: is it alive?"]
    assert list_studies(file_url) == []


def test_a_live_driver_removes_one_that_was_silent_for_its_lease(file_url: str) -> None:
    config = make_config()
    silent = open_study(file_url, config, lease_seconds=60).join()
    silent._lease._record |= ELSEWHERE
    silent._lease._renew()
    silent._lease._stop.set()
    store = open_study(file_url, config, lease_seconds=60)
    clock = observed_by(store)
    with store:
        for _ in range(3):
            clock.now += 19
            store._lease._renew()
        assert silent.driver in store._drivers()
        assert store._drivers()[silent.driver] is not None
        clock.now += 19
        store._lease._renew()
        assert store._drivers()[silent.driver] is None


def test_a_driver_whose_study_is_deleted_says_so(url: str) -> None:
    store = open_study(url, make_config(), lease_seconds=0.12).join()
    ticket = begin(store)
    other = connect(url)
    for name in ("s", "s/claims"):
        other.delete_study(other.get_study_id_from_name(name))
    wait_for(lambda: store.lost)
    assert "run the same command again" in store.lost
    report = Report(10, {"eval/nll": 1.0})
    for use in (store.next_trial, lambda: store.report(ticket.number, report), store.join, store.leave):
        with pytest.raises(StudyGone, match="the study was deleted while it was worked on"):
            use()


def test_a_lease_thread_that_breaks_is_noticed(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not start again: what broke once may have left trials to others."""
    store = open_study(file_url, make_config(), lease_seconds=0.12)
    with store:
        ticket = begin(store)
        assert store._lease.held
        assert not store.lost

        def broken() -> None:
            raise MemoryError("no room\nfor anything")

        monkeypatch.setattr(store._lease, "_renew", broken)
        wait_for(lambda: store.lost)
        assert "cannot be renewed any more (MemoryError: no room), and others will" in store.lost
        assert not store._lease.held
        with pytest.raises(LeaseFailed, match="run the same command again"):
            store.next_trial()
    assert stored(store, ticket.number).state.name == "WAITING", "what it had is given back all the same"


class Slow:
    """A storage of one study's attributes, in which the lease's own thread waits before it writes."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}
        self.waits, self.may_write = threading.Event(), threading.Event()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        if threading.current_thread().name == "rankray-lease":
            self.renewing = threading.current_thread()
            self.waits.set()
            self.may_write.wait(60)
        self.attributes[key] = value

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self.attributes)

    def remove_session(self) -> None:
        """As a storage does."""


def test_a_driver_that_leaves_while_its_lease_is_renewed_has_left() -> None:
    """A renewal that is under way would register it again, and others would wait for it for a whole lease."""
    storage: Any = Slow()
    lease = leases.Lease(storage, 0, "d", Watch(0.05))
    lease.hold()
    assert storage.waits.wait(60)
    leaving = threading.Thread(target=lease.drop)
    leaving.start()
    leaving.join(0.2)  # long enough to leave at once, if it does not wait for the renewal
    storage.may_write.set()
    leaving.join(60)
    storage.renewing.join(60)
    assert leases.driver_records(storage.attributes) == {"d": None}
    assert not lease.held
    assert not lease.begun
