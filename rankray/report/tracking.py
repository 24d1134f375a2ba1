"""Runs in W&B, MLflow, TensorBoard and trackio: one per trial, written by each tracker's own library.

A trial's run has an id that follows from the study and the trial's number. So a trial that is resumed, here or by
another driver after a kill, continues its run. The store stays the truth: a tracker that fails is reported once, left
alone, and never stops a search.

A tracker is a class with three methods, see `Tracker`. Its library may wait for a network, and a search must not. So
each tracker has a thread of its own, which takes what happens in order.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rankray.contracts import Report
from rankray.errors import ConfigError, first_line

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0
"""How long the end of a search waits for trackers that are behind."""


@dataclass(frozen=True)
class Run:
    """What a tracker is told about a trial that starts or is resumed.

    Attributes:
        study: the study's name, which groups the runs.
        id: the same for the same trial of the same study, and for no other.
        name: what people see.
        number: the trial's number.
        params: its parameters, dotted path to value.
        origin: who proposed it.
        step: the last step that is known already; 0 for a new trial.
        history: what was reported up to it, as (step, metrics), where that is known. A process that is killed may take
            reports with it that a tracker's library had not written yet.
    """

    study: str
    id: str
    name: str
    number: int
    params: dict[str, Any]
    origin: str
    step: int
    history: tuple[tuple[int, dict[str, float]], ...] = ()


class Tracker(Protocol):
    """Writes runs with one library. All methods are called from one thread."""

    def begin(self, run: Run) -> None:
        """Start a run, or continue the one of this id, with what it lacks of the run's history."""
        ...

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write what was reported at a step; only finite numbers. A step that is there already is not written again."""
        ...

    def end(self, run: Run, state: str, reason: str) -> None:
        """End a run as `complete`, `pruned` or `failed`; or leave it open, `lost`, because it will be continued."""
        ...


def check(names: Sequence[str], place: str) -> None:
    """Refuse trackers whose library is not installed.

    Raises:
        ConfigError: names the first one, and what to install.
    """
    from rankray.report.trackers import LIBRARIES

    for name in names:
        if importlib.util.find_spec(LIBRARIES[name]) is None:
            raise ConfigError(
                f"{place}: logging: {name} needs the package {LIBRARIES[name]}, which is not installed; pip install "
                f"'rankray[{name}]', or leave {name} out"
            )


def make_trackers(names: Sequence[str], directory: Path, say: Callable[[str], None]) -> list[TrackerThread]:
    """Return an observer's part per tracker.

    Args:
        names: keys of `rankray.report.trackers.TRACKERS`.
        directory: where trackers that write files write them, unless their own settings say otherwise.
        say: told, once per tracker, that it failed.
    """
    from rankray.report.trackers import TRACKERS

    return [TrackerThread(name, partial(TRACKERS[name], directory), say) for name in dict.fromkeys(names)]


class TrackingObserver:
    """An observer that passes trials on to trackers.

    Args:
        study: the study's name.
        identity: its id, which distinguishes it from others of its name.
        trackers: from `make_trackers`.
        names: trial number -> the name of its run.
        history: trial number -> what it has reported so far.
    """

    def __init__(
        self,
        study: str,
        identity: str,
        trackers: Sequence[TrackerThread],
        names: Callable[[int], str] = "trial-{:04d}".format,
        history: Callable[[int], Sequence[Report]] = lambda number: (),
    ) -> None:
        self._study, self._identity, self._trackers = study, identity, list(trackers)
        self._names, self._history = names, history
        self._runs: dict[int, Run] = {}
        self._last: dict[int, int] = {}

    def phase(self, text: str) -> None:
        """Nothing: a phase belongs to no trial."""

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Begin or continue the trial's run."""
        known = f"{self._study}-{self._identity[:8]}-{number}"
        history = tuple((each.step, _finite(each)) for each in self._history(number)) if step else ()
        run = Run(self._study, known, self._names(number), number, dict(params), origin, step, history)
        self._runs[number], self._last[number] = run, step
        self._all(lambda tracker: tracker.begin(run))

    def reported(self, number: int, report: Report) -> None:
        """Write a report, once per step: a trial that is resumed reports the step of its checkpoint again."""
        run = self._runs.get(number)
        if run is None or report.step <= self._last[number]:
            return
        self._last[number] = report.step
        metrics = _finite(report)
        self._all(lambda tracker: tracker.log(run, report.step, metrics))

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """End the trial's run, or leave it open where the trial will be resumed."""
        run = self._runs.pop(number, None)
        if run is not None:
            self._all(lambda tracker: tracker.end(run, state, reason))

    def close(self) -> None:
        """Leave open what still runs, and wait until the trackers have written everything, for a while."""
        for number in list(self._runs):
            self.ended(number, "lost", None, "its driver left")
        for each in self._trackers:
            each.close()

    def _all(self, act: Callable[[Tracker], None]) -> None:
        for each in self._trackers:
            each.put(act)


def _finite(report: Report) -> dict[str, float]:
    return {name: float(value) for name, value in report.metrics.items() if math.isfinite(value)}


class TrackerThread:
    """One tracker and the thread that its library works in.

    Args:
        name: for people.
        make: makes the tracker, in the thread, when the first trial starts.
        say: told that the tracker failed.
    """

    def __init__(self, name: str, make: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self._name, self._make, self._say = name, make, say
        self._queue: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"rankray-{name}", daemon=True)
        self._thread.start()

    def put(self, act: Callable[[Tracker], None]) -> None:
        """Have something done, after all that was put before; returns at once."""
        self._queue.put(act)

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until everything is done, but not for ever."""
        self._queue.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"{self._name}: not everything was written within {seconds:.0f} s; the store has all of it")

    def _work(self) -> None:
        tracker: Tracker | None = None
        while (act := self._queue.get()) is not None:
            try:
                tracker = tracker or self._make()
                act(tracker)
            except Exception as error:
                logger.debug("%s failed and is left alone", self._name, exc_info=True)
                first = first_line(error)
                self._say(f"{self._name}: no longer logged: {first}; the search continues, the store has all of it")
                return
