"""Ray clusters of this machine's own, started by `ray start` on free ports and killed with all their processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

TOKEN = "0123456789abcdef0123456789abcdef"


@dataclass
class Head:
    """A running cluster.

    Attributes:
        address: of its GCS, for RAY_ADDRESS.
        dashboard: its http address.
        directory: where Ray keeps its session.
    """

    address: str
    dashboard: str
    directory: Path
    process: subprocess.Popen[bytes]

    def add(self, *words: str, **more: str) -> None:
        """Add a node, with further arguments of `ray start` and environment variables; it is killed with the rest."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={self.address}", *words]
        subprocess.run(command, env=environment(**more), check=True, capture_output=True, timeout=120)

    def kill(self) -> None:
        """Kill every process of the cluster, head included, and nothing else."""
        mine = set()
        with suppress(psutil.NoSuchProcess):
            mine.update(psutil.Process(self.process.pid).children(recursive=True))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if any(str(self.directory) in word for word in process.cmdline()):
                    mine.update({process, *process.children(recursive=True)})
        for process in mine:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(list(mine), timeout=30)


def environment(**more: str) -> dict[str, str]:
    """Return an environment for Ray with a token of its own; rankray and python are those of this process."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RANKRAY_"))}
    own = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | own | more


@contextmanager
def ray_head(*words: str, **more: str) -> Iterator[Head]:
    """Start a head with `ray start`, and kill the cluster at the end.

    Args:
        words: further arguments.
        more: further environment variables.
    """
    port, dashboard = free_ports(2)
    directory = Path(tempfile.mkdtemp(prefix="rr-"))  # short: socket paths have a limit
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", f"--port={port}", f"--dashboard-port={dashboard}",
        "--dashboard-agent-listen-port=0", f"--temp-dir={directory}", *words,
    ]  # fmt: skip
    with open(directory / "start.log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment(**more), start_new_session=True, cwd=directory
        )
    head = Head(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", directory, process)
    try:
        _until_started(head)
        yield head
    finally:
        head.kill()
        shutil.rmtree(directory, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    """Return different ports that nobody listens on: asked for one after the other, two may be the same."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _until_started(head: Head, seconds: float = 120.0) -> None:
    log, end = head.directory / "start.log", time.monotonic() + seconds
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert head.process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.2)
