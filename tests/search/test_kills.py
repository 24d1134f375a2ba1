"""Whole: killed at any moment, the same command resumes: nothing finished is lost, run twice or left RUNNING."""

import random
import signal
import time
from pathlib import Path

import pytest
from cli.test_tracking import tensorboard
from fixtures.searches import AT_ONCE, kill
from fixtures.waiting import until

SLOW = ("--set", "evaluate.functions=[pause:briefly]")
ONE = ("--set", "study.trials=1")


def test_a_killed_trial_ends_as_if_never_killed_also_after_its_last_checkpoint_was_damaged(place, gate):
    """Killed between two checkpoints, resumed, killed again; then a bit of the last checkpoint flips."""
    gated = (*ONE, "--name", "cut", "--set", "logging=[tensorboard]", *gate.words)
    process = place.begin(*gated)
    until(lambda: gate.node(1), process, log=place.log)
    gate.let_pass(1)
    until(lambda: gate.node(2), process, log=place.log)
    assert list(place.recorded("cut")) == [(0, 2)], "the kill comes between two checkpoints"
    assert kill(process) == -signal.SIGKILL
    process = place.begin(*gated)
    until(lambda: gate.node(3), process, log=place.log)
    gate.let_pass(3)
    until(lambda: gate.node(4), process, log=place.log)
    assert "trial 0 started (resumes from step 2)" in place.log.read_text()
    assert kill(process) == -signal.SIGKILL
    gate.open()
    whole = place.undisturbed("cut")
    assert place.recorded("cut") == {key: whole[key] for key in ((0, 2), (0, 4))}, "equal, not close"
    damaged = Path(place.trials("cut")[0]["checkpoint"])
    file = damaged / "optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = place.search(*gated)
    assert f"its checkpoint {damaged} is damaged (optimizer.pt is not as it was written); the one before" in done.stdout
    assert place.recorded("cut") == whole, "equal, not close"
    [trial] = place.trials("cut").values()
    assert [each["checkpoint"] for each in trial["damaged"]] == [str(damaged)]
    assert place.status("cut")["best"]["value"] == whole[0, 6]["eval/nll"]
    assert place.status("cut")["trials"] == {"complete": 1, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    curve = [(step, pytest.approx(metrics["eval/nll"])) for (_, step), metrics in whole.items()]
    assert tensorboard(place.file.parent / "runs", "cut") == {"trial-0000": curve}, "one run, each step once"


def test_kills_at_random_moments_lose_nothing(place, seed):
    draw = random.Random(seed)
    seen = {}
    for _ in range(2):
        process = place.begin(*SLOW, *AT_ONCE)
        until(lambda: bool(place.recorded()), process, log=place.log)
        time.sleep(draw.uniform(0.0, 3.0))
        if process.poll() is None:
            kill(process)
        now = place.recorded()
        assert {key: now[key] for key in seen} == seen
        seen = now
    place.search(*SLOW, *AT_ONCE)
    now, status = place.recorded(), place.status()
    assert {key: now[key] for key in seen} == seen
    assert status["budget"] == {"trials": 4, "finished": 4}
    assert status["trials"]["running"] == status["trials"]["waiting"] == status["trials"]["failed"] == 0


def test_a_signal_that_ends_ray_too_leaves_nothing_running(place):
    """SIGTERM to all ends the raylet as well, so Tune cannot end its trials: the search gives up after its grace."""
    first = "from rankray.search import experiment; experiment.GRACE_SECONDS = 3.0; experiment.SAVE_SECONDS[15] = 0.5"
    process = place.begin(*SLOW, first=first)
    until(lambda: bool(place.recorded()), process, log=place.log)
    assert kill(process, signal.SIGTERM) == 130, place.log.read_text()
    trials = place.status()["trials"]
    assert trials["running"] == 0
    assert trials["failed"] == 0
    assert "run the same command again" in place.log.read_text()


def test_a_signal_while_ray_starts_is_an_interruption_as_any_other(place):
    """While it starts, Ray has handlers of its own for SIGTERM, which end the process with 1 or 15.

    They raise `SystemExit` wherever the main thread happens to be. Where that is a callback whose exceptions Python
    ignores, it prints them, and the search ends as one that runs does.
    """
    process = place.begin(*SLOW)
    until(lambda: "starting Ray" in place.log.read_text(), process, log=place.log)
    time.sleep(1.5)
    process.terminate()
    assert process.wait(60) == 130, place.log.read_text()
    assert "run the same command again" in place.log.read_text()


def test_an_interruption_saves_a_checkpoint_and_leaves(place):
    """The trial is far from its only evaluation, so what it resumes from can only be what it saved then."""
    long = ("--set", "train.max_steps=100000", "--set", "evaluate.every_steps=100000", *ONE)
    process = place.begin(*long)
    until(lambda: begun(place), process, log=place.log)
    assert kill(process, signal.SIGINT) == 130, place.log.read_text()
    [trial] = place.trials().values()
    assert (trial["state"], trial["failures"]) == ("waiting", [])
    [(_, step)] = place.recorded()
    assert Path(trial["checkpoint"]).name == f"step-{step:06d}"
    assert [each["preempted"] for each in trial["work_lost"]] == [True]
    text = place.log.read_text()
    assert "each running trial saves a checkpoint after its present step, for at most 60 s" in text
    assert f"its search was interrupted; it resumes from step {step}" in text
    assert "run the same command again" in text
    assert "Error" not in text
    assert "Traceback" not in text


def begun(place):
    """Whether a trial is training: the untrained model was evaluated."""
    from rankray.errors import StoreError
    from rankray.store import attach

    try:
        return bool(attach(place.store, "tiny").untrained)
    except StoreError:
        return False
