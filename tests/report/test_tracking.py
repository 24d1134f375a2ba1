"""What trackers are told, in which order, and what a failing one does: nothing to the search."""

import threading
from typing import get_args

import pytest

from rankray.config.schema import Config
from rankray.contracts import Report
from rankray.errors import ConfigError
from rankray.report import tracking
from rankray.report.trackers import LIBRARIES, TRACKERS
from rankray.report.tracking import TrackerThread, TrackingObserver, check


class Notes:
    """A tracker that notes what it is told, and may break."""

    def __init__(self, breaks_at=None):
        self.told, self._breaks_at = [], breaks_at

    def _note(self, *what):
        if len(self.told) == self._breaks_at:
            raise ConnectionError("the server is gone\nsecond line")
        self.told.append(what)

    def begin(self, run):
        self._note("begin", run.id, run.name, run.step)

    def log(self, run, step, metrics):
        self._note("log", run.number, step, dict(metrics))

    def end(self, run, state, reason):
        self._note("end", run.number, state, reason)


def observer(notes, said=None):
    said = [] if said is None else said
    return TrackingObserver("s", "abcdefghij", [TrackerThread("notes", lambda: notes, said.append)])


def test_a_trial_is_one_run_with_its_curve_and_its_end():
    notes = Notes()
    watched = observer(notes)
    watched.phase("starting Ray")
    watched.started(3, {"loss.form": "exact"}, "sampler", 0)
    watched.reported(3, Report(10, {"eval/nll": 2.0, "train/loss": float("nan")}))
    watched.ended(3, "pruned", 2.0, "behind")
    watched.close()
    assert notes.told == [
        ("begin", "s-abcdefgh-3", "trial-0003", 0),
        ("log", 3, 10, {"eval/nll": 2.0}),
        ("end", 3, "pruned", "behind"),
    ]


def test_a_resumed_trial_continues_its_run_and_writes_no_step_twice():
    notes = Notes()
    for step in (0, 10):
        watched = observer(notes)
        watched.started(0, {}, "sampler", step)
        watched.reported(0, Report(10, {"m": 1.0}))
        watched.reported(0, Report(step + 10, {"m": 2.0}))
        watched.close()
    assert [each[1] for each in notes.told if each[0] == "begin"] == ["s-abcdefgh-0"] * 2
    assert [each[2] for each in notes.told if each[0] == "log"] == [10, 20]
    assert notes.told[-1] == ("end", 0, "lost", "its driver left")


def test_a_tracker_that_fails_is_reported_once_and_left_alone():
    notes, said = Notes(breaks_at=1), []
    watched = observer(notes, said)
    watched.started(0, {}, "sampler", 0)
    for step in (1, 2, 3):
        watched.reported(0, Report(step, {"m": 1.0}))
    watched.close()
    assert said == ["notes: no longer logged: the server is gone; the search continues, the store has all of it"]
    assert len(notes.told) == 1


def test_a_slow_tracker_does_not_make_the_driver_wait():
    released, notes = threading.Event(), Notes()

    def make():
        assert released.wait(60)
        return notes

    said = []
    thread = TrackerThread("slow", make, said.append)
    watched = TrackingObserver("s", "id", [thread])
    watched.started(0, {}, "sampler", 0)
    watched.reported(0, Report(1, {"m": 1.0}))
    assert notes.told == []
    thread.close(seconds=0.01)
    assert said == ["slow: not everything was written within 0 s; the store has all of it"]
    released.set()


def test_the_names_of_a_configuration_are_the_trackers():
    [name] = get_args(Config.model_fields["logging"].annotation)
    assert set(get_args(name)) == set(TRACKERS) == set(LIBRARIES)


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    check(["mlflow", "tensorboard"], "f.yaml:3")
    with pytest.raises(ConfigError, match=r"f.yaml:3: logging: wandb needs the package wandb.*'rankray\[wandb\]'"):
        check(["mlflow", "wandb"], "f.yaml:3")
