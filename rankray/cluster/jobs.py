"""A search as a Ray job: the working directory is uploaded, and the driver runs on the cluster's head.

A job's entrypoint and environment are visible to everybody who sees the cluster's dashboard. So they never contain a
store URL with a password: the head has its own in `~/.rankray.env` or `RANKRAY_STORE`. And a cluster that takes jobs
from anybody who can reach its port is refused, unless `RAY_AUTH_MODE=disabled` says that this is intended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankray.checkpoints import places
from rankray.cluster.environment import has_token
from rankray.config import LoadedConfig
from rankray.errors import ConfigError, StorageError, StoreError, SubmitError, first_line
from rankray.paths import file_in_url

EXCLUDED = [".git", ".venv", "__pycache__", "rankray-runs", "rankray-quickstart", "*.db", "*.db-shm", "*.db-wal"]
"""What is not uploaded, beside what `.gitignore` names."""
OWN_STORE = (
    "set -a; if [ -f ~/.rankray.env ]; then . ~/.rankray.env; fi; set +a; "
    'if [ -z "$RANKRAY_STORE" ]; then echo "error: RANKRAY_STORE: not set on the head, and no store was given; '
    "the job's own directory does not last; write RANKRAY_STORE=URL to ~/.rankray.env there, or give --store\" "
    ">&2; exit 2; fi; "
)
"""Shell code that takes the store's URL from `~/.rankray.env` on the head, or from the environment Ray started in."""


@dataclass(frozen=True)
class Job:
    """What is submitted to the cluster.

    Attributes:
        entrypoint: the shell command that the head runs.
        runtime_env: the environment it runs in, as Ray describes it.
    """

    entrypoint: str
    runtime_env: dict[str, Any]


def describe(
    loaded: LoadedConfig,
    directory: Path,
    *,
    sets: Sequence[str] = (),
    store: str = "",
    name: str = "",
    packages: Sequence[str] = (),
) -> Job:
    """Return a search as a job.

    Args:
        loaded: the configuration, read on this machine.
        directory: what is uploaded; the configuration file must lie in it.
        sets: overrides to pass on.
        store: store URL to pass on; it must contain no password.
        name: study name to pass on.
        packages: pip requirements to install on every node for this job, under the directory's `constraints.txt`.

    Raises:
        ConfigError, StoreError, StorageError: something in it exists only on this machine, or contains a secret.
    """
    file = Path(loaded.file).resolve()
    if directory.resolve() not in file.parents:
        raise ConfigError(
            f"{loaded.file}: lies outside {directory}, which is what is uploaded; allowed is a file in it; "
            "change to its directory or give --working-dir"
        )
    _check_store(loaded, store)
    place = loaded.written.get("storage", loaded.config.storage)
    if not places.is_remote(place) and (("storage",) not in loaded.places or not place.startswith(("/", "~"))):
        raise StorageError(
            f"{loaded.where('storage')}: storage: {place} would be in the job's directory, which does not last; "
            "allowed is s3://, gs:// or an absolute path that all nodes share; change storage or give --set storage=..."
        )
    words = ["python", "-m", "rankray", "search", str(file.relative_to(directory.resolve()))]
    for override in sets:
        words += ["--set", override]
    words += [*(["--store", store] if store else []), *(["--name", name] if name else [])]
    entrypoint = ("" if store or ("store",) in loaded.places else OWN_STORE) + "exec " + shlex.join(words)
    environment: dict[str, Any] = {"working_dir": str(directory), "excludes": EXCLUDED}
    if packages:
        shipped = "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
        constrained = ["--constraint", shipped] if (directory / "constraints.txt").is_file() else []
        environment["pip"] = {"packages": list(packages), "pip_install_options": constrained}
    return Job(entrypoint, environment)


def _check_store(loaded: LoadedConfig, store: str) -> None:
    from rankray.store.urls import masked, secrets, validate_url

    given = store or (loaded.written.get("store", loaded.config.store) if ("store",) in loaded.places else "")
    if not given:
        return
    validate_url(given)
    if secrets(given):
        raise StoreError(
            f"store: {masked(given)} holds a password, which everybody who sees the cluster's dashboard would read; "
            "allowed is a URL without one; leave it out and write RANKRAY_STORE=URL to ~/.rankray.env on the head"
        )
    file = file_in_url(given)
    if file is not None and not file.startswith(("/", "~")):
        raise StoreError(
            f"store: {given} would be in the job's directory, which does not last; allowed is a server, or an absolute "
            "path on a disk that lasts; change store"
        )


def require_token() -> None:
    """Make Ray's client send this machine's token; call before the first `import ray`.

    Raises:
        SubmitError: there is no token, and `RAY_AUTH_MODE=disabled` is not set.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "disabled":
        return
    if not has_token():
        raise SubmitError(
            "submit: this machine has no token for the cluster; allowed are RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
            "~/.ray/auth_token; fetch the head's (`ray get-auth-token` there) into ~/.ray/auth_token, or set "
            "RAY_AUTH_MODE=disabled for a cluster that nobody else can reach"
        )
    os.environ["RAY_AUTH_MODE"] = "token"


def refuse_open_cluster(address: str) -> None:
    """Refuse a cluster that answers without a token.

    Raises:
        SubmitError: it answers without a token, or does not answer at all.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/jobs/", timeout=20):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise SubmitError(
            f"submit: {address} answers {error.code} to a question for its jobs; allowed is the address of a Ray "
            "dashboard started with ray[default]; install rankray[cluster] on the head"
        ) from error
    except (OSError, ValueError) as error:
        raise SubmitError(
            f"submit: {address} does not answer ({error}); allowed is the http address of the head's dashboard; "
            "open a tunnel to it (`ray dashboard CLUSTER.yaml`, `kubectl port-forward`, `ssh -L 8265:127.0.0.1:8265`)"
        ) from error
    if os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    raise SubmitError(
        f"submit: the cluster at {address} takes jobs from anybody who reaches its port; allowed is one with token "
        "authentication; start it with RAY_AUTH_MODE=token, or set RAY_AUTH_MODE=disabled here if nobody else can"
    )


def submit(job: Job, address: str) -> tuple[Any, str]:
    """Submit a job; return Ray's client and the job's id.

    Raises:
        SubmitError: what Ray's job client needs is not installed, or the cluster refuses the job.
    """
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk", "ray._private"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = JobSubmissionClient(address)
        return client, client.submit_job(entrypoint=job.entrypoint, runtime_env=job.runtime_env)
    except Exception as error:
        first = first_line(error)
        needs = "; install rankray[cluster] here" if "ray[default]" in str(error) else ""
        raise SubmitError(f"submit: {address} did not take the job: {first}{needs}") from error


def follow(client: Any, job_id: str, show: Callable[[str], None]) -> int:
    """Show a job's output until it ends; return the exit code of its driver, or 1 if it has none."""

    async def tail() -> None:
        async for text in client.tail_job_logs(job_id):
            show(text)

    asyncio.run(tail())
    info = client.get_job_info(job_id)
    if str(info.status.value) == "SUCCEEDED":
        return 0
    code = info.driver_exit_code
    if not code or code < 0:
        show(f"{info.status.value}: {info.message}\n")
    return code if code and code > 0 else 1
