"""Counts what a search costs while it runs, keeps that in the store, and ends the search at a limit.

`Meter` is an observer, so it knows which trials hold their GPUs. A thread of it wakes every few seconds, adds up,
writes the driver's record (`store/ledger.py`) and asks whether a limit is reached. A limit is hard: what runs then is
stopped as by an interruption, keeps its last checkpoint, and is resumed when the limit is raised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rankray.contracts import Report
from rankray.search.control import Control
from rankray.store import StudyStore

logger = logging.getLogger(__name__)

TICK_SECONDS = 5.0
"""How often the record is written, and what a kill may leave uncounted."""
Nodes = Callable[[], Mapping[str, tuple[str, bool]]]
"""Returns the nodes that run now: id to (type, whether it is a spot node)."""


class Meter:
    """An observer that charges a driver's trials and nodes to the study.

    Args:
        study: the joined study.
        control: told when a limit is reached.
        nodes: returns the cluster's nodes.
        clock: Unix time, in seconds: at which time the driver worked.
        steady: a monotonic clock, in seconds: how long it worked, also where the other one is set.
    """

    def __init__(
        self,
        study: StudyStore,
        control: Control,
        nodes: Nodes,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._study, self._control, self._nodes, self._clock, self._steady = study, control, nodes, clock, steady
        resources = study.config.resources
        self._gpus = resources.worker_range[1] * float(resources.gpus_per_worker)
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._since = self._counted = steady()
        self._gpu_seconds = 0.0
        self._seen: dict[str, tuple[str, bool, float, float]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self.tick()

    def phase(self, text: str) -> None:
        """Nothing: a phase is no trial."""

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """A trial takes its GPUs."""
        with self._lock:
            self._count()
            self._running.add(number)

    def reported(self, number: int, report: Report) -> None:
        """Nothing: it holds them still."""

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial has ended, or its process has."""
        with self._lock:
            self._count()
            self._running.discard(number)

    def tick(self) -> None:
        """Write what was spent until now, and end the search if that reaches a limit; an outage is waited out."""
        try:
            nodes = self._nodes()
            with self._lock:
                self._count()
                for node, (kind, spot) in nodes.items():
                    since = self._seen[node][2] if node in self._seen else self._counted
                    self._seen[node] = (kind, spot, since, self._counted)
                ahead = self._clock() - self._counted
                record = {
                    "from": self._since + ahead,
                    "to": self._counted + ahead,
                    "gpu_seconds": self._gpu_seconds,
                    "nodes": {
                        node: [kind, spot, since + ahead, until + ahead]
                        for node, (kind, spot, since, until) in self._seen.items()
                    },
                }
            self._study.charge(record)
            if self._study.config.study.budget.is_limited and (end := self._study.ended) is not None:
                self._control.ended = end.reason
        except Exception as error:
            logger.debug("meter: not written, trying again: %s", error, exc_info=True)

    def _count(self) -> None:
        """Add the GPUs held since the last count."""
        now = max(self._counted, self._steady())
        self._gpu_seconds += (now - self._counted) * self._gpus * len(self._running)
        self._counted = now

    def _work(self) -> None:
        while True:
            self.tick()
            if self._stop.wait(TICK_SECONDS):
                return
