"""What Ray starts in place of Python for a worker where a fork server runs: it asks there for a fork, and goes.

    python -I -S fork_stub.py SOCKET SCRIPT ARGUMENT...

The fork takes over everything this process was given: arguments, environment, directory, open files, signal mask and
out-of-memory score. Without an answer this process becomes the ordinary `python SCRIPT ARGUMENT...`, so a fork server
that is gone, or that refuses, costs time and nothing else. Only the standard library is used, and little of it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

READY_SECONDS = 40.0
"""How long to wait for a server that still imports; Ray itself gives up on a worker that is silent for 60."""


def main(place: str, command: list[str]) -> None:
    """Become a fork of the server that listens at `place`, or the ordinary process."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.settimeout(READY_SECONDS)
        server.connect(place)
        if _taken(server, command):
            os._exit(0)
    os.execv(sys.executable, [sys.executable, *command])


def _taken(server: socket.socket, command: list[str]) -> bool:
    """Ask for a fork, and return whether there is one; it answers for itself."""
    if server.recv(1) != b"+":
        return False
    wanted: dict[str, Any] = {
        "command": command,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "leads": os.getpgid(0) == os.getpid(),
        "oom_score": _read("/proc/self/oom_score_adj"),
    }
    text = json.dumps(wanted).encode()
    socket.send_fds(server, [len(text).to_bytes(8, "big")], _open_files(server))
    server.sendall(text)
    return server.recv(1) == b"+"


def _open_files(but: socket.socket) -> list[int]:
    """Return all open files, the standard ones first."""
    found = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > 2]
    return [0, 1, 2, *(number for number in found if number != but.fileno() and _is_open(number))]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _read(file: str) -> str:
    with open(file) as opened:
        return opened.read().strip()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
