"""Worker processes that are forked from one that has imported everything, on a machine of one's own.

A trial slot imports torch, transformers, trl and Ray Tune: five seconds of one core, and again for every slot, every
worker of a group and every process that replaces another. Where the search starts Ray itself, one process, the fork
server, imports them once while Ray starts, and each of Ray's workers is a fork of it that shares its memory:

    driver --starts--> fork server: imports, waits                         raylet
                            | ^                                              | starts, in Python's place
                            | +------------asks, hands over----------- fork_stub.py, which then goes
                            +--forks--> worker: Ray's own worker script

Ray is told by its `py_executable` runtime environment. The server forks only if that is sound: nothing runs in it but
one thread, and two forks of it draw different random ids (docs/traps.md). If it is not, or dies, or is asked for an
environment that is not its own, Ray's workers start the ordinary way, some seconds later. It does not outlive the
driver, and never has the store's credentials. `RANKRAY_FORK=0` does without it; so does a machine with an accelerator,
unless `RANKRAY_FORK=1` asks for it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SWITCH = "RANKRAY_FORK"
ACCELERATORS = ("nvidia*", "nvhost*", "nvgpu*", "kfd", "dxg", "accel*", "davinci*", "habana*", "neuron*")
"""Device files of accelerators, whose libraries may not survive a fork."""
LIBRARIES = ("rankray.finetune.run", "rankray.search.carrier")
"""What is imported without Ray, while Ray starts."""
WORKER = "ray._private.workers.default_worker"
TRIALS = ("rankray.search.actor",)
GROUPS = (*TRIALS, "ray.train.torch", "rankray.search.group")
"""What trials of several workers need of Ray."""
THEIRS = ("SPT_NOENV", "PYTHONBREAKPOINT", "PL_DISABLE_FORK", "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC")
"""Variables that Ray gives some workers, and that are not read before a worker runs."""
SHELLS = ("_", "SHLVL", "PWD", "OLDPWD", "LINES", "COLUMNS")
"""Variables of the shell through which Ray starts workers: it sets some and drops others."""
FORKABLE = ("jemalloc_bg_thd",)
"""Threads whose library stops them for a fork and starts them in it; OpenBLAS has stopped its own by the first one."""
LONGEST_PATH = 100
"""A socket's path may not be much longer."""
TALK_SECONDS = 10.0

Role = dict[str, Any]
"""What a stub was given: command, environment, directory, files, blocked, leads, oom_score."""


def wanted() -> bool:
    """Whether workers are to be forked on this machine."""
    if sys.platform != "linux":
        return False
    asked = os.environ.get(SWITCH, "")
    has_accelerator = any(any(Path("/dev").glob(name)) for name in ACCELERATORS)
    return asked == "1" or (asked != "0" and not has_accelerator)


@contextmanager
def fork_server(modules: Sequence[str], verbose: bool = False) -> Iterator[str | None]:
    """Run a fork server, and yield Ray's `py_executable`, or None where there is to be none.

    The server has the environment in which it is started, and Ray is to be started in the same. Its imports take
    seconds, for which workers wait, not the caller.

    Args:
        modules: what to import with Ray.
        verbose: let the server say why it ends.
    """
    directory = tempfile.mkdtemp(prefix="rankray-fork-") if wanted() else ""
    place = os.path.join(directory, "socket")
    if not directory or len(place) > LONGEST_PATH:
        shutil.rmtree(directory, ignore_errors=True)
        yield None
        return
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(place)
        listener.listen(64)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rankray.search.forks", str(listener.fileno()), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if verbose else subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
    try:
        yield shlex.join([sys.executable, "-I", "-S", str(Path(__file__).with_name("fork_stub.py")), place])
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(directory, ignore_errors=True)


def serve(listener: socket.socket, modules: Sequence[str]) -> Role | None:
    """Import everything, then fork whenever asked; return None once the driver is gone, and in a fork what it is to be.

    Ray reads its variables when it is imported, those of a worker's job and raylet among them. So the first worker that
    asks brings them, and Ray is imported then, after all the rest.

    Raises:
        RuntimeError: this process cannot be forked soundly.
    """
    environment, first = dict(os.environ), sys.path[0]
    for name in LIBRARIES:
        importlib.import_module(name)
    made = {name: value for name, value in os.environ.items() if environment.get(name) != value}
    adopted: dict[str, str] | None = None
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        with listener.accept()[0] as stub:
            try:
                role = hear(stub)
            except (OSError, ValueError):
                continue
            if adopted is None and _common(role["environment"], but="RAY_") == _common(environment, but="RAY_"):
                adopted = role["environment"]
                os.environ.update({**adopted, **made})
                import_ray([WORKER, *modules])
                check_forks()
                signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            if adopted is not None and _common(role["environment"]) == _common(adopted) and os.fork() == 0:
                _answer(stub, role, first)
                return role
            for file in role["files"]:
                os.close(file)


