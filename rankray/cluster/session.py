"""Start Ray or join a cluster, quietly, and leave it."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rankray.cluster import ray_private
from rankray.cluster.environment import (
    collector_off,
    imported_meanwhile,
    own_ray_only,
    starts_ray,
    without_credentials,
)
from rankray.cluster.scratch import own_directory
from rankray.errors import ClusterError, SearchFailed, first_line

logger = logging.getLogger(__name__)


@contextmanager
def ray_session(verbose: bool, *meanwhile: str) -> Iterator[None]:
    """Connect to the cluster that `RAY_ADDRESS` names, or start our own Ray, and leave it at the end.

    `RAY_ADDRESS=auto` names the cluster that runs on this machine.

    Args:
        verbose: show Ray's own messages.
        meanwhile: modules to import while Ray starts.

    Raises:
        ClusterError: no cluster answers at that address, or it refuses us.
        SearchFailed: our own Ray does not start.
    """
    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"logging_level": level, "log_to_driver": verbose}
    with own_ray_only() if starts_ray() else nullcontext():
        import ray

        if starts_ray():
            # Without an address, Ray would join the cluster that `ray start` last noted here, alive or not.
            options |= {"include_dashboard": False, "address": "local"} | ray_private.own_place(own_directory() / "r")
        warnings.filterwarnings("ignore", module=r"ray\..*")
        started_here = not ray.is_initialized()
        if started_here:
            with without_credentials(), imported_meanwhile(*meanwhile):
                _join_or_start(options)
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        # Tune prints the traceback of every process that dies; the search itself reports it in one line.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if started_here:
            with collector_off():  # a reference that another thread frees meanwhile ends the process (docs/traps.md)
                ray.shutdown()


def _join_or_start(options: dict[str, Any]) -> None:
    """Call `ray.init`; say what is wrong if a cluster cannot be joined. Ray alone waits for minutes, then raises."""
    import ray
    from ray.exceptions import RayError

    given = os.environ.get("RAY_ADDRESS", "local")
    if starts_ray():
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises a plain Exception where a server of its own does not come up in time
            logger.debug("Ray did not start", exc_info=True)
            raise SearchFailed(
                f"Ray did not start on this machine: {first_line(error)}; needed: "
                "memory, disk and a processor that is not busy for half a minute; run the same command again to resume"
            ) from error
        return
    hint = "; unset RAY_ADDRESS to search on this machine alone"
    address = given
    if given == "auto":
        address = ray_private.running_here()
        if not address:
            raise ClusterError(
                f"RAY_ADDRESS=auto: no Ray runs on this machine; start one with `ray start --head`{hint}"
            )
    if "://" not in address and not _answers(address):
        raise ClusterError(
            f"RAY_ADDRESS={given}: nothing answers at {address}; allowed is HOST:PORT of a running head (6379 unless "
            f"--port gave another), or auto on one of its machines{hint}"
        )
    try:
        ray.init(**options)
    except (RayError, ConnectionError, RuntimeError, ValueError) as error:
        said = str(error.__cause__ or error)
        if "uthenticat" in said:
            raise ClusterError(
                f"RAY_ADDRESS={given}: the cluster refuses our token; give the head's (`ray get-auth-token` there) in "
                "RAY_AUTH_TOKEN, in the file RAY_AUTH_TOKEN_PATH or in ~/.ray/auth_token; RAY_AUTH_MODE=disabled only "
                "for a cluster that was started with it"
            ) from error
        raise ClusterError(f"RAY_ADDRESS={given}: the cluster cannot be joined: {error}{hint}") from error


def _answers(address: str, seconds: float = 5.0) -> bool:
    """Return whether something accepts connections at HOST:PORT within some seconds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return True
    except (OSError, ValueError):
        logger.debug("nothing accepts a connection at %s", address, exc_info=True)
        return False
