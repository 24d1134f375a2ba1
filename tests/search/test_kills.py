"""Killed at any moment, the same command goes on: nothing finished lost, nothing run twice, nothing left RUNNING."""

import random
import signal
import time

import pytest
from fixtures.searches import kill, until

SLOW = ("--set", "evaluate.functions=[pause:briefly]")
ONE = ("--set", "study.trials=1", *SLOW)


def test_a_trial_killed_between_two_checkpoints_ends_as_if_never_killed(place):
    place.search("--name", "whole", *ONE)
    process = place.begin("--name", "cut", *ONE)
    until(lambda: (0, 2) in place.recorded("cut"), process)
    time.sleep(0.1)
    assert (0, 4) not in place.recorded("cut"), "the kill was to come between two checkpoints"
    assert kill(process) == -signal.SIGKILL
    done = place.search("--name", "cut", *ONE)
    assert "trial 0 started (resumes from step 2)" in done.stdout
    whole, cut = place.recorded("whole"), place.recorded("cut")
    assert whole == cut, "equal, not close"
    assert place.status("cut")["best"]["value"] == place.status("whole")["best"]["value"]
    assert place.status("cut")["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}


def test_kills_at_random_moments_lose_nothing(place):
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    seen = {}
    for _ in range(2):
        process = place.begin(*SLOW)
        until(lambda: bool(place.recorded()), process)
        time.sleep(draw.uniform(0.0, 4.0))
        if process.poll() is None:
            kill(process)
        now = place.recorded()
        assert {key: now[key] for key in seen} == seen, f"seed {seed}"
        seen = now
    place.search(*SLOW)
    now, status = place.recorded(), place.status()
    assert {key: now[key] for key in seen} == seen, f"seed {seed}"
    assert status["budget"] == {"trials": 4, "finished": 4}, f"seed {seed}"
    assert status["trials"]["running"] == status["trials"]["waiting"] == status["trials"]["failed"] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_well_and_leaves_nothing_running(place, number):
    process = place.begin(*SLOW)
    until(lambda: bool(place.recorded()), process)
    assert kill(process, number) == 130, (place.file.parent / "log.txt").read_text()
    trials = place.status()["trials"]
    assert trials["running"] == 0
    assert trials["failed"] == 0
    assert "run the same command again" in (place.file.parent / "log.txt").read_text()
