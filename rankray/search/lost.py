"""Processes that are gone: by their own doing, or because their node went, which is never the trial's failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ray._private.state import actors
from ray.core.generated import common_pb2
from ray.exceptions import NodeDiedError, RayActorError


class WorkersLost(Exception):
    """Workers of a group, or its controller, are gone.

    Attributes:
        blameless: whether that was because a node went.
    """

    def __init__(self, reason: str, blameless: bool) -> None:
        super().__init__(reason)
        self.blameless = blameless


def node_went(error: BaseException | None) -> bool:
    """Return whether an error says that a process is gone because its node is."""
    return any(_node_went(each) for each in _within(error))


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
        cause = actors(error.actor_id)["DeathCause"].actor_died_error_context
        context: Any = common_pb2
        return bool(cause.reason == context.ActorDiedErrorContext.NODE_DIED)
    return False
