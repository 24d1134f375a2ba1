"""Starting Ray, or joining it, quietly; and what a signal means while it runs."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rankray.config import Config
from rankray.errors import ClusterError
from rankray.search import forks
from rankray.search.imports import quick_imports

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
NEEDED_NEXT = ("rankray.search.actor", "rankray.search.scheduler", "rankray.search.searcher", "rankray.search.stopper")
"""What a search imports once Ray runs: with Ray Tune a second of work, done while Ray starts."""
CREDENTIALS = ("RANKRAY_STORE", "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "MYSQL_PWD")
"""Environment variables that may hold the store's password or say where it lies: the driver's alone."""


def prepare_environment() -> None:
    """Set what Ray reads when it is imported or started; call before the first `import ray`.

    `RAY_AUTH_MODE=token` must be there before the import where a cluster has a token (trap 15); set after the fact it
    would hang. So it is set where a cluster is to be joined, a token is here, and nobody said otherwise.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if os.environ.get("RAY_ADDRESS", "local") != "local" and has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def has_token() -> bool:
    """Whether there is a token for a Ray cluster here."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


@contextmanager
def forked_workers(config: Config, verbose: bool) -> Iterator[str | None]:
    """Begin to import what workers need, where Ray is to be started here, and yield what it is to start them with.

    None means the ordinary Python. The sooner this is entered, the sooner a first trial begins: before the study is
    opened, though one that turns out to be done, or cannot be opened, has then started a process in vain, which is
    killed at once. See `rankray.search.forks`.
    """
    prepare_environment()
    modules = forks.TRIALS if config.resources.workers == 1 else forks.GROUPS
    with ExitStack() as stack:
        with without_credentials():
            python = stack.enter_context(forks.fork_server(modules, verbose)) if _starts_ray() else None
        yield python


@contextmanager
def ray_session(verbose: bool, python: str | None = None, *, state_api: bool = True) -> Iterator[None]:
    """Connect to the cluster that `RAY_ADDRESS` names, or start one of our own, and leave it at the end.

    `RAY_ADDRESS=auto` names the one that runs on this machine.

    Args:
        verbose: let Ray talk.
        python: what a Ray that is started here starts its workers with; None: the ordinary Python.
        state_api: let a Ray that is started here answer questions of its state, as Ray Train has them; without, it is
            there half a second sooner.

    Raises:
        ClusterError: no cluster answers at that address, or it refuses us.
    """
    import ray

    level = logging.INFO if verbose else logging.ERROR
    options: dict[str, Any] = {"logging_level": level, "log_to_driver": verbose}
    if _starts_ray():
        # Without an address Ray would join whatever cluster `ray start` last left a note of here, alive or not.
        options |= {"include_dashboard": False, "address": "local"}
        # Processes that wait for tasks: slots have an environment of their own, and so start processes of their own.
        options |= {"_system_config": {"prestart_worker_first_driver": False}}
        options |= {"runtime_env": {"py_executable": python}} if python else {}
    warnings.filterwarnings("ignore", module=r"ray\..*")
    started_here = not ray.is_initialized()
    if started_here:
        with without_credentials(), imported_meanwhile(*NEEDED_NEXT):
            _join_or_start(options, state_api)
    for name in ("ray", "ray.tune", "ray.air", "ray.train"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        # Tune prints the traceback of every process that goes, which the search itself says in a line.
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if started_here:
            ray.shutdown()


def _starts_ray() -> bool:
    """Whether a search starts a Ray of its own."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


@contextmanager
def few_processes(with_logs: bool, state_api: bool) -> Iterator[None]:
    """Let a Ray that is started meanwhile do without autoscaler, and without log monitor and web server if not wanted.

    Nothing asks them anything where a search has Ray to itself, but each is a Python process to start and to wait for,
    at the end too. `ray.init` has no argument for it.
    """
    from unittest.mock import patch  # it is slow to import

    from ray._private import node, parameter

    ray_params: Any = parameter.RayParams
    with ExitStack() as stack:
        fewer = partial(ray_params, no_monitor=True, include_log_monitor=with_logs)
        stack.enter_context(patch.object(parameter, "RayParams", fewer))
        if not state_api:
            stack.enter_context(patch.object(node.Node, "start_api_server", lambda *_, **__: None))
        yield


def _join_or_start(options: dict[str, Any], state_api: bool) -> None:
    """Call `ray.init`, and say what is wrong where a cluster cannot be joined: Ray alone waits minutes, then traces."""
    import ray
    from ray.exceptions import RayError

    given = os.environ.get("RAY_ADDRESS", "local")
    if _starts_ray():
        with few_processes(options["log_to_driver"], state_api):
            ray.init(**options)
        return
    hint = "; unset RAY_ADDRESS to search on this machine alone"
    address = given
    if given == "auto":
        from ray._private.services import canonicalize_bootstrap_address

        address = canonicalize_bootstrap_address("auto") or ""
        if not address:
            raise ClusterError(
                f"RAY_ADDRESS=auto: no Ray runs on this machine; start one with `ray start --head`{hint}"
            )
    if "://" not in address and not _answers(address):
        raise ClusterError(
            f"RAY_ADDRESS={given}: nothing answers at {address}; allowed is HOST:PORT of a running head (6379 unless "
            f"--port said otherwise), or auto on one of its machines{hint}"
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
    """Whether something accepts connections at HOST:PORT, within some seconds."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds):
            return True
    except (OSError, ValueError):
        return False


@contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Import modules in a thread beside something that mostly waits; whoever needs them then imports them as ever."""
    thread = threading.Thread(target=lambda: [importlib.import_module(name) for name in names], daemon=True)
    with quick_imports():
        thread.start()
        yield
        thread.join()


@contextmanager
def without_credentials() -> Iterator[None]:
    """Take the store's credentials out of the environment for a while: processes started meanwhile never have them.

    A local Ray is started within, and its workers inherit its environment, not the driver's.
    """
    kept = {name: os.environ.pop(name) for name in CREDENTIALS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def interruptible(on_interrupt: Any) -> Iterator[None]:
    """Call `on_interrupt()` on the first SIGINT or SIGTERM; the second one acts as it would without us."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, _frame: FrameType | None) -> None:
        on_interrupt()
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
