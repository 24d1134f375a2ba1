"""Tune's searcher, as thin as it can be: every trial comes from the store.

Tune keeps nothing of ours: no state is saved, none restored, and a pickled searcher holds no store (and so no
password). A suggestion is `{"number": n, "spec": json}`; the number is the only identity a trial has.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from rankray.contracts import TrialSpec
from rankray.errors import StoreUnavailable
from rankray.search.control import Control
from rankray.search.delivery import Delivery

if TYPE_CHECKING:
    from rankray.store import StudyStore, Ticket

POLL_SECONDS = 0.5
"""How often the store is asked again after it had nothing to start."""


class StoreSearcher(Searcher):
    """Asks the store for the next trial whenever a slot is free.

    Args:
        study: the joined study.
        delivery: flushed before anything is asked, so that the sampler sees all there is to see.
        control: live trials and stop requests.
        slots: returns how many trials may run at a time now.
        make_spec: turns a ticket into the spec its worker gets.
    """

    def __init__(
        self,
        study: StudyStore,
        delivery: Delivery,
        control: Control,
        slots: Callable[[], int],
        make_spec: Callable[[Ticket], TrialSpec],
    ) -> None:
        super().__init__(metric=None, mode=None)
        self._study, self._delivery, self._control = study, delivery, control
        self._slots, self._make_spec = slots, make_spec
        self._ask_again_at = 0.0
        self._live_then = 0

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None where there is none for now, or FINISHED."""
        control = self._control
        delivered = self._delivery.flush()
        control.error = control.error or self._delivery.lost
        if control.stopping:
            return Searcher.FINISHED
        if not delivered or len(control.live) >= self._slots() or self._too_soon():
            return None
        begun = time.monotonic()
        try:
            ticket = self._study.next_trial()
            done = ticket is None and self._study.done
            self._delivery.answered()
        except StoreUnavailable:
            ticket, done = None, False
            self._delivery.unanswered()
        if ticket is None:
            now = time.monotonic()  # a store that is away makes the driver wait for at most half of its time
            self._ask_again_at = now + max(POLL_SECONDS, now - begun)
            self._live_then = len(control.live)
            return Searcher.FINISHED if done else None
        control.begin(ticket.number, int(ticket.history[-1]["step"]) if ticket.history else 0, trial_id)
        self._delivery.begin(ticket.number)
        return {"number": ticket.number, "spec": self._make_spec(ticket).to_json()}

    def _too_soon(self) -> bool:
        return len(self._control.live) >= self._live_then and time.monotonic() < self._ask_again_at

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler tells the store, since Tune passes a searcher by on STOP (trap 3)."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the store holds the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a search is resumed from the store."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the store holds the truth."""

    def __getstate__(self) -> dict[str, Any]:
        return {}
