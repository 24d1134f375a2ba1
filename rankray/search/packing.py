"""How many trials at a time do the most steps per second, measured in the first trials of a launch.

A search starts with as many trials as fit, which is right on most machines. Where trials share what is not counted in
cores (memory bandwidth, the two threads of one core, a disk), fewer of them may do more steps per second together. So
once every slot has shown its pace, half as many run for a while. The number that does more steps per second stays, and
half of that is tried next, as long as that wins. Where all trials together would need more memory than there is, fewer
run at a time.

The number of trials at a time never changes what a trial computes: its threads are `train.threads`, or
`resources.cpus_per_worker`, however many trials run beside it, and also when it is resumed elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rankray.cluster.autoscaler import nodes_startable, nodes_there
from rankray.config import Config
from rankray.contracts import Report

SAMPLES_PER_SLOT = 2
"""How many times each slot reports before its pace counts as known."""
CLEAR_GAIN = 1.05
"""Fewer trials at a time are preferred only if they do this many times the steps per second."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that may be in use."""
TRIALS_PER_SLOT = 4
"""A study with fewer trials for each slot would spend too many of them on the measurement."""


def worth_measuring(config: Config, slots: int) -> bool:
    """Whether to measure: no number was given, and there are one machine, one worker per trial and enough trials."""
    resources = config.resources
    alone = len(nodes_there()) == 1 and not nodes_startable()
    free = resources.concurrency == "auto" and resources.workers == 1
    return free and alone and config.study.trials >= TRIALS_PER_SLOT * slots


class Packing:
    """Observes the trials of one launch; `slots` is how many may run at a time.

    Args:
        most: how many fit.
        say: called with a line about what was found.
        measures: whether to look for a better number at all.
        memory: returns the bytes in use and the bytes there are.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        most: int,
        say: Callable[[str], None],
        *,
        measures: bool,
        memory: Callable[[], tuple[int, int]] = lambda: (0, 1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = most
        self._say, self._memory, self._clock = say, memory, clock
        self._most, self._best, self._settled = most, most, not measures or most < 2
        self._used_before = memory()[0]
        self._since: dict[int, tuple[int, float]] = {}
        self._warmed = 0
        self._window: float | None = None
        self._paces: dict[int, list[tuple[int, float]]] = {}

    def phase(self, text: str) -> None:
        """Nothing: only trials count."""

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Note when a trial started."""
        self._since[number] = step, self._clock()

    def reported(self, number: int, report: Report) -> None:
        """Measure the pace since the trial's report before."""
        step = report.step
        if self._settled or number not in self._since or step == 0:
            return
        (before, since), now = self._since[number], self._clock()
        self._since[number] = step, now
        if self._warmed < self._most:  # the first report of a process includes its imports
            self._warmed += 1
            if self._warmed == self._most:
                self._fit_memory()
        if self._window is None and self._warmed == self._most and len(self._since) <= self.slots:
            self._window = now
        if self._window is not None and since >= self._window and step > before:
            self._paces.setdefault(self.slots, []).append((step - before, now - since))
            self._compare()

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Forget a trial that has ended."""
        self._since.pop(number, None)

    def steps_per_second(self, slots: int) -> float:
        """Return how many steps per second so many trials did together."""
        steps, seconds = map(sum, zip(*self._paces[slots], strict=True))
        return slots * steps / seconds

    def _compare(self) -> None:
        """Once the pace is known: keep the better number of trials at a time, and try half of it next."""
        if len(self._paces[self.slots]) < SAMPLES_PER_SLOT * self.slots:
            return
        tried = self.slots
        if tried != self._best and self.steps_per_second(tried) < CLEAR_GAIN * self.steps_per_second(self._best):
            self._settle()
            return
        self._best = tried
        if tried == 1:
            self._settle()
            return
        self.slots, self._window = tried // 2, None

    def _settle(self) -> None:
        self.slots, self._settled = self._best, True
        found = ", ".join(f"{slots}: {self.steps_per_second(slots):.3g}" for slots in self._paces)
        self._say(f"{self._best} trial(s) at a time do the most (steps/s together, {found})")

    def _fit_memory(self) -> None:
        """Let no more trials run than fit into memory, judged by what the first ones took."""
        used, there = self._memory()
        each = (used - self._used_before) / self._most
        if each <= 0 or used <= MEMORY_SHARE * there:
            return
        fit = max(1, int((MEMORY_SHARE * there - self._used_before) / each))
        if fit < self.slots:
            self.slots = self._best = self._most = fit
            self._say(
                f"{fit} trial(s) at a time: each takes {each / 2**30:.1f} GiB, "
                f"of {there / 2**30:.0f} GiB there are {self._used_before / 2**30:.1f} in use otherwise"
            )
