"""Processes that are gone: by their own doing, or because their node went, which is never the trial's failure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import NodeDiedError, RayActorError
from ray.tune.experiment import Trial

from rankray.cluster import ray_private


class WorkersLost(Exception):
    """Workers of a group, or its controller, are gone.

    Attributes:
        blameless: whether that was because a node went, as far as is known yet.
        nodes: where they were, as Ray's node ids.
    """

    def __init__(self, reason: str, blameless: bool, nodes: list[str]) -> None:
        super().__init__(reason)
        self.blameless, self.nodes = blameless, nodes


def tune_error(trial: Trial) -> BaseException | None:
    """Return the error that a trial of Tune's has just met.

    `Trial.get_pickled_error` looks in the experiment's storage, into which the error is only copied later; here it is
    read where Tune has written it, on this machine.
    """
    file = trial.pickled_error_file
    if not file or not Path(file).is_file():
        return None
    error: BaseException | None = cloudpickle.loads(Path(file).read_bytes())
    return error


def node_went(error: BaseException | None) -> bool:
    """Return whether an error says that a process is gone because its node is."""
    return any(_node_went(each) for each in _within(error))


def nodes_of(error: BaseException | None) -> list[str]:
    """Return where the processes were that an error says are gone, as Ray's node ids."""
    found = []
    for each in _within(error):
        if isinstance(each, RayActorError):
            with suppress(Exception):
                found.append(ray_private.actor_node(each.actor_id))
    return [node for node in found if node]


def gone_nodes(nodes: Iterable[str], patience_seconds: float) -> set[str]:
    """Return those of some nodes that Ray knows to be gone.

    A process is missed at once, its node only after some failed health checks: so where none is known to be gone, and
    there are several, this waits for the first.
    """
    asked, deadline = set(nodes), time.monotonic() + patience_seconds
    while asked:
        alive = {node["NodeID"]: node["Alive"] for node in ray.nodes()}
        gone = {node for node in asked if not alive.get(node, True)}
        if gone or len(alive) == 1 or time.monotonic() > deadline:
            return gone
        time.sleep(0.5)
    return set()


def _within(error: Any) -> Iterator[BaseException]:
    """Return an error and those it was raised from; of a worker group's, those of its workers."""
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
    with suppress(Exception):
        return ray_private.actor_died_with_its_node(error.actor_id)
    return False
