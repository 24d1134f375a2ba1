"""The actor, in this process: a report is a step's result, the next step or a reset is its verdict."""

import json
import logging
import os
import signal
import threading
import time

import pytest

from rankray.contracts import Outcome, Report, TrialSpec
from rankray.search.actor import EVENT, SEARCH_ENDS, ProcessBroken, TrialActor
from rankray.search.events import BEAT


def config(number=0, stops=None, **settings):
    spec = TrialSpec(config=settings, directory="/nowhere", number=number)
    stops = json.dumps(stops or {})
    return {"number": number, "spec": spec.to_json(), "stops": stops, "silence_seconds": 3600.0}


def heard(actor):
    """Return the next event that is no beat."""
    while BEAT in (event := json.loads(actor.step()[EVENT])):
        assert event[BEAT]["pid"] == os.getpid()
    return event


@pytest.fixture
def actor(monkeypatch):
    """An actor whose training reports three steps, or raises, as its configuration says."""
    stopped = []

    def run(spec, reporter):
        if "error" in spec.config:
            raise ValueError(spec.config["error"])
        for step in (1, 2, 3):
            verdict = reporter.report(Report(step, {"eval/nll": float("nan") if step == 3 else 1.0}, f"at-{step}"))
            if verdict.stop:
                stopped.append((step, verdict.reason, reporter.report(Report(step + 1, {})).reason))
                return Outcome({}, step, stopped=verdict.reason)
        return Outcome({"eval/nll": 1.0}, 3)

    import rankray.finetune

    monkeypatch.setattr(rankray.finetune, "run", run, raising=False)
    actor = TrialActor(config())
    actor.stopped = stopped
    yield actor
    actor.stop()


def test_reports_then_the_outcome(actor):
    told = {"step": 1, "metrics": {"eval/nll": 1.0}, "checkpoint": "at-1", "spread": None, "node": ""}
    assert heard(actor) == {"report": told}
    assert heard(actor)["report"]["step"] == 2
    assert heard(actor)["report"]["metrics"]["eval/nll"] != 1.0
    assert heard(actor)["outcome"]["steps"] == 3


def test_the_first_report_of_each_trial_says_where_it_is_trained(actor, monkeypatch):
    monkeypatch.setattr("rankray.search.actor._Trainer.node", lambda self: "10.0.0.1 (abcdef01)")
    assert [heard(actor)["report"]["node"] for _ in range(2)] == ["10.0.0.1 (abcdef01)", ""]
    actor.reset_config(config(7))
    assert [heard(actor)["report"]["node"] for _ in range(2)] == ["10.0.0.1 (abcdef01)", ""]


def test_training_waits_for_the_verdict(actor, caplog):
    """It is stopped at the rung, for the reason that the store has, and every later report is answered alike."""
    heard(actor)
    reason = "0.297 at step 1 is below the cut-off 0.34"
    with caplog.at_level(logging.DEBUG, logger="rankray"):
        assert actor.reset_config(config(7, {"0": reason, "5": "another trial's"})) is True
    assert actor.stopped == [(1, reason, reason)]
    assert f"trial 0 stopped at step 1: {reason}" in caplog.text
    assert heard(actor)["report"]["step"] == 1
    assert actor.reset_config(config(8)) is True
    assert actor.stopped[1:] == [(1, SEARCH_ENDS, SEARCH_ENDS)], "nobody stopped trial 7"


def test_an_actor_whose_trial_is_trained_elsewhere_trains_nothing(monkeypatch):
    """Tune starts an actor for a trial, gives the trial to another one that has become free, and never asks for a step.

    Until it ended it trained the trial a second time, into the same directory, and wrote a checkpoint there.
    """
    import rankray.finetune

    begun = []
    monkeypatch.setattr(rankray.finetune, "run", lambda spec, reporter: begun.append(spec.number), raising=False)
    actor = TrialActor(config(3))
    time.sleep(0.5)
    actor.stop()
    assert not begun


def test_a_trial_that_is_taken_and_not_begun_gives_way_to_the_next(actor):
    assert actor.reset_config(config(7)) is True
    assert actor.reset_config(config(8)) is True
    assert heard(actor)["report"]["step"] == 1
    actor.reset_config(config(9))
    assert actor.stopped == [(1, SEARCH_ENDS, SEARCH_ENDS)], "trial 8 alone was trained"


