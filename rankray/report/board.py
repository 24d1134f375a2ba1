"""The state of a running search, for the views that show it.

`Board` is an `Observer`: the driver tells it what happens, and the views read it. It includes the trials that the study
held before this launch, so progress is that of the study; the estimate of the time left is from this launch alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rankray.contracts import Report


@dataclass
class Running:
    """A running trial."""

    params: dict[str, Any]
    origin: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)


class Board:
    """The state of one launch.

    Args:
        name: the study's name.
        metric: the metric that trials are compared by.
        maximize: whether larger is better.
        budget: how many finished trials complete the study.
        max_steps: steps of a whole trial.
        finished: trials that were finished before this launch.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        metric: str,
        *,
        maximize: bool,
        budget: int,
        max_steps: int,
        finished: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.metric, self.maximize = name, metric, maximize
        self.budget, self.max_steps, self.finished = budget, max_steps, finished
        self.counts = {"complete": 0, "pruned": 0, "failed": 0}
        self.running: dict[int, Running] = {}
        self.best: tuple[int, float, dict[str, Any]] | None = None
        self.untrained: float | None = None
        self.doing = ""
        self.last = ""
        self._clock = clock
        self._first_start: float | None = None
        self._before = finished

    def phase(self, text: str) -> None:
        """Note what the search is busy with."""
        self.doing = text

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Note a trial that was placed."""
        self.doing = ""
        self._first_start = self._first_start if self._first_start is not None else self._clock()
        self.running[number] = Running(dict(params), origin, step, since=self._clock())

    def reported(self, number: int, report: Report) -> None:
        """Note a report; step 0 is the untrained model's."""
        if report.step == 0:
            self.untrained = report.metrics.get(self.metric)
            return
        if number in self.running:
            self.running[number].step = report.step
            self.running[number].metrics = dict(report.metrics)

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Note the end of a trial."""
        trial = self.running.pop(number, None)
        if state in self.counts:
            self.counts[state] += 1
        if state in ("complete", "pruned"):
            self.finished += 1
        if state == "complete" and value is not None:
            better = self.best is None or (value > self.best[1] if self.maximize else value < self.best[1])
            if better:
                self.best = (number, value, trial.params if trial else {})
        self.last = f"trial {number} {state}" + (f": {reason}" if reason else "")

    def age(self, trial: Running) -> float:
        """Return how many seconds a trial has been running in this launch."""
        return self._clock() - trial.since

    def seconds_left(self) -> float | None:
        """Estimate the seconds to the end from the pace of this launch; None before its first trial has finished."""
        done = self.finished - self._before
        if not done or self._first_start is None:
            return None
        return (self._clock() - self._first_start) / done * max(0, self.budget - self.finished)


def short_params(params: Mapping[str, Any]) -> str:
    """Return parameters on one line: the last part of each path, and numbers with three significant digits."""
    return " ".join(f"{path.split('.')[-1]}={short_value(value)}" for path, value in params.items())


def short_value(value: Any) -> str:
    """Return a value as text; a float has three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float | None) -> str:
    """Return seconds as `1:02:03` or `2:03`, or `--:--` where unknown."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
