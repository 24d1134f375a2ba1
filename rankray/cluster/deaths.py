"""Processes that died: by themselves, or because their node is gone, which is never the trial's failure."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import NodeDiedError, RayActorError
from ray.tune.experiment import Trial

from rankray.cluster import ray_private

logger = logging.getLogger(__name__)


class WorkersLost(Exception):
    """Workers of a group, or its controller, died.

    Attributes:
        blameless: whether that was because a node is gone, as far as is known yet.
        nodes: the nodes they ran on, as Ray's node ids.
        silent: whether one of them did not answer any more, and was ended.
    """

    def __init__(self, reason: str, blameless: bool, nodes: list[str], silent: bool = False) -> None:
        super().__init__(reason)
        self.blameless, self.nodes, self.silent = blameless, nodes, silent

    def as_event(self) -> dict[str, Any]:
        """Return all but the reason as plain JSON types."""
        return {"blameless": self.blameless, "nodes": self.nodes, "silent": self.silent}


def tune_error(trial: Trial) -> BaseException | None:
    """Return the error that has just ended a Tune trial, or None.

    `Trial.get_pickled_error` reads the experiment's storage, where the error is copied only later. This reads the file
    that Tune has written on this machine.
    """
    file = trial.pickled_error_file
    if not file or not Path(file).is_file():
        return None
    error: BaseException | None = cloudpickle.loads(Path(file).read_bytes())
    return error


def node_went(error: BaseException | None) -> bool:
    """Return whether an error says that a process died because its node is gone."""
    return any(_node_went(each) for each in _within(error))


def went_silent(error: BaseException | None) -> bool:
    """Return whether an error says that a worker of a group did not answer any more."""
    return any(ray_private.worker_was_silent(each) for each in _within(error))


def nodes_of(error: BaseException | None) -> list[str]:
    """Return the nodes of the processes that died according to an error, as Ray's node ids."""
    found = []
    for each in _within(error):
        if isinstance(each, RayActorError):
            try:
                found.append(ray_private.actor_node(each.actor_id))
            except Exception:
                logger.debug("Ray does not say on which node actor %s was", each.actor_id, exc_info=True)
    return [node for node in found if node]


def gone_nodes(nodes: Iterable[str], patience_seconds: float) -> set[str]:
    """Return which of some nodes Ray knows to be gone.

    Ray notices a dead process at once, but a dead node only after some failed health checks. So if none of the nodes is
    known to be gone yet, and the cluster has several, this waits up to `patience_seconds` for the first.
    """
    asked, deadline = set(nodes), time.monotonic() + patience_seconds
    while asked:
        alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
        gone = {node for node in asked if not alive.get(node, True)}
        if gone or len(alive) == 1 or time.monotonic() > deadline:
            return gone
        time.sleep(0.5)
    return set()


def _within(error: Any) -> Iterator[BaseException]:
    """Return an error and the errors it was raised from; of a worker group's error, also those of its workers."""
    seen = 0
    while isinstance(error, BaseException) and seen < 20:
        yield error
        seen += 1
        for worker in getattr(error, "worker_failures", {}).values():
            yield from _within(worker)
        error = getattr(error, "health_check_failure", None) or error.__cause__


def _node_went(error: BaseException) -> bool:
    if isinstance(error, NodeDiedError):
        return True
    if not isinstance(error, RayActorError):
        return False
    if error.preempted:
        return True
    try:
        return ray_private.actor_died_with_its_node(error.actor_id)
    except Exception:
        logger.debug("Ray does not say why actor %s died; its node is not blamed", error.actor_id, exc_info=True)
        return False
