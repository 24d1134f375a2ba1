"""The state of a running search, for the views that show it.

`Board` is an `Observer`: the driver tells it what happens, and the views read it. It includes the trials that the study
held before this launch, so progress is that of the study; the estimate of the time left is from this launch alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rankray.contracts import Report
from rankray.errors import listed
from rankray.report.remaining import Lengths, steps_left

SURE = 3
"""Finished trials of a launch from which the time left is estimated: fewer say nothing about how long trials are."""
KEPT_EVENTS = 40
STEPS = "train.max_steps"
ALIKE = 5
"""Complete trials of the same value from which it is said that the metric does not tell settings apart."""


@dataclass
class Running:
    """A running trial; `full` are the steps of a whole one with its settings."""

    params: dict[str, Any]
    origin: str
    step: int
    full: int
    metrics: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)
    reported: float = field(default_factory=time.monotonic)


class Board:
    """The state of one launch.

    Args:
        name: the study's name.
        metric: the metric that trials are compared by.
        maximize: whether larger is better.
        budget: how many finished trials complete the study.
        max_steps: steps of a whole trial, where the space does not choose them.
        finished: trials that were finished before this launch.
        also: the other metrics of a study of several.
        seeds: how often a trial trains its `train.max_steps`.
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
        also: Sequence[str] = (),
        seeds: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.metric, self.maximize = name, metric, maximize
        self.budget, self.max_steps, self.finished = budget, max_steps, finished
        self.also, self._seeds = tuple(also), seeds
        self.counts = {"complete": 0, "pruned": 0, "failed": 0}
        self.running: dict[int, Running] = {}
        self.best: tuple[int, float, dict[str, Any]] | None = None
        self.seen: Callable[[], tuple[Mapping[str, int], tuple[int, float, dict[str, Any]] | None]] | None = None
        self.points_left: Callable[[], int | None] | None = None
        self.untrained: float | None = None
        self.alike: dict[str, Any] | None = None
        self.directions: Mapping[str, str] = {}
        self.doing = ""
        self.last = ""
        self.events: deque[str] = deque(maxlen=KEPT_EVENTS)
        self._clock = clock
        self._lengths: list[int] = []
        self._steps_done, self._busy_seconds, self._most_running = 0, 0.0, 0
        self._foreseen: tuple[float, float] | None = None

    def phase(self, text: str) -> None:
        """Note what the search is busy with."""
        self.doing = text

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Note a trial that was placed."""
        self.doing = ""
        self._look_around()
        now = self._clock()
        full = params[STEPS] * self._seeds if STEPS in params else self.max_steps
        self.running[number] = Running(dict(params), origin, step, full, since=now, reported=now)
        self._most_running = max(self._most_running, len(self.running))
        self._foreseen = None

    def reported(self, number: int, report: Report) -> None:
        """Note a report; step 0 is the untrained model's."""
        if report.step == 0:
            self.untrained = report.metrics.get(self.metric)
            return
        if number in self.running:
            trial = self.running[number]
            if report.step > trial.step:
                self._steps_done += report.step - trial.step
                self._busy_seconds += self._clock() - trial.reported
            trial.step, trial.reported = report.step, self._clock()
            self._foreseen = None
            trial.metrics = dict(report.metrics)

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Note the end of a trial."""
        trial = self.running.pop(number, None)
        self._foreseen = None
        if state in self.counts:
            self.counts[state] += 1
        if state in ("complete", "pruned"):
            self.finished += 1
            full = self.max_steps if trial is None else trial.full
            self._lengths.append(full if state == "complete" or trial is None else trial.step)
        if state == "complete" and value is not None:
            better = self.best is None or (value > self.best[1] if self.maximize else value < self.best[1])
            same = self.counts["complete"] == 1 or (self.alike is not None and self.alike["value"] == value)
            self.alike = {"trials": self.counts["complete"], "value": value} if same else None
            if better:
                self.best = (number, value, trial.params if trial else {})
        self._look_around()
        verb = {"complete": "is complete", "pruned": "was pruned", "failed": "failed"}.get(state, "was interrupted")
        figure = f" with {self.metric} {value:.4g}" if state == "complete" and value is not None else ""
        self.last = f"trial {number} {verb}{figure}" + (f": {reason}" if reason else "")
        self.events.append(self.last)

    def _look_around(self) -> None:
        """Take over what other drivers of the study have finished, as far as this one has read it (`seen`)."""
        if self.seen is None:
            return
        counts, best = self.seen()
        for state, count in counts.items():
            more = max(0, count - self.counts[state])
            self.counts[state] += more
            self.finished += more if state != "failed" else 0
        if best is not None:
            better = self.best is None or (best[1] > self.best[1] if self.maximize else best[1] < self.best[1])
            self.best = best if better else self.best

    @property
    def warning(self) -> str:
        """What is wrong with the search as a whole, as far as its results say; else an empty string."""
        return alike_line(self.metric, self.alike)

    def age(self, trial: Running) -> float:
        """Return how many seconds a trial has been running in this launch."""
        return self._clock() - trial.since

    def seconds_left(self) -> float | None:
        """Return about how many seconds it takes to the end; None before this launch's third trial has finished."""
        if len(self._lengths) < SURE or not self._steps_done:
            return None
        now = self._clock()
        if self._foreseen is None:
            per_step = self._busy_seconds / self._steps_done
            running = list(self.running.copy().values())
            places = [(trial.step, trial.step + (now - trial.reported) / max(1e-9, per_step)) for trial in running]
            lengths = Lengths(self._lengths, [trial.step for trial in running], self.max_steps)
            to_come = max(0, self.budget - self.finished - len(running))
            if self.points_left is not None and (left := self.points_left()) is not None:
                to_come = min(to_come, left)  # the search ends where a finite space does
            slots = max(self._most_running if to_come else 0, len(running))
            self._foreseen = now, steps_left(lengths, places, to_come, slots) * per_step
        at, seconds = self._foreseen
        return max(0.0, seconds - (now - at))