def test_an_exception_is_reported_and_the_process_is_used_again(actor):
    heard(actor)
    assert actor.reset_config(config(error="boom")) is True
    told = heard(actor)["failure"]
    assert told["reason"] == "ValueError: boom"
    assert "Traceback" in told["traceback"]
    assert actor.reset_config(config()) is True
    assert heard(actor)["report"]["step"] == 1


@pytest.mark.parametrize(
    "error", ["CUDA error: an illegal memory access was encountered", "CUDA out of memory. Tried to allocate 2 GiB"]
)
def test_a_process_whose_accelerator_is_in_doubt_hands_the_next_trial_back_and_ends(actor, monkeypatch, error):
    heard(actor)
    actor.reset_config(config(error=error))
    assert heard(actor)["failure"]["reason"] == f"ValueError: {error}"
    assert actor.reset_config(config(8)) is True
    assert_hands_back_and_ends(actor, monkeypatch, "left its accelerator broken")


def assert_hands_back_and_ends(actor, monkeypatch, why):
    lost = heard(actor)["lost"]
    assert why in lost["reason"]
    assert (lost["blameless"], lost["ends"]) == (True, True)
    with pytest.raises(ProcessBroken, match=why):
        actor.step()
    killed = []
    monkeypatch.setattr("os.kill", lambda pid, number: killed.append((pid, number)))
    monkeypatch.setattr("rankray.search.actor.CLOSE_SECONDS", 0.1)  # whoever hangs does not end by itself
    actor.stop()
    assert killed == [(os.getpid(), signal.SIGKILL)]


def test_a_line_for_people_is_a_sign_of_life(monkeypatch):
    """So a trial that waits for its storage does not count as one that hangs."""
    import rankray.search.actor as module

    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    rendezvous = module._Rendezvous(lambda: "")
    now[0] += 50.0
    rendezvous.note("storage: s3://bucket fails; tried again")
    assert rendezvous.heard_at == now[0]


def test_a_trial_that_hangs_fails_and_its_process_ends(actor, monkeypatch):
    """Steps are a sign of life; without any the limit counts from the last one."""
    beats, hold = threading.Event(), threading.Event()

    def hang(spec, reporter):
        for step in range(5):
            reporter.progress(step, {})
        beats.set()
        hold.wait()

    import rankray.finetune

    heard(actor)
    monkeypatch.setattr(rankray.finetune, "run", hang)
    actor.reset_config(config(3, study={"trial_timeout": 0.05}))
    assert BEAT in json.loads(actor.step()[EVENT]), "it begins"
    assert beats.wait(60)
    failure = heard(actor)["failure"]
    assert failure["reason"] == "TimeoutError: no step and no report for 0.05 s (study.trial_timeout)"
    assert "in hang" in failure["traceback"], "it says where the trial hangs"
    assert actor.reset_config(config(8)) is True
    assert_hands_back_and_ends(actor, monkeypatch, "trial 3 hangs")
    hold.set()


def test_a_process_says_that_it_answers_while_its_trial_computes(actor, monkeypatch):
    hold = threading.Event()
    import rankray.finetune

    heard(actor)
    monkeypatch.setattr(rankray.finetune, "run", lambda spec, reporter: hold.wait() and Outcome({}, 1))
    actor._silence_seconds = 0.04
    actor.reset_config(config(3))
    beats = [json.loads(actor.step()[EVENT]) for _ in range(3)]
    assert [each[BEAT]["pid"] for each in beats] == [os.getpid()] * 3
    hold.set()
    assert heard(actor)["outcome"]["steps"] == 1


def test_nothing_carries_tunes_done(actor):
    """A result with `done` would pass the scheduler by (docs/traps.md)."""
    results = [actor.step() for _ in range(4)]
    assert all("done" not in result for result in results)


def test_the_process_logs_as_its_environment_says(actor, monkeypatch):
    """RANKRAY_LOG reaches the processes that train."""
    configured = []
    monkeypatch.setattr("rankray.logs.configure", lambda: configured.append(True))
    other = TrialActor(config())
    other.stop()
    assert configured == [True]
