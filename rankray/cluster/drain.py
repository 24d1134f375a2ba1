"""Whether this process is to leave: its node is being taken away, or its search was interrupted.

A node is taken away in a spot machine's last minutes, or by a shrinking autoscaler. To Ray, such a preemption is the
drain of a node, with a deadline. Every process that trains asks once a second whether its own node is being drained. If
so, its trial is preempted: it ends with a checkpoint, which the store commits, and is resumed elsewhere.
`ray.train.get_preemption_info()` says the same, but only within a worker group, and is a barrier over its workers.

An interrupted search raises a flag in Ray's key-value store, which the same threads see, so that its trials leave with
a checkpoint in the same way.
"""

from __future__ import annotations

import logging
import threading
import time

import ray

from rankray.cluster import ray_private

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often Ray is asked."""
INTERRUPTED = "its search was interrupted"


class DrainWatcher:
    """Watches, in a daemon thread, for the drain of this process's node; outside Ray it does nothing.

    Args:
        launch: the flag that the search raises when it is interrupted; empty for none.
    """

    def __init__(self, launch: str = "") -> None:
        self._text, self._launch = "", launch
        self._over = threading.Event()
        if ray.is_initialized():  # otherwise asking for the context would start Ray
            self._node = ray.get_runtime_context().get_node_id()
            threading.Thread(target=self._watch, name="drain-watcher", daemon=True).start()

    def __call__(self) -> str:
        """Return why this process is preempted, or an empty string."""
        return self._text

    def close(self) -> None:
        """Stop watching."""
        self._over.set()

    def _watch(self) -> None:
        while not (self._text or self._over.wait(LOOK_SECONDS)):
            try:
                draining = ray_private.draining_nodes()
                interrupted = bool(self._launch) and ray_private.flag_is_up(self._launch)
            except Exception:
                logger.debug("Ray does not say which nodes are being drained; it is asked again", exc_info=True)
                continue
            if interrupted:
                self._text = INTERRUPTED
            if self._node in draining:
                self._text = _reason(draining[self._node])


def _reason(deadline_ms: int) -> str:
    left = f" in {max(0.0, deadline_ms / 1000 - time.time()):.0f} s" if deadline_ms else ""
    return f"its node is being taken away{left}"
