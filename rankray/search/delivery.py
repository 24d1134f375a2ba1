"""What the driver tells the store, in order, through outages.

Every word about a trial goes through `Delivery`. While the store does not answer, words are kept in memory in the order
they were spoken and trials go on training; as soon as it answers again they are delivered, in that order, before
anything new. If it stays away longer than `patience_seconds`, `lost` says so and the search ends: what was committed is
safe, checkpoints are intact, and the same command resumes. The limit is RANKRAY_STORE_PATIENCE_SECONDS, or 10 minutes.

A store that is away makes each try wait, and who waits cannot see to the trials. So after a try that took long, the
next one is not made before as much time has passed again: at most half of the driver's time goes into trying.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rankray.contracts import Report, Verdict, WorkLost
from rankray.errors import ConfigError, LeaseLost, StoreUnavailable

if TYPE_CHECKING:
    from rankray.store import StudyStore

LONG_SECONDS = 0.5
"""A vain try shorter than this is followed by the next one at once."""
GO_ON = Verdict(stop=False)
TAKEN_OVER = Verdict(stop=True, reason="taken over by another driver")


def patience_seconds_default() -> float:
    """Return how long the store may stay away: RANKRAY_STORE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        ConfigError: the variable is no number of 0 or more.
    """
    given = os.environ.get("RANKRAY_STORE_PATIENCE_SECONDS", "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not seconds >= 0:
        raise ConfigError(
            f"RANKRAY_STORE_PATIENCE_SECONDS: got {given!r}; allowed: a number of seconds; correct or unset it"
        )
    return seconds


class Delivery:
    """Ordered, patient delivery to one study.

    Args:
        study: the study, joined by this driver.
        patience_seconds: how long the store may stay away.
        on_verdict: told the verdict of every report that was actually delivered.
    """

    def __init__(
        self,
        study: StudyStore,
        patience_seconds: float = 600.0,
        on_verdict: Callable[[int, Report, Verdict], None] = lambda *_: None,
    ) -> None:
        self._study = study
        self._patience = patience_seconds
        self._on_verdict = on_verdict
        self._kept: deque[Callable[[], None]] = deque()
        self._late: dict[int, Verdict] = {}
        self._away_since: float | None = None
        self._again_at = 0.0

    @property
    def lost(self) -> str:
        """Why delivery was given up, or an empty string."""
        away = time.monotonic() - self._away_since if self._away_since is not None else 0.0
        if away <= self._patience:
            return ""
        return (
            f"store: did not answer for {self._patience:.0f} s, {len(self._kept)} reports are waiting; "
            "checkpoints are intact; run the same command again when it is back"
        )

    def begin(self, number: int) -> None:
        """A trial starts, or goes on: what was said of an earlier attempt no longer counts."""
        self._late.pop(number, None)

    def unanswered(self) -> None:
        """The store did not answer something else than a delivery: that, too, counts as its being away."""
        if self._away_since is None:
            self._away_since = time.monotonic()

    def answered(self) -> None:
        """The store is there."""
        self._away_since = None

    def flush(self) -> bool:
        """Deliver what is waiting, unless that was just tried in vain; return whether nothing waits any more."""
        if not self._kept:
            return True
        begun = time.monotonic()
        if begun < self._again_at:
            return False
        try:
            while self._kept:
                self._kept[0]()
                self._kept.popleft()
        except StoreUnavailable:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = begun
            if now - begun > LONG_SECONDS:
                self._again_at = 2 * now - begun
            return False
        self.answered()
        return True

    def report(self, number: int, report: Report) -> Verdict:
        """Deliver a report; while the store is away the verdict is to go on."""
        found: list[Verdict] = []

        def speak() -> None:
            verdict = self._study.report(number, report)
            found.append(verdict)
            if verdict.stop:
                self._late[number] = verdict
            self._on_verdict(number, report, verdict)

        self._say(number, speak)
        return found[0] if found else self._late.get(number, GO_ON)

    def complete(self, number: int, metrics: dict[str, float]) -> None:
        """Deliver that a trial is complete; one whose late verdict was to stop has ended already."""
        self._say(number, lambda: None if number in self._late else self._study.complete(number, metrics))

    def fail(self, number: int, reason: str, traceback: str) -> bool:
        """Deliver that a trial failed; return whether the store will have it tried again."""
        again: list[bool] = []
        self._say(number, lambda: again.append(self._study.fail(number, reason, traceback)))
        return bool(again and again[0])

    def release(self, number: int, lost: WorkLost | None = None) -> None:
        """Deliver that a trial's process is gone and anybody may go on with it, and what work went with it."""
        self._say(number, lambda: self._study.release(number, lost))

    def _say(self, number: int, speak: Callable[[], None]) -> None:
        def safely() -> None:
            try:
                speak()
            except LeaseLost:
                self._late[number] = TAKEN_OVER

        self._kept.append(safely)
        self.flush()
