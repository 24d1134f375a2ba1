"""What Ray reads when it is imported, what its processes must not see, and imports that run beside other work."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rankray.cluster.scratch import own_token
from rankray.config.secrets import STORE_VARIABLE, store_variables

logger = logging.getLogger(__name__)

DEFAULTS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_prestart_worker_first_driver": "0",  # one process per core that no trial can use: Tune's have a runtime_env
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "180",  # a process that ends by itself takes up to 140 s; Tune waits for 600
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
"""Variables of Ray and Ray Tune that are set unless the user has set them."""
CREDENTIALS = (STORE_VARIABLE, "PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "MYSQL_PWD")
"""Environment variables that may hold the store's password or say where to find it: only the driver may have them."""


def prepare_environment() -> None:
    """Set what Ray reads when it is imported or started; call before the first `import ray`.

    For a cluster with token authentication, `RAY_AUTH_MODE=token` must be set before the import: set later, joining
    would hang. So it is set if a cluster will be joined, there is a token, and the user has not set the variable.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    if not starts_ray() and has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def starts_ray() -> bool:
    """Return whether a search starts its own Ray: RAY_ADDRESS names no cluster."""
    return os.environ.get("RAY_ADDRESS", "local") == "local"


def has_token() -> bool:
    """Return whether this machine has a token for a Ray cluster."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()


LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Set to 0, Ray takes this machine's address to be 127.0.0.1, and listens there alone (docs/traps.md)."""


@contextmanager
def own_ray_only() -> Iterator[None]:
    """Make the Ray that is started in the block, and imported there, this process's own.

    It listens on loopback alone, and asks for a token that no other user can read; a token that the environment names
    is used instead.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if not (os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own_token())
    before = os.environ.get(LOOPBACK)
    os.environ[LOOPBACK] = "0"
    try:
        yield
    finally:
        os.environ.pop(LOOPBACK)
        if before is not None:
            os.environ[LOOPBACK] = before


@contextmanager
def without_credentials() -> Iterator[None]:
    """Take the store's credentials out of the environment while the block runs: processes started in it lack them.

    A local Ray is started in such a block, and its workers inherit its environment, not the driver's. Whatever variable
    the store's URL came from (`--store env:VARIABLE`) is among them.
    """
    names = {*CREDENTIALS, *store_variables()}
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def libraries_first() -> None:
    """Move the current directory behind the libraries on this process's import path; for a worker of Ray.

    Ray puts the driver's current directory there first (docs/traps.md), so a file `trl.py` in it was imported in place
    of the library. A directory that PYTHONPATH names stays where it is.
    """
    try:
        here = str(Path.cwd())
    except OSError as error:
        logger.debug("the current directory is not there any more: %s", error)
        return
    if here not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        kept = [place for place in sys.path if place not in ("", here)]
        sys.path[:] = [*kept, here]


@contextmanager
def quick_imports() -> Iterator[None]:
    """Switch the garbage collector off while large libraries are imported: it finds nothing, for 1/7 of the time."""
    with collector_off():
        yield


@contextmanager
def collector_off() -> Iterator[None]:
    """Switch the garbage collector off, in all threads, while the block runs."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def imported_meanwhile(*names: str) -> Iterator[None]:
    """Import modules in a thread while the block runs, which mostly waits; whoever needs them imports them as usual."""

    def load() -> None:
        for name in names:
            try:
                importlib.import_module(name)
            except Exception:  # whoever needs the module gets the error where it can be reported
                logger.debug("import of %s beside the start of Ray failed", name, exc_info=True)

    thread = threading.Thread(target=load, daemon=True)
    with quick_imports():
        thread.start()
        yield
        thread.join()
