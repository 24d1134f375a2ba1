"""Tune's searcher, as thin as it can be: every trial comes from the store.

Tune keeps nothing of ours: no state is saved, none restored, and a pickled searcher holds no store (and so no
password). A suggestion is `{"number": n, "spec": json, "stops": json, "launch": flag, "silence_seconds": s}`; the
number is the only identity a trial has, `launch` is the flag that tells its process to leave (`cluster.drain`), and
`stops` holds the reasons of the latest stops, `{number: reason}`. A process learns of a stop only by being given its
next trial, so it finds there why the one before was stopped.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from rankray.contracts import TrialSpec
from rankray.errors import ConfigError, LeaseFailed, StorageError, StoreError, StoreUnavailable, StudyGone
from rankray.search.control import Control
from rankray.search.delivery import StoreOutbox
from rankray.search.news import News
from rankray.store.stored import reading

if TYPE_CHECKING:
    from rankray.store import StudyStore, Ticket

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How long the store is not asked again after it had nothing to start."""


class StoreSearcher(Searcher):
    """Asks the store for the next trial whenever a slot is free.

    Args:
        study: the joined study.
        outbox: flushed before the store is asked, so that the sampler sees every result.
        control: live trials and stop requests.
        slots: returns how many trials may run at a time now.
        make_spec: turns a ticket into the spec its worker gets.
        news: notified of every start.
    """

    def __init__(
        self,
        study: StudyStore,
        outbox: StoreOutbox,
        control: Control,
        slots: Callable[[], int],
        make_spec: Callable[[Ticket], TrialSpec],
        news: News,
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._outbox, self._control = study, outbox, control
        self._slots, self._make_spec, self._news = slots, make_spec, news
        self._ask_again_at = 0.0
        self._live_then = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None where there is none for now, or FINISHED."""
        control = self._control
        delivered = self._outbox.flush()
        control.error = control.error or self._outbox.lost
        if control.stopping:
            return Searcher.FINISHED
        if not delivered or len(control.live) >= self._slots() or self._too_soon():
            return None
        begun = time.monotonic()
        try:
            with reading(self._study.name):
                ticket = self._study.next_trial()
                done = ticket is None and self._study.done
            self._outbox.answered()
        except StoreUnavailable as error:
            logger.debug("no new trial for now: the store is unreachable", exc_info=True)
            ticket, done = None, False
            self._outbox.unanswered(error)
        except (StudyGone, LeaseFailed, StoreError) as error:
            logger.debug("no further trial: this driver can work no more", exc_info=True)
            control.error = str(error)
            return Searcher.FINISHED
        if ticket is not None:
            try:
                spec = self._spec(ticket)
            except StorageError as error:
                logger.debug("trial %d has no place for its checkpoints", ticket.number, exc_info=True)
                control.error = f"{error}; then run the same command again to resume"
                return Searcher.FINISHED
            return None if spec is None else self._hand_out(trial_id, ticket, spec)
        now = time.monotonic()  # an unreachable store makes the driver wait for at most half of its time
        self._ask_again_at = now + max(POLL_SECONDS, now - begun)
        self._live_then = len(control.live)
        return Searcher.FINISHED if done else None

    def _hand_out(self, trial_id: str, ticket: Ticket, spec: TrialSpec) -> dict[str, Any]:
        control = self._control
        step = int(ticket.history[-1]["step"]) if ticket.history else 0
        if ticket.checkpoint and spec.checkpoint is None:
            step = 0
            self._news.phase(
                f"trial {ticket.number}: its checkpoint {ticket.checkpoint} lies outside this study's storage and is "
                "not used; it starts from the beginning"
            )
        control.begin(ticket.number, step, trial_id)
        self._outbox.begin(ticket.number)
        self._news.started(ticket.number, ticket.params, ticket.origin, step, spec.checkpoint)
        stops = json.dumps(control.latest_stops(2 * self._slots()))
        return {
            "number": ticket.number,
            "spec": spec.to_json(),
            "stops": stops,
            "launch": control.launch,
            "silence_seconds": control.processes.limit_seconds,
        }

    def _spec(self, ticket: Ticket) -> TrialSpec | None:
        """Return a trial's spec; None where the configuration refuses its point, which ends it as FAILED."""
        try:
            spec = self._make_spec(ticket)
        except ConfigError as error:
            reason = f"refused: {error}"
            self._outbox.begin(ticket.number)
            self._news.started(ticket.number, ticket.params, ticket.origin, 0, None)
            self._outbox.fail(ticket.number, reason, "", retry=False)
            self._control.refusal(ticket.number, reason)
            self._news.ended(ticket.number, "failed", None, reason)
            return None
        self._control.refused = 0
        return spec

    def _too_soon(self) -> bool:
        return len(self._control.live) >= self._live_then and time.monotonic() < self._ask_again_at

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler tells the store, as Tune does not tell a searcher of a STOP (docs/traps.md)."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store holds the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is resumed from the store."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the store holds the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
