"""Word that a node is being taken away: a spot machine's last minutes, or an autoscaler that shrinks.

Ray learns of a preemption as the drain of a node, with a deadline. Every process that trains asks once a second whether
its own node is being drained; the trial then leaves with a checkpoint, which the store commits, and goes on elsewhere.
`ray.train.get_preemption_info()` says the same, but only within a worker group, and is a barrier over its workers.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import ray

from rankray.cluster import ray_private

LOOK_SECONDS = 1.0
"""How often Ray is asked."""


class DrainWatcher:
    """Looks out, in a daemon thread, for the drain of this process's node; outside Ray there is nothing to look for."""

    def __init__(self) -> None:
        self._text = ""
        self._over = threading.Event()
        if ray.is_initialized():  # to ask for the context would start a Ray
            self._node = ray.get_runtime_context().get_node_id()
            threading.Thread(target=self._watch, name="drain-watcher", daemon=True).start()

    def __call__(self) -> str:
        """Return why this process has to leave its node, or an empty string."""
        return self._text

    def close(self) -> None:
        """Look no more."""
        self._over.set()

    def _watch(self) -> None:
        while not (self._text or self._over.wait(LOOK_SECONDS)):
            with suppress(Exception):
                draining = ray_private.draining_nodes()
                if self._node in draining:
                    self._text = _reason(draining[self._node])


def _reason(deadline_ms: int) -> str:
    left = f" in {max(0.0, deadline_ms / 1000 - time.time()):.0f} s" if deadline_ms else ""
    return f"its node is being taken away{left}"
