"""math-verify in a small pool of processes, each comparison with a limit of wall-clock time.

math-verify limits itself with `signal.alarm`, which raises outside the main thread and does not interrupt a long
operation of C code; without a limit, simplifying may never end. Here a process that takes longer than `LIMIT_SECONDS`
is killed and replaced; the answer counts as wrong, and is counted. While the machine is busy, a process that has not
had so much CPU time yet is given up to `PATIENCE` times as long: a verdict must not depend on what else runs. The
processes end with this one.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import logging
import math
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from rankray.errors import ConfigError

logger = logging.getLogger(__name__)

PROCESSES = 2
LIMIT_SECONDS = 5.0
PATIENCE = 12
START_SECONDS = 120.0
"""How long a process may take to import what it needs."""


class MathPool:
    """Compares answers in child processes, started when they are first needed.

    Attributes:
        timeouts: comparisons that were given up, because they took too long or broke their process.
    """

    def __init__(self, processes: int = PROCESSES, limit_seconds: float = LIMIT_SECONDS) -> None:
        self._limit, self._size = limit_seconds, processes
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(processes):
            self._idle.put(None)
        self._known: dict[tuple[str, str], bool] = {}
        self.timeouts = 0

    def same(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """Return for each (answer, reference) whether they are the same.

        Raises:
            ConfigError: math-verify is not installed.
        """
        fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._known]
        if fresh:
            require_math_verify()
            if len(self._known) > 100_000:
                self._known.clear()
            with ThreadPoolExecutor(self._size) as threads:
                self._known |= dict(zip(fresh, threads.map(self._one, fresh), strict=True))
        return [self._known[pair] for pair in pairs]

    def close(self) -> None:
        """End the processes."""
        for _ in range(self._size):
            child = self._idle.get()
            if child is not None:
                child.kill()
            self._idle.put(None)

    def _one(self, pair: tuple[str, str]) -> bool:
        child = self._idle.get()
        try:
            if child is None:
                child = _Child()
            right = child.ask(pair, self._limit)
        except _GaveUp as reason:
            logger.debug("answer counted as wrong: %r against %r: %s", *pair, reason)
            self.timeouts += 1
            if child is not None:
                child.kill()
            child, right = None, False
        finally:
            self._idle.put(child)
        return right


class _GaveUp(Exception):
    """A child took too long, or died."""


class _Child:
    def __init__(self) -> None:
        paths = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("math_child.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths},
        )
        if self._line(START_SECONDS) != "ready":
            raise _GaveUp("math-verify did not start")

    def ask(self, pair: tuple[str, str], limit_seconds: float) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(pair).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise _GaveUp(f"its process is gone: {error}") from error
        verdict = json.loads(self._line(limit_seconds))
        if "error" in verdict:
            logger.debug("%r against %r: %s", *pair, verdict["error"])
        return bool(verdict["right"])

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError as error:
                    logger.debug("a pipe of a killed process: %s", error)

    def _line(self, limit_seconds: float) -> str:
        assert self._process.stdout is not None
        begun, ends, wait = self._cpu_seconds(), time.monotonic() + PATIENCE * limit_seconds, limit_seconds
        while not select.select([self._process.stdout], [], [], wait)[0]:
            used = self._cpu_seconds() - begun
            if not used < limit_seconds or time.monotonic() >= ends:
                raise _GaveUp(f"no verdict after {limit_seconds:g} s")
            wait = max(limit_seconds - used, 0.05)
        line = self._process.stdout.readline().decode().strip()
        if not line:
            raise _GaveUp("its process died")
        return line

    def _cpu_seconds(self) -> float:
        """Return the CPU time that the process has had, in seconds; NaN where the system does not say."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError as error:
            logger.debug("the CPU time of %d is not known: %s", self._process.pid, error)
            return math.nan
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def require_math_verify() -> None:
    """Refuse `answer: math` where its package is missing.

    Raises:
        ConfigError: math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        raise ConfigError(
            "evaluate.answer: math needs the package math-verify, which is not installed; allowed without it are auto, "
            "text, a regular expression and module:function; pip install 'rankray[math]'"
        )


@cache
def shared_pool() -> MathPool:
    """Return the pool of this process."""
    pool = MathPool()
    atexit.register(pool.close)
    return pool
