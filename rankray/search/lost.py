"""Processes that are gone: by their own doing, or because their node went, which is never the trial's failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray._private.state import actors
from ray.core.generated import common_pb2
from ray.exceptions import NodeDiedError, RayActorError
from ray.tune.experiment import Trial


class WorkersLost(Exception):
    """Workers of a group, or its controller, are gone.

    Attributes:
        blameless: whether that was because a node went.
    """

    def __init__(self, reason: str, blameless: bool) -> None:
        super().__init__(reason)
        self.blameless = blameless


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
