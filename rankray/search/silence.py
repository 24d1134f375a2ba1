"""Notices training processes that do not answer any more: frozen, or stuck in code that lets nothing else run.

A process that trains sends an event at least every quarter of the limit, a `BEAT` where there is nothing else to send
(see `actor`). Each turn of Tune's loop is a look; a look adds at most a quarter of the limit to the silence of a
process, so what the driver does not hear while it waits for the store, or sleeps itself, is held against nobody. A
process that was silent for the limit is ended, as it may hold its slot for ever, and its trial is resumed elsewhere.

A process that froze between two trials has been given the next one and never says so. Then one that is not known to
train anything, and is as silent as the trial, is ended too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rankray.environment import seconds_of

Process = Mapping[str, Any]
BETWEEN_SECONDS = 150.0
"""How much longer a process may be silent between two trials: the one before may take as long to stop."""


def silence_seconds_default() -> float:
    """Return how long a process that trains may be silent: RANKRAY_SILENCE_SECONDS, or five minutes.

    Raises:
        ConfigError: the variable is no number above 0.
    """
    return seconds_of("RANKRAY_SILENCE_SECONDS", 300.0)


class ProcessWatch:
    """The processes that train the trials of one launch; used by the thread of Tune's loop alone.

    Trials are told apart by the ids of Tune's trials, as `Control.live` has them.

    Args:
        limit_seconds: how long a process may be silent.
        end: ends a process at once.
        clock: a monotonic clock.
    """

    def __init__(
        self,
        limit_seconds: float = 300.0,
        end: Callable[[Process], None] = lambda process: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit_seconds = limit_seconds
        self._end, self._clock = end, clock
        self._looked = clock()
        self._still: dict[str, float] = {}
        self._process_of: dict[str, Process] = {}
        self._ended: set[str] = set()

    @property
    def beat_seconds(self) -> float:
        """How often a process has to send something."""
        return self.limit_seconds / 4

    def heard(self, trial: str, process: Process | None = None) -> None:
        """An event of a trial has come; `process` says which one sent it, where the event does."""
        self._still[trial] = 0.0
        self._ended.discard(trial)
        if process is not None:
            self._process_of = {each: held for each, held in self._process_of.items() if held != process}
            self._process_of[trial] = process

    def was_ended(self, trial: str) -> bool:
        """Return whether the trial's process was ended here because of its silence."""
        return trial in self._ended

    def look(self, live: Iterable[str]) -> None:
        """Count silence, and end whoever was silent for too long; `live` are the trials that are handed out."""
        now = self._clock()
        passed, self._looked = min(now - self._looked, self.beat_seconds), now
        trials = set(live)
        self._still = {trial: self._still.get(trial, -passed) + passed for trial in trials | self._process_of.keys()}
        for trial in trials & self._process_of.keys():
            if self._still[trial] >= self.limit_seconds:
                self._give_up(trial, trial)
        longer = self.limit_seconds + BETWEEN_SECONDS
        idle = [each for each in self._process_of.keys() - trials if self._still[each] >= longer]
        waiting = [each for each in trials - self._process_of.keys() if self._still[each] >= longer]
        for trial, before in zip(waiting, idle, strict=False):
            self._give_up(trial, before)
            del self._process_of[before]

    def _give_up(self, trial: str, holder: str) -> None:
        """End the process that `holder` was last heard of, for the sake of `trial`; look again after the limit."""
        self._ended.add(trial)
        self._still[trial] = self._still[holder] = 0.0
        self._end(self._process_of[holder])
