"""Answers that are programs: each is run against its tests in a sandboxed process of its own.

Nothing is run unless `evaluate.allow_code_execution` is true. What the process may do is in `code_child`: no network,
no further processes, no writes outside an empty directory that is deleted afterwards, limits of memory, CPU time and
file size, an empty environment. Its output goes nowhere. Here wall time and the size of the directory are watched. A
kernel that cannot confine a process that way (Linux since 5.13 can) runs no program.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import secrets
import select
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rankray.config.evaluation import EvaluateSection
from rankray.config.sections import DataSection
from rankray.data.examples import Places, make_examples
from rankray.data.parse import Row
from rankray.errors import ConfigError
from rankray.paths import temporary_directory

logger = logging.getLogger(__name__)

PROCESSES = 2
DIRECTORY_BYTES = 64 << 20
"""How much a program may write in all."""
BLOCK_BYTES = 4096
LOOK_SECONDS = 0.1
_FENCE = re.compile(r"```[ \t]*(?:python3?|py)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class RunResult:
    """How a program ended.

    Attributes:
        right: whether it ran to its end, so that all its tests hold.
        timed_out: whether it was stopped because it took too long.
    """

    right: bool
    timed_out: bool = False


def run_all(section: EvaluateSection, texts: Sequence[str], rows: Sequence[Row]) -> tuple[list[bool], int]:
    """Run the program in each text, and return which are right and how many took too long.

    Args:
        section: the `evaluate:` block.
        texts: what the model wrote.
        rows: the rows of the data, for `evaluate.program`.

    Raises:
        ConfigError: programs are not allowed to run, or cannot be confined here.
        DataError: `evaluate.program` names a column that does not exist.
    """
    if not section.allow_code_execution:
        raise ConfigError(
            "evaluate.answer: code runs programs that the model writes; allowed only with allow_code_execution: true; "
            "set it if you accept that"
        )
    if not rows:
        return [], 0
    filled = [{**row, "answer": code_in(text)} for row, text in zip(rows, texts, strict=True)]
    before, answer, after = section.program.rpartition("{answer}")
    template = DataSection(train="-", eval="-", format="columns", prompt=before + answer, completion=after)
    places = Places(prompt="evaluate.program", completion="evaluate.program")
    programs = [(str(each.prompt), str(each.completion)) for each in make_examples(filled, template, places)]
    with ThreadPoolExecutor(PROCESSES) as threads:
        results = list(threads.map(lambda parts: run_program(parts[0], section.code_seconds, parts[1]), programs))
    return [result.right for result in results], sum(result.timed_out for result in results)


def code_in(text: str) -> str:
    """Return the last fenced block of a text, or all of it."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text


def run_program(answer: str, seconds: float, tests: str = "") -> RunResult:
    """Run a program in the sandbox.

    Args:
        answer: Python; right if it and the tests run to their end without an exception or an exit.
        seconds: the most wall time it may take, and CPU time.
        tests: what is run after it, in the same namespace.

    Raises:
        ConfigError: it cannot be confined here.
    """
    with temporary_directory("rankray-sandbox-") as directory:
        return _run_in(str(directory), {"answer": answer, "tests": tests}, seconds)


def _run_in(directory: str, parts: dict[str, str], seconds: float) -> RunResult:
    token = secrets.token_hex(16)
    outcome, written = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(Path(__file__).with_name("code_child.py")), str(written)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=directory,
            pass_fds=[written],
            start_new_session=True,
        )
        os.close(written)
        try:
            return _watched(process, outcome, parts, token, seconds, directory)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(outcome)
        _empty(directory)


def _watched(
    process: subprocess.Popen[bytes], outcome: int, parts: dict[str, str], token: str, seconds: float, directory: str
) -> RunResult:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({**parts, "token": token, "seconds": seconds}).encode())
        process.stdin.close()
    except OSError as error:
        logger.debug("the sandbox ended before it had its program: %s", error)
    said, ends = b"", time.monotonic() + seconds
    while time.monotonic() < ends and len(said) < 4 * len(token):
        ready, _, _ = select.select([outcome], [], [], LOOK_SECONDS)
        if ready:
            part = os.read(outcome, 4096)
            said += part
            if not part:
                break
        elif _bytes_below(directory) + _bytes_held(process.pid) > DIRECTORY_BYTES:
            logger.debug("a program wrote more than %d bytes and was stopped", DIRECTORY_BYTES)
            return RunResult(right=False)
    else:
        return RunResult(right=False, timed_out=time.monotonic() >= ends)
    if said.startswith(b"unavailable: "):
        raise ConfigError(
            f"evaluate.answer: code: a program cannot be confined here ({said[13:].decode(errors='replace')}); needed "
            "is Linux 5.13 or later with landlock and seccomp on x86_64 or aarch64; evaluate on such a machine"
        )
    return RunResult(right=said == token.encode())


def _bytes_below(directory: str) -> int:
    """Return how much lies in a directory, each entry a block at least; too much where it is too deep to see."""
    total, places = 0, [directory]
    while places and total <= DIRECTORY_BYTES:
        try:
            for entry in os.scandir(places.pop()):
                total += max(BLOCK_BYTES, entry.stat(follow_symlinks=False).st_size)
                if entry.is_dir(follow_symlinks=False):
                    places.append(entry.path)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return DIRECTORY_BYTES + 1
            logger.debug("a directory went away while it was measured: %s", error)
    return total


def _bytes_held(process: int) -> int:
    """Return how much lies in files that a process has deleted, but has open."""
    total = 0
    try:
        for entry in os.scandir(f"/proc/{process}/fd"):
            found = os.stat(entry.path)
            total += found.st_size if stat.S_ISREG(found.st_mode) and not found.st_nlink else 0
    except OSError as error:
        logger.debug("the open files of %d went away while they were measured: %s", process, error)
    return total


def _empty(directory: str) -> None:
    """Delete what is in a directory however deep it is: what is below is moved up before a directory is emptied."""
    number, prefix, places = 0, os.path.join(directory, secrets.token_hex(8)), [directory]
    try:
        while places:
            place = places.pop()
            os.chmod(place, 0o700)
            for entry in list(os.scandir(place)):
                if entry.is_dir(follow_symlinks=False):
                    number += 1
                    places.append(f"{prefix}-{number}")
                    os.rename(entry.path, places[-1])
                else:
                    os.unlink(entry.path)
            if place != directory:
                os.rmdir(place)
    except OSError as error:
        logger.debug("%s is left behind: %s", directory, error)
