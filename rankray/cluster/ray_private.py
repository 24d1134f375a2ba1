"""The private names of Ray that rankray uses, all of them, behind one door.

Read from ray 2.60. Each function says why no public API is enough and what would replace it. Each is called for real by
`tests/cluster/test_ray_private.py`, which fails when an upgrade of Ray renames or changes what is behind it. Nothing
outside this file imports a module or uses an attribute of Ray whose name starts with an underscore, or one of Ray's
generated protocol buffers, and nothing of Ray is patched.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

FLAGS = "rankray"
"""The namespace of our flags in Ray's key-value store."""
READ_FROM = "2.60"
"""The version of Ray in whose source these names were read."""


def running_here() -> str:
    """Return the address of the Ray that runs on this machine, or an empty string.

    `ray.init(address="auto")` is the public way; where no Ray runs it waits for minutes and raises a traceback.
    """
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return canonicalize_bootstrap_address("auto") or ""
    except ConnectionError:
        logger.debug("no Ray runs on this machine", exc_info=True)
        return ""


def own_place(directory: Path) -> dict[str, Any]:
    """Return the option of `ray.init` for where the session's files and sockets lie.

    `RAY_TMPDIR` is public, but Ray then makes the directory in it that it names, which everybody may enter.
    """
    return {"_temp_dir": str(directory)}


def token_authentication_enabled() -> bool:
    """Return whether the Ray that this process is connected to asks for a token. No public API says so."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def draining_nodes() -> dict[str, int]:
    """Return node id to deadline (Unix time in ms, 0 for none) of the nodes that are being drained.

    `ray.train.get_preemption_info()` is public, but answers only within a worker group, and is a barrier over it.
    """
    from ray._private.state import state

    return dict(state.get_draining_nodes())


def raise_flag(name: str) -> None:
    """Set a flag of this name that every process of the cluster can see, until it is lowered.

    A named actor is the public way, and costs a process, and a second, per search.
    """
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(name, b"1", namespace=FLAGS)


def flag_is_up(name: str) -> bool:
    """Return whether the flag of this name is set. Public API: as for `raise_flag`."""
    from ray.experimental.internal_kv import _internal_kv_exists

    return bool(_internal_kv_exists(name, namespace=FLAGS))


def lower_flag(name: str) -> None:
    """Remove a flag. Public API: as for `raise_flag`."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(name, namespace=FLAGS)


def cluster_config() -> Any:
    """Return the limits that an autoscaler has published (`node_group_configs`), or None. No public API says so."""
    from ray._private.state import state

    return state.get_cluster_config()


def actor_node(actor_id: str) -> str:
    """Return the node that an actor is or was on; an empty string if it never had one.

    `ray.util.state.get_actor` is public, but needs the dashboard, which a local Ray and many clusters lack.
    """
    from ray._private.state import actors

    return str(actors(actor_id)["Address"]["NodeID"] or "")


def actor_died_with_its_node(actor_id: str) -> bool:
    """Return whether an actor died because its node did. Public API: as for `actor_node`."""
    from ray._private.state import actors
    from ray.core.generated import common_pb2

    context: Any = common_pb2
    cause = actors(actor_id)["DeathCause"].actor_died_error_context
    return bool(cause.reason == context.ActorDiedErrorContext.NODE_DIED)


def worker_was_silent(error: BaseException) -> bool:
    """Return whether Ray Train's error of one worker says that it did not answer for the time that it may take.

    No public class says so; the public `TrainingFailedError` has these errors in `worker_failures`.
    """
    from ray.train.v2._internal.exceptions import WorkerHealthCheckTimeoutError

    return isinstance(error, WorkerHealthCheckTimeoutError)


def memory_bytes() -> tuple[int, int]:
    """Return the memory in use and the memory there is, on this machine or in this container, in bytes.

    `psutil.virtual_memory` is public, but does not know the limit of a container.
    """
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    return int(get_used_memory()), int(get_system_memory())  # type: ignore[no-untyped-call]