def alike_line(metric: str, alike: Mapping[str, Any] | None) -> str:
    """Return what to do about a search of which all complete trials have one value; empty while they are few.

    Which of them is called the best is then chance. `alike` is what `rankray.store.views.alike` returns.
    """
    if alike is None or alike["trials"] < ALIKE:
        return ""
    return (
        f"all {alike['trials']} complete trials have {metric} {alike['value']:.4g}: it does not tell settings apart; "
        "select by a finer metric (study.metric), train longer (train.max_steps), or widen the space"
    )


def untried_line(untried: Mapping[str, Sequence[Any]], status: Mapping[str, Any]) -> str:
    """Return which choices no trial has had, and how to try them; empty if there are none.

    `untried` and `status` are what these of `rankray.store.views` return.
    """
    if not untried:
        return ""
    ended = (status.get("ended") or {}).get("by")
    limit = "study.trials" if ended == "trials" else f"study.budget.{ended}"
    how = f"a larger {limit} and the same command try more" if ended else "the search has not ended"
    each = "; ".join(f"{path.split('.')[-1]} {listed(values)}" for path, values in untried.items())
    return f"not tried: {each}; {how}"


def short_params(params: Mapping[str, Any]) -> str:
    """Return parameters on one line: the last part of each path, and numbers with three significant digits."""
    return " ".join(f"{path.split('.')[-1]}={short_value(value)}" for path, value in params.items())


def directions_line(directions: Mapping[str, str]) -> str:
    """Return which way each metric of a study of several is better; empty for a study of one."""
    words = {"minimize": "lower", "maximize": "higher"}
    return "; ".join(f"{name}: {words[way]} is better" for name, way in directions.items())


def figure(value: Any) -> str:
    """Return a number with five digits, or a dash."""
    return "-" if value is None else f"{value:.5g}"


def short_value(value: Any) -> str:
    """Return a value as text; a float has three significant digits, or those before its point."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1_000_000 else f"{value:.3g}"


def duration(seconds: float | None) -> str:
    """Return seconds as `1:02:03` or `2:03`, or `--:--` where unknown."""
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
