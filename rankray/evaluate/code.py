"""Answers that are programs: each is run against its tests in a sandboxed process of its own.

Nothing is run unless `evaluate.allow_code_execution` is true. What the process may do is in `code_child`: no network,
no further processes, no writes outside an empty directory that is deleted afterwards, limits of memory, CPU time and
file size, an empty environment. Its output goes nowhere. Here wall time and the size of the directory are watched. A
kernel that cannot confine a process that way (Linux since 5.13 can) runs no program.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import select
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
    template = DataSection(train="-", eval="-", format="columns", prompt=section.program, completion="")
    programs = [str(each.prompt) for each in make_examples(filled, template, Places(prompt="evaluate.program"))]
    with ThreadPoolExecutor(PROCESSES) as threads:
        results = list(threads.map(lambda program: run_program(program, section.code_seconds), programs))
    return [result.right for result in results], sum(result.timed_out for result in results)


def code_in(text: str) -> str:
    """Return the last fenced block of a text, or all of it."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text


def run_program(program: str, seconds: float) -> RunResult:
    """Run a program in the sandbox.

    Args:
        program: Python; right if it runs to its end without an exception or an exit.
        seconds: the most wall time it may take, and CPU time.

    Raises:
        ConfigError: it cannot be confined here.
    """
    with temporary_directory("rankray-sandbox-") as directory:
        return _run_in(str(directory), program, seconds)


def _run_in(directory: str, program: str, seconds: float) -> RunResult:
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
            return _watched(process, outcome, program, token, seconds, directory)
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(outcome)


def _watched(
    process: subprocess.Popen[bytes], outcome: int, program: str, token: str, seconds: float, directory: str
) -> RunResult:
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps({"program": program, "token": token, "seconds": seconds}).encode())
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
        elif _bytes_below(directory) > DIRECTORY_BYTES:
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
    total = 0
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError as error:
                logger.debug("%s went away while it was measured: %s", name, error)
    return total
