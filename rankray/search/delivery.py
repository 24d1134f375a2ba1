"""What the driver writes to the store, in order, through outages.

Everything about a trial goes through `StoreOutbox`. While the store is unreachable, writes stay pending in memory, in
the order in which they were made, and trials keep training; as soon as the store answers again they are delivered, in
that order, before anything new. If it stays unreachable longer than `patience_seconds`, `lost` says so and the search
ends: what was committed is safe, checkpoints are intact, and the same command resumes. The limit is
RANKRAY_STORE_PATIENCE_SECONDS, or 10 minutes.

An unreachable store makes each try wait, and a driver that waits cannot serve its trials. So after a failed try that
took long, the next one is not made before as much time has passed again: at most half of the driver's time is spent on
trying.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from rankray.contracts import Report, Verdict, WorkLost
from rankray.environment import seconds_of
from rankray.errors import LeaseLost, StoreError, StoreUnavailable, StudyGone
from rankray.search.news import News
from rankray.store.stored import reading

if TYPE_CHECKING:
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)

LONG_SECONDS = 0.5
"""A failed try shorter than this is followed by the next one at once."""
T = TypeVar("T")
CONTINUE = Verdict(stop=False)
TAKEN_OVER = Verdict(stop=True, reason="taken over by another driver")


def patience_seconds_default() -> float:
    """Return how long the store may be unreachable: RANKRAY_STORE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        ConfigError: the variable is no number of 0 or more.
    """
    return seconds_of("RANKRAY_STORE_PATIENCE_SECONDS", 600.0, zero=True, endless=True)


class StoreOutbox:
    """Writes to one study, delivered in order and kept through outages.

    Args:
        study: the study, joined by this driver.
        patience_seconds: how long the store may be unreachable.
        news: notified of every report that was delivered.
    """

    def __init__(self, study: StudyStore, patience_seconds: float = 600.0, news: News | None = None) -> None:
        self._study = study
        self._patience = patience_seconds
        self._news = news or News()
        self._pending: deque[Callable[[], None]] = deque()
        self._late: dict[int, Verdict] = {}
        self._unreachable_since: float | None = None
        self._why = ""
        self._again_at = 0.0
        self._gone = ""

    @property
    def lost(self) -> str:
        """Why delivery was given up, or an empty string."""
        since = self._unreachable_since
        if self._gone:
            return self._gone
        if since is None or time.monotonic() - since <= self._patience:
            return ""
        return (
            f"store: did not answer for {self._patience:.0f} s, {len(self._pending)} writes are pending; "
            f"checkpoints are intact; run the same command again once the store is back; the last error: {self._why}"
        )

    def begin(self, number: int) -> None:
        """A trial starts or resumes: verdicts on an earlier attempt no longer count."""
        self._late.pop(number, None)

    def unanswered(self, error: StoreUnavailable, since: float | None = None) -> None:
        """The store did not answer, a write or anything else: what happens until it does is said once.

        Args:
            error: why.
            since: when it was asked, on `time.monotonic`; None for now.
        """
        self._why = str(error).partition("; ")[0].removeprefix("store: ")
        if self._unreachable_since is None:
            self._unreachable_since = time.monotonic() if since is None else since
            self._news.phase(
                f"store: {self._why}; trials keep training; what they report, and how they end, is kept here for up "
                f"to {self._patience:.0f} s and counts once it is written"
            )

    def answered(self) -> None:
        """The store is reachable."""
        since, self._unreachable_since = self._unreachable_since, None
        if since is not None:
            self._news.phase(f"the store answers again, after {time.monotonic() - since:.0f} s; nothing was lost")

    def flush(self) -> bool:
        """Deliver what is pending, unless that just failed; return whether nothing is pending any more."""
        if self._gone:
            self._pending.clear()
        if not self._pending:
            return not self._gone
        begun = time.monotonic()
        if begun < self._again_at:
            return False
        try:
            while self._pending:
                self._pending[0]()
                self._pending.popleft()
        except StoreUnavailable as error:
            now = time.monotonic()
            logger.debug("%d writes stay pending: the store is unreachable", len(self._pending), exc_info=True)
            self.unanswered(error, begun)
            if now - begun > LONG_SECONDS:
                self._again_at = 2 * now - begun
            return False
        except (StudyGone, StoreError) as error:
            logger.debug("%d writes are dropped: the study is gone, or damaged", len(self._pending), exc_info=True)
            self._pending.clear()
            self._gone = str(error)
            return False
        self.answered()
        return not self._gone

    def report(self, number: int, report: Report) -> Verdict:
        """Write a report; while the store is unreachable, the verdict is to continue."""
        found: list[Verdict] = []

        def write() -> None:
            verdict = self._asked(lambda: self._study.report(number, report))
            found.append(verdict)
            if verdict.stop:
                self._late[number] = verdict
            self._news.reported(number, report)

        self._write(number, write)
        return found[0] if found else self._late.get(number, CONTINUE)

    def complete(self, number: int, metrics: dict[str, float]) -> None:
        """Write that a trial is complete, unless a late verdict has stopped it meanwhile."""
        complete = functools.partial(self._study.complete, number, metrics)
        self._write(number, lambda: None if number in self._late else self._asked(complete))

    def fail(self, number: int, reason: str, traceback: str, retry: bool = True) -> bool:
        """Write that a trial failed; return whether the store will have it tried again, which `retry` allows."""
        again: list[bool] = []
        fail = functools.partial(self._study.fail, number, reason, traceback, retry)
        self._write(number, lambda: again.append(self._asked(fail)))
        return bool(again and again[0])

    def release(self, number: int, lost: WorkLost | None = None) -> None:
        """Write that a trial's process is gone, what work was lost with it, and that any driver may resume it."""
        self._write(number, lambda: self._asked(lambda: self._study.release(number, lost)))

    def damaged(self, number: int, checkpoint: str, reason: str) -> None:
        """Write that a committed checkpoint is damaged; any driver may resume the trial from the one before."""
        self._write(number, lambda: self._asked(lambda: self._study.damaged(number, checkpoint, reason)))

    def _asked(self, ask: Callable[[], T]) -> T:
        """Ask the store; what is malformed there is one line (StoreError), and nothing that Tune would wrap."""
        with reading(self._study.name):
            return ask()

    def _write(self, number: int, write: Callable[[], None]) -> None:
        def write_if_ours() -> None:
            try:
                write()
            except LeaseLost:
                logger.debug("trial %d belongs to another driver now: a write is dropped", number, exc_info=True)
                self._late[number] = TAKEN_OVER

        self._pending.append(write_if_ours)
        self.flush()
