"""How many trials at a time get the most done, found in the first trials of a launch.

A search starts with as many trials as fit, which is right on most machines. Where trials share what is not counted in
cores (memory bandwidth, the two threads of one core, a disk), fewer of them may get more done together. So once every
slot has shown its pace, half as many run for a while; whichever number does more steps per second stays, and half of it
is tried in turn while that wins. Where all of them together would need more memory than there is, fewer run at once.

The number of trials at a time never touches what a trial computes: its threads are `train.threads`, or
`resources.cpus_per_worker`, however many trials run beside it, and so when it is resumed elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rankray.cluster.autoscaler import nodes_startable, nodes_there
from rankray.config import Config
from rankray.contracts import Observer

SAMPLES_PER_SLOT = 2
"""How many times each slot reports before its pace is taken to be known."""
CLEAR_GAIN = 1.05
"""How much more fewer trials must get done together to be preferred."""
MEMORY_SHARE = 0.9
"""Share of the machine's memory that trials may fill."""
TRIALS_PER_SLOT = 4
"""Of fewer trials for each slot, too many would go into looking for a better number."""


def worth_measuring(config: Config, slots: int) -> bool:
    """Whether the number of slots is this machine's to find: nobody gave it, one machine, one worker, enough trials."""
    resources = config.resources
    alone = len(nodes_there()) == 1 and not nodes_startable()
    free = resources.concurrency == "auto" and resources.workers == 1
    return free and alone and config.study.trials >= TRIALS_PER_SLOT * slots


class Packing:
    """Watches the trials of one launch and says how many may run at a time.

    Args:
        most: how many fit.
        observer: told what was found; everything it hears besides is passed on to it.
        measures: whether to look for a better number at all.
        memory: returns the bytes that are used and those that there are.
        clock: seconds.
    """

    def __init__(
        self,
        most: int,
        observer: Observer,
        *,
        measures: bool,
        memory: Callable[[], tuple[int, int]] = lambda: (0, 1),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.slots = most
        self._observer, self._memory, self._clock = observer, memory, clock
        self.phase = observer.phase
        self._most, self._best, self._settled = most, most, not measures or most < 2
        self._used_before = memory()[0]
        self._since: dict[int, tuple[int, float]] = {}
        self._warmed = 0
        self._window: float | None = None
        self._paces: dict[int, list[tuple[int, float]]] = {}

    def started(self, number: int, params: Mapping[str, Any], origin: str, step: int) -> None:
        """A trial was placed."""
        self._since[number] = step, self._clock()
        self._observer.started(number, params, origin, step)

    def reported(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """A trial has come to a step."""
        self._observer.reported(number, step, metrics)
        if self._settled or number not in self._since:
            return
        (before, since), now = self._since[number], self._clock()
        self._since[number] = step, now
        if self._warmed < self._most:  # the first reports of the processes hold their imports
            self._warmed += 1
            if self._warmed == self._most:
                self._fit_memory()
        if self._window is None and self._warmed == self._most and len(self._since) <= self.slots:
            self._window = now
        if self._window is not None and since >= self._window and step > before:
            self._paces.setdefault(self.slots, []).append((step - before, now - since))
            self._weigh()

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial has ended."""
        self._since.pop(number, None)
        self._observer.ended(number, state, value, reason)

    def steps_per_second(self, slots: int) -> float:
        """Return what so many trials got done together."""
        steps, seconds = map(sum, zip(*self._paces[slots], strict=True))
        return slots * steps / seconds

    def _weigh(self) -> None:
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
        self._observer.phase(f"{self._best} trial(s) at a time get the most done (steps/s together, {found})")

    def _fit_memory(self) -> None:
        """Let no more trials run than memory holds, by what the first ones took."""
        used, there = self._memory()
        each = (used - self._used_before) / self._most
        if each <= 0 or used <= MEMORY_SHARE * there:
            return
        fit = max(1, int((MEMORY_SHARE * there - self._used_before) / each))
        if fit < self.slots:
            self.slots = self._best = self._most = fit
            self._observer.phase(
                f"{fit} trial(s) at a time: each takes {each / 2**30:.1f} GiB, "
                f"of {there / 2**30:.0f} GiB there are {self._used_before / 2**30:.1f} in use otherwise"
            )
