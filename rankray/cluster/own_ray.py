"""The Ray that a search has started for itself: notices that one of its two servers has ended.

A driver whose `gcs_server` was killed, or ended by the kernel for want of memory, is held by Ray for a minute and then
ended by it from C++, without a word that a user could read; without its `raylet` it ends at once. One that is stopped
(SIGSTOP) holds it for ever. So both are watched here, from a thread.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import psutil

logger = logging.getLogger(__name__)

SERVERS = ("gcs_server", "raylet")
LOOK_SECONDS = 0.5
STOPPED_SECONDS = 60.0
"""How long a server may be stopped while this process is not; then it is ended."""


def servers_here() -> dict[psutil.Process, str]:
    """Return the servers of Ray that are children of this process, and which each is."""
    return {child: child.name() for child in psutil.Process().children() if child.name() in SERVERS}


@contextmanager
def watching_own_ray(ended: Callable[[str], None], others: Collection[psutil.Process] = ()) -> Iterator[None]:
    """Call `ended(name)`, once and in a thread, when a server of this process's own Ray ends while the block runs.

    Where this process has joined a cluster, it has no such servers, and nothing is watched.

    Args:
        ended: what is called.
        others: servers that were here before: of a Ray that this process started earlier, which may be ending, or of a
            cluster that it holds for another purpose.
    """
    servers = {server: name for server, name in servers_here().items() if server not in others}
    looks, stop = dict.fromkeys(servers, 0), threading.Event()

    def watch() -> None:
        while not stop.wait(LOOK_SECONDS):
            for server, name in servers.items():
                state = _state(server)
                looks[server] = looks[server] + 1 if state == psutil.STATUS_STOPPED else 0
                if looks[server] * LOOK_SECONDS >= STOPPED_SECONDS:
                    logger.debug("own Ray: %s (process %d) was stopped, and is ended", name, server.pid)
                    server.kill()
                elif state in ("", psutil.STATUS_ZOMBIE):
                    logger.debug("own Ray: %s (process %d) has ended", name, server.pid)
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


def _state(server: psutil.Process) -> str:
    """Return a process's state as psutil names it; an empty string if it has gone."""
    try:
        return str(server.status())
    except psutil.NoSuchProcess:
        logger.debug("own Ray: there is no process %d any more", server.pid)
        return ""
