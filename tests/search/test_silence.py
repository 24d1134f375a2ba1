"""Which processes are ended because they do not answer."""

import pytest

from rankray.errors import ConfigError
from rankray.search.silence import BETWEEN_SECONDS, ProcessWatch, silence_seconds_default

LIMIT = 40.0


class World:
    """A watch, a clock that is moved by hand, and the processes that were ended."""

    def __init__(self):
        self.now, self.ended = 0.0, []
        self.watch = ProcessWatch(LIMIT, self.ended.append, lambda: self.now)

    def wait(self, seconds, live, heard=()):
        """Let Tune's loop turn for some seconds, while some trials are heard of."""
        for _ in range(round(seconds)):
            self.now += 1.0
            for trial in heard:
                self.watch.heard(trial)
            self.watch.look(live)


@pytest.fixture
def world():
    return World()


def process(pid):
    return {"pid": pid, "start": "1", "node": "n"}


def test_a_process_that_trains_and_is_silent_for_the_limit_is_ended(world):
    world.watch.heard("a", process(1))
    world.watch.heard("b", process(2))
    world.wait(LIMIT - 2, ["a", "b"], heard=["b"])
    assert world.ended == []
    world.wait(4, ["a", "b"], heard=["b"])
    assert world.ended == [process(1)]
    assert world.watch.was_ended("a")
    assert not world.watch.was_ended("b")


def test_a_process_that_could_not_be_ended_is_tried_again(world):
    world.watch.heard("a", process(1))
    world.wait(3 * LIMIT, ["a"])
    assert 2 <= len(world.ended) <= 3


def test_a_driver_that_does_not_listen_blames_nobody(world):
    """It waited for the store for an hour, as for one that is frozen; the beats are in its queue."""
    world.watch.heard("a", process(1))
    world.watch.look(["a"])
    world.now += 3600.0
    world.watch.look(["a"])
    world.watch.heard("a")
    world.wait(LIMIT - 2, ["a"])
    assert world.ended == []


def test_a_trial_that_waits_for_a_place_has_no_process_to_end(world):
    world.wait(10 * (LIMIT + BETWEEN_SECONDS), ["waits"])
    assert world.ended == []
    assert not world.watch.was_ended("waits")


def test_a_process_that_froze_between_two_trials_is_ended(world):
    world.watch.heard("a", process(1))
    world.watch.heard("b", process(2))
    world.wait(LIMIT + BETWEEN_SECONDS - 5, ["b", "next"], heard=["b"])
    assert world.ended == []
    world.wait(10, ["b", "next"], heard=["b"])
    assert world.ended == [process(1)]
    assert world.watch.was_ended("next")


def test_a_process_that_has_another_trial_by_now_is_not_idle(world):
    world.watch.heard("a", process(1))
    world.watch.heard("b", process(1))
    world.wait(2 * (LIMIT + BETWEEN_SECONDS), ["b", "waits"], heard=["b"])
    assert world.ended == []


@pytest.mark.parametrize("given", ["0", "-1", "soon", "inf", "nan", ""])
def test_a_limit_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("RANKRAY_SILENCE_SECONDS", given)
    with pytest.raises(ConfigError, match="RANKRAY_SILENCE_SECONDS: got"):
        silence_seconds_default()
