"""Training processes that do not answer any more: which one it is, where it runs, and how it is ended.

A process says who it is; whoever hears of it can end that process, and no other one that has its number by now.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import ray

from rankray.cluster.nodes import Node, ask_all
from rankray.store.leases import driver_elsewhere, process_start, this_process

logger = logging.getLogger(__name__)

Process = Mapping[str, Any]
"""What distinguishes a process of the cluster: `this_process()` and, as `node`, Ray's id of the node it runs on."""


def this_worker() -> dict[str, Any]:
    """Return what distinguishes this process of a Ray cluster from every other."""
    return this_process() | {"node": ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""}


def end_process(process: Process) -> None:
    """End a process with SIGKILL, which also ends one that is stopped; returns at once.

    One on another node is ended by a task there. If that node does not answer either, Ray declares it dead.
    """
    if not driver_elsewhere(dict(process)):
        _end(int(process["pid"]), process["start"])
        return
    threading.Thread(target=_end_there, args=(process,), name="end-process", daemon=True).start()


def _end_there(process: Process) -> None:
    node = Node(str(process["node"]), "", {}, here=False)
    [answer] = ask_all(_end, process["pid"], process["start"], among=[node]).values()
    logger.debug("process %s of node %s: %s", process["pid"], node.id, answer)


def _end(pid: int, start: str) -> bool:
    """End the process of this number, if it is still the one that started then; return whether it was."""
    if process_start(pid) != start:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        logger.debug("process %d has just ended", pid)
        return False
    return True
