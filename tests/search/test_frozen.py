"""Whole: a process that is frozen holds its slot for a while, not for ever, and its trial is not to blame."""

import os
import signal

import psutil
from fixtures.waiting import ended, until

SILENCE_SECONDS = "10"


def trial_processes(driver):
    """Return the processes of a search that train its trials."""
    found = psutil.Process(driver.pid).children(recursive=True)
    return [each for each in found if "Trainable" in " ".join(each.cmdline())]


def test_the_trial_of_a_frozen_process_is_resumed_in_another_one(place, gate, monkeypatch):
    environment = place.environment()
    monkeypatch.setattr(
        type(place), "environment", lambda self: environment | {"RANKRAY_SILENCE_SECONDS": SILENCE_SECONDS}
    )
    process = place.begin("--set", "study.trials=1", *gate.words)
    until(lambda: gate.node(1), process, log=place.log)
    gate.let_pass(1)
    until(lambda: gate.node(2), process, log=place.log)
    [frozen] = trial_processes(process)
    os.kill(frozen.pid, signal.SIGSTOP)
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    assert not frozen.is_running()
    [trial] = place.trials().values()
    assert (trial["state"], trial["attempts"]) == ("complete", 1)
    [lost] = [each for each in trial["work_lost"] if "did not answer for 10 s" in each["reason"]]
    assert lost["steps"] == 0, "step 2 had a checkpoint"
    assert "trial 0 started (resumes from step 2)" in place.log.read_text()
