"""What happens in a launch, passed to everybody who watches it.

The searcher notifies `News` of each start, the outbox of each delivered report, the scheduler of each end; whoever is
busy with something says which phase that is. `News` calls the observers one after the other, the one that was added
last first: the checkpoints, then the number of slots, then the view.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rankray.checkpoints.retention import CheckpointRetention
from rankray.contracts import Observer, Report
from rankray.errors import StoreError, StoreUnavailable, StudyGone
from rankray.store import StudyStore
from rankray.store.stored import reading
from rankray.store.views import retention as kept_checkpoints

logger = logging.getLogger(__name__)


class News:
    """An observer that passes everything on to others."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = list(observers)

    def add(self, observer: Observer) -> None:
        """Add an observer; it is called before those that were added earlier."""
        self._observers.insert(0, observer)

    def phase(self, text: str) -> None:
        """Say what the search is busy with."""
        for observer in self._observers:
            observer.phase(text)

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """A trial was placed."""
        for observer in self._observers:
            observer.started(number, params, origin, step, checkpoint)

    def reported(self, number: int, report: Report) -> None:
        """A trial's report is in the store."""
        for observer in self._observers:
            observer.reported(number, report)

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial ended, or its process did."""
        for observer in self._observers:
            observer.ended(number, state, value, reason)


class CheckpointObserver:
    """Keeps the checkpoints of a study tidy while its trials run.

    Args:
        study: says which checkpoints are wanted.
        retention: deletes the others.
    """

    def __init__(self, study: StudyStore, retention: CheckpointRetention) -> None:
        self._study, self._retention = study, retention
        self.tidy()

    def phase(self, text: str) -> None:
        """Nothing: a phase makes no checkpoint."""

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Remember the checkpoint that a trial resumes from: its next one replaces it."""
        self._retention.begin(number, checkpoint)

    def reported(self, number: int, report: Report) -> None:
        """Delete what is older than the checkpoint before the one that is in the store now."""
        if report.checkpoint:
            self._retention.committed(number, report.checkpoint)

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Delete what an ended trial leaves; a `lost` one has not ended and keeps its checkpoint."""
        self._retention.ended(number, complete=state == "complete")
        if state != "lost":
            self.tidy()

    def tidy(self) -> None:
        """Delete the checkpoints that nobody wants any more; while the store is unreachable, delete nothing."""
        try:
            with reading(self._study.name):
                ended, kept = kept_checkpoints(self._study)
            self._retention.tidy(ended, kept)
        except (StoreUnavailable, StoreError, StudyGone):
            logger.debug("checkpoints are not tidied: the store does not say which are wanted", exc_info=True)