def import_ray(modules: Sequence[str]) -> None:
    """Import modules that import Ray, drawing none of Ray's random ids.

    Remote classes draw one when they are defined, and a generator that has been used goes on alike in every fork. Here
    they get theirs from the operating system.
    """
    from unittest.mock import patch

    import ray.actor

    class FromSystem:
        @staticmethod
        def from_random() -> Any:
            return ActorClassID(os.urandom(ActorClassID.size()))

    ActorClassID = ray.actor.ActorClassID
    with patch.object(ray.actor, "ActorClassID", FromSystem):
        for name in modules:
            importlib.import_module(name)
    gc.freeze()


def check_forks() -> None:
    """See that two forks of this process draw different ids, and that no thread runs that they would lack.

    Raises:
        RuntimeError: they do not, or one does.
    """
    from ray._raylet import UniqueID

    ids = {in_fork(lambda: UniqueID.from_random().binary()) for _ in range(2)}
    threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("*/comm")]
    if len(ids) != 2 or not all(ids) or sum(name not in FORKABLE for name in threads) != 1:
        raise RuntimeError(f"forks would not be sound: {len(ids)} different ids of 2, threads {', '.join(threads)}")


def in_fork(function: Callable[[], bytes]) -> bytes:
    """Return what a function returns in a fork of this process, or nothing where it fails."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writes, function())
        finally:
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def hear(stub: socket.socket) -> Role:
    """Tell a stub that the server is there, and return what the stub was given.

    Raises:
        OSError: it has gone, or is silent.
        ValueError: it has gone before it said all.
    """
    stub.settimeout(TALK_SECONDS)
    stub.sendall(b"+")
    head, files, _, _ = socket.recv_fds(stub, 8, 250)
    missing, parts = int.from_bytes(head, "big"), []
    while missing:
        parts.append(stub.recv(min(1 << 20, missing)))
        missing -= len(parts[-1])
        if not parts[-1]:
            raise ValueError("the stub is gone")
    return {**json.loads(b"".join(parts)), "files": files}


def _common(environment: dict[str, str], but: str = "\0") -> dict[str, str]:
    """Return the variables that all workers have alike, without those that begin with `but`."""
    own = {*THEIRS, *SHELLS}
    return {name: value for name, value in environment.items() if name not in own and not name.startswith(but)}


def _answer(stub: socket.socket, role: Role, first: str) -> None:
    """Become what the stub was to be, and tell it; a fork that cannot is to end here, and the stub starts another."""
    try:
        _become(role, first)
        stub.sendall(b"+")
    except BaseException:
        os._exit(1)


def _become(role: Role, first: str) -> None:
    """Take over what the stub was given, and what an ordinary process has that the server had not.

    Args:
        first: what `sys.path` began with before anything was imported; a script's directory comes before it.
    """
    import numpy

    for number, file in enumerate(role["files"][:3]):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, role["blocked"])
    if role["leads"]:
        os.setpgid(0, 0)
    os.chdir(role["directory"])
    for name in (*THEIRS, *SHELLS):
        os.environ.pop(name, None)
        if name in role["environment"]:
            os.environ[name] = role["environment"][name]
    Path("/proc/self/oom_score_adj").write_text(role["oom_score"])
    numpy.random.seed()
    sys.argv = role["command"]
    sys.path.insert(sys.path.index(first), os.path.dirname(role["command"][0]))
    gc.enable()


def main() -> None:
    """Serve; a fork runs Ray's worker script from here, with nothing of the server's on the stack."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.disable()
    with socket.socket(fileno=int(sys.argv[1])) as listener:
        place = listener.getsockname()
        role = serve(listener, sys.argv[2:])
    if role is None:  # of a driver that was killed, this is left
        shutil.rmtree(os.path.dirname(place), ignore_errors=True)
        return
    runpy.run_path(role["command"][0], run_name="__main__")


if __name__ == "__main__":
    main()
