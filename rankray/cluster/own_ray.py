"""The Ray that a search has started for itself: notices that one of its two servers has ended.

A driver whose `gcs_server` was killed, or ended by the kernel for want of memory, is held by Ray for a minute and then
ended by it from C++, without a word that a user could read; without its `raylet` it ends at once. So both are watched
here, from a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from rankray.store.leases import process_start

logger = logging.getLogger(__name__)

SERVERS = ("gcs_server", "raylet")
LOOK_SECONDS = 0.5


@contextmanager
def watching_own_ray(ended: Callable[[str], None]) -> Iterator[None]:
    """Call `ended(name)`, once and in a thread, when a server of this process's own Ray ends while the block runs.

    Where this process has joined a cluster, it has no such servers, and nothing is watched.
    """
    servers = {child.pid: child.name() for child in psutil.Process().children() if child.name() in SERVERS}
    begun, stop = {pid: process_start(pid) for pid in servers}, threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_SECONDS):
            for pid, name in servers.items():
                if process_start(pid) != begun[pid] or begun[pid] is None:
                    logger.debug("own Ray: %s (process %d) has ended", name, pid)
                    ended(name)
                    return

    thread = threading.Thread(target=watch, name="own-ray", daemon=True)
    if servers:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if servers and thread is not threading.current_thread():
            thread.join()
