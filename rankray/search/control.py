"""What the parts of one running search share: which trials are live, and whether to stop.

A search stops early for one of four reasons: it was interrupted, a limit of its budget is reached, too many trials
failed, or the store stayed unreachable. Too many have failed when the first `SYSTEMATIC` trials of a launch all fail;
after a success, when at least `MANY` have failed and more than have succeeded.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from rankray.contracts import Report, WorkLost
from rankray.search.silence import ProcessWatch

SYSTEMATIC = 3
MANY = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What interrupts: Ctrl-C, whoever ends processes, and a terminal that is closed."""
REFUSED = 100
"""So many points that are refused one after another end the search: most likely all are."""


@dataclass
class Control:
    """Shared state of one launch; touched by the driver's thread and, for `interrupted`, by that of its signals.

    `live` holds the numbers of the trials that are handed out, each with the id of the Tune trial that has it. A trial
    that was given back may be handed out again before Tune has finished with the Tune trial that had it before.
    `stops` holds why trials were stopped by a verdict, the latest one last. `lost` says why this driver can work no
    more, as threads beside this one find out; an empty string while it can. `launch` names this launch in the cluster;
    when it is interrupted, its running trials have until `leave_by`, on the monotonic clock, to save a checkpoint.
    `processes` notices which processes of trials are silent. `deaths` and `silences` hold how often the process of a
    trial died, or was silent, since the trial has last got further than ever before: one that advances between two
    deaths is not their cause, and one that reports the same steps again before each is.
    """

    live: dict[int, str] = field(default_factory=dict)
    deaths: dict[int, list[list[str]]] = field(default_factory=dict)
    processes: ProcessWatch = field(default_factory=ProcessWatch)
    silences: dict[int, int] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    refused: int = 0
    first_error: str = ""
    error: str = ""
    interrupted: bool = False
    leave_by: float = 0.0
    launch: str = field(default_factory=lambda: uuid.uuid4().hex)
    lost: Callable[[], str] = str
    ended: str = ""
    stops: dict[int, str] = field(default_factory=dict)

    _reported: dict[int, int] = field(default_factory=dict)
    _kept: dict[int, tuple[int, float]] = field(default_factory=dict)
    _furthest: dict[int, int] = field(default_factory=dict)

    @property
    def stopping(self) -> bool:
        """Whether no further trial should start."""
        return self.interrupted or self._failed_or_ended

    @property
    def over(self) -> bool:
        """Whether running trials should be stopped now, where they are: an interruption lets them save first."""
        saved = self.interrupted and (not self.live or time.monotonic() >= self.leave_by)
        return saved or self._failed_or_ended

    @property
    def _failed_or_ended(self) -> bool:
        self.error = self.error or self.lost()
        return bool(self.error) or bool(self.ended)

    def begin(self, number: int, step: int, holder: str = "") -> None:
        """A trial is handed out to the Tune trial `holder`, to start or resume at a step."""
        self.live[number] = holder
        self.stops.pop(number, None)
        self._reported[number] = step
        self._furthest[number] = max(step, self._furthest.get(number, 0))
        self._kept.pop(number, None)

    def reported(self, number: int, report: Report) -> None:
        """A trial has reported, perhaps with a checkpoint."""
        self._reported[number] = report.step
        if report.step > self._furthest.get(number, 0):
            self._furthest[number] = report.step
            self.deaths.pop(number, None)
            self.silences.pop(number, None)
        if report.checkpoint:
            self._kept[number] = report.step, time.time()

    def stopped(self, number: int, reason: str) -> None:
        """A verdict stopped a trial."""
        self.stops[number] = reason

    def latest_stops(self, most: int) -> dict[int, str]:
        """Return the reasons of at most so many latest stops, and forget earlier ones."""
        self.stops = dict(list(self.stops.items())[-most:])
        return self.stops

    def work_lost(self, number: int, started: float | None, reason: str, preempted: bool = False) -> WorkLost | None:
        """Return what work is lost with a process that started at a Unix time; None if it never started.

        Steps after the last report are unknown and not counted.
        """
        if started is None:
            return None
        first = self._reported.get(number, 0)
        step, since = self._kept.get(number, (first, started))
        return WorkLost(reason, first - step, time.time() - since, preempted)

    def success(self) -> None:
        """A trial finished."""
        self.succeeded += 1

    def refusal(self, number: int, reason: str) -> None:
        """A point was refused before anything was trained; set `error` if all of the last `REFUSED` were."""
        self.refused += 1
        if self.refused >= REFUSED:
            self.error = f"the last {self.refused} points were all refused; trial {number}: {reason}"

    def failure(self, number: int, reason: str, traceback: str) -> None:
        """A trial failed for good; set `error` if that was one too many."""
        self.failed += 1
        self.first_error = self.first_error or f"trial {number}: {reason}\n{traceback}".rstrip()
        if self.failed >= SYSTEMATIC and not self.succeeded:
            self.error = f"the first {self.failed} trials all failed; the first error was\n\n{self.first_error}"
        elif self.failed >= MANY and self.failed > self.succeeded:
            self.error = (
                f"{self.failed} trials failed and {self.succeeded} did not; the first error was\n\n{self.first_error}"
            )


@contextmanager
def interruptible(on_interrupt: Callable[[int], None]) -> Iterator[None]:
    """Call `on_interrupt(number)` on the first of SIGNALS, in a thread; a second one has its default effect.

    A SIGHUP that is ignored, as under `nohup`, stays so; SIGINT, which scripts ignore for what they start in the
    background, does not. Outside the main thread nothing is done: only the main thread may say what signals do.

    Python runs signal handlers in the main thread, between two of its instructions: never while that thread waits in C
    for a store that is frozen. But the interpreter writes the signal's number to a pipe (`signal.set_wakeup_fd`) at
    once, and a thread reads it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    seen: list[int] = []

    def watch() -> None:
        interruptions = 0
        while number := os.read(reader, 1):
            if number[0] not in before:
                continue
            interruptions += 1
            if interruptions == 1:
                on_interrupt(number[0])
            elif not seen:  # the main thread has not even come to the first one
                os._exit(128 + number[0])

    def handle(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    thread = threading.Thread(target=watch, name="rankray-signals", daemon=True)
    thread.start()
    outer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
        os.close(writer)
        thread.join()
        os.close(reader)
