"""Right and wrong programs, and hostile ones: each is contained, and counts as wrong."""

import os
import socket
import threading
from pathlib import Path

import pytest

from rankray.config.evaluation import EvaluateSection
from rankray.errors import ConfigError, DataError
from rankray.evaluate.code import code_in, run_all, run_program

SECONDS = 20.0
HOSTILE = {
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "process pool": "import multiprocessing\nmultiprocessing.Pool(2).map(abs, [1])",
    "another program": "import subprocess\nsubprocess.run(['true'], check=True)",
    "exec": "import os\nos.execv('/bin/true', ['true'])",
    "much memory": "held = bytearray(4 << 30)",
    "growing memory": "held = []\nwhile True:\n    held.append(bytearray(1 << 20))",
    "kill the parent": "import os\nos.kill(os.getppid(), 9)",
    "signal the parent's thread": (
        "import ctypes, os\nassert ctypes.CDLL(None).syscall(234, os.getppid(), os.getppid(), 9) == 0"
    ),
    "all processes": "import os\nos.kill(-1, 9)",
    "write outside": "open('/tmp/rankray-hostile', 'w').write('x')",
    "write above": "open('../rankray-hostile', 'w').write('x')",
    "delete": "import os\nos.unlink({victim!r})",
    "truncate": "import os\nos.truncate({victim!r}, 0)",
    "change a mode": "import os\nos.chmod({victim!r}, 0)",
    "link and write": "import os\nos.symlink({victim!r}, 'link')\nopen('link', 'w').write('x')",
    "read": "open({victim!r}).read()",
    "read a parent's memory": "import os\nopen(f'/proc/{{os.getppid()}}/environ').read()",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)",
    "datagrams": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "a large file": "open('x', 'wb').write(bytes(1 << 26))",
    "a parent's limits": "import os, resource\nresource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (1, 1))",
    "more for itself": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "an early end": "import os\nos._exit(0)",
    "a polite early end": "import sys\nsys.exit(0)",
    "no Python": "def (",
    "recursion": "def f(): return f()\nf()",
    "environment": "import os\nassert set(os.environ) - {{'LC_CTYPE'}}",
}


@pytest.fixture
def listening():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_right_program_is_right_and_a_wrong_one_wrong():
    assert run_program("import math, threading\nopen('own', 'w').write('x')\nassert math.pi > 3", SECONDS).right
    assert not run_program("assert 1 == 2", SECONDS).right


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(name, tmp_path, listening):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    victim.chmod(0o644)
    result = run_program(HOSTILE[name].format(victim=str(victim), port=listening), SECONDS)
    assert not result.right
    assert victim.read_text() == "whole"
    assert victim.stat().st_mode & 0o777 == 0o644
    assert not Path("/tmp/rankray-hostile").exists()


def test_endless_ones_are_stopped_and_counted():
    for program in ("while True: pass", "import time\ntime.sleep(1000)"):
        result = run_program(program, 1.5)
        assert (result.right, result.timed_out) == (False, True)


def test_a_gigabyte_of_output_goes_nowhere():
    program = "import os\nfor _ in range(1024):\n    os.write(1, bytes(1 << 20))\n    os.write(2, bytes(1 << 20))"
    assert run_program(program, SECONDS).right


def test_a_flood_into_the_verdict_is_wrong():
    program = (
        "import os\nfor number in range(3, 1024):\n    try:\n        os.write(number, b'x' * 1000)\n"
        "    except OSError:\n        pass"
    )
    assert not run_program(program, SECONDS).right


def test_many_files_are_stopped():
    program = "number = 0\nwhile True:\n    number += 1\n    open(str(number), 'wb').write(bytes(8 << 20))"
    result = run_program(program, SECONDS)
    assert (result.right, result.timed_out) == (False, False)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = threading.active_count(), len(os.listdir("/proc/self/fd"))
    run_program("open('own', 'w').write('x')", SECONDS)
    assert list(tmp_path.iterdir()) == []
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before


def test_rows_with_their_tests():
    section = EvaluateSection(
        answer="code", allow_code_execution=True, program="{answer}\n{test}", code_seconds=SECONDS
    )
    rows = [{"test": "assert double(2) == 4"}, {"test": "assert double(2) == 5"}]
    answer = "Here:\n```python\ndef double(x):\n    return 2 * x\n```\nDone."
    assert run_all(section, [answer, answer], rows) == ([True, False], 0)
    assert code_in("x = 1") == "x = 1"
    with pytest.raises(DataError, match=r"evaluate\.program: no column 'tests'"):
        run_all(section.model_copy(update={"program": "{answer}{tests}"}), [answer], rows[:1])
    with pytest.raises(ConfigError, match="allow_code_execution: true"):
        run_all(section.model_copy(update={"allow_code_execution": False}), [answer], rows[:1])
