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
    "a signal by way of a file's owner": (
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())\nfcntl.fcntl(r, 10, 9)\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)\nos.write(w, b'x')"
    ),
    "the same by a socket": (
        "import fcntl, os, socket, struct\nfcntl.ioctl(socket.socketpair()[0], 0x8901, struct.pack('i', os.getppid()))"
    ),
    "all of its group": "import os\nos.killpg(0, 9)",
    "a debugger": "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "a child that outlives it": "import os\nif os.fork() == 0:\n    os.setsid()",
    "threads": (
        "import threading, time\nwhile True:\n    threading.Thread(target=time.sleep, args=(99,), daemon=True).start()"
    ),
    "a mapping": "import mmap\nmmap.mmap(-1, 1 << 33)",
    "a hard link": "import os\nos.link({victim!r}, 'x')\nopen('x', 'w').write('x')",
    "a way through a link": "import os\nos.symlink('/', 'root')\nopen('root' + {victim!r}).read()",
    "a parent's files": "import os\nos.open(f'/proc/{{os.getppid()}}/fd/0', os.O_RDONLY)",
    "a parent's whole memory": "import os\nopen(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "the repository": "open({source!r}).read()",
    "users": "open('/etc/passwd').read()",
    "a device": "import os\nos.mknod('zero', 0o20666, os.makedev(1, 5))\nopen('zero', 'rb').read(1)",
    "IPv6": "import socket\nsocket.socket(socket.AF_INET6).connect(('::1', {port}))",
    "abstract sockets": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0rankray')",
    "more than it may write, deleted": (
        "import os\nheld = []\nwhile True:\n    held.append(open('x', 'wb'))\n    os.unlink('x')\n"
        "    held[-1].write(bytes(15 << 20))\n    held[-1].flush()"
    ),
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
    result = run_program(HOSTILE[name].format(victim=str(victim), port=listening, source=__file__), SECONDS)
    assert not result.right
    assert victim.read_text() == "whole"
    assert victim.stat().st_mode & 0o777 == 0o644
    assert not Path("/tmp/rankray-hostile").exists()


def test_directories_too_deep_to_walk_are_deleted(tmp_path, monkeypatch):
    """Deeper than Python recurses."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "import os\nfor _ in range(1200):\n    os.mkdir('d')\n    os.chdir('d')\nraise SystemExit"
    assert not run_program(program, SECONDS).right
    assert list(tmp_path.iterdir()) == []


WRONG = "def double(x):\n    return 5\n"
EQUAL = "class Any:\n    def __eq__(self, other):\n        return True\n"
PLAIN = "assert double(2) == 4\nassert double(3) == 6"
CHECK = "def check(candidate):\n    assert candidate(2) == 4\ncheck(double)"
UNITTEST = (
    "import unittest\nclass Test(unittest.TestCase):\n    def test(self):\n        self.assertEqual(double(2), 4)\n"
    "assert unittest.main(exit=False, argv=['x']).result.wasSuccessful()"
)
QUOTES = "'" * 3
FAKES = {
    "equal to everything": (EQUAL + "def double(x):\n    return Any()", PLAIN),
    "equal to everything, inside": (EQUAL + "def double(x):\n    return [Any()]", "assert double(2) == [4]"),
    "a number equal to everything": (
        EQUAL.replace("Any", "Any(int)") + "    __hash__ = int.__hash__\ndef double(x):\n    return Any(1)",
        PLAIN,
    ),
    "equal to everything, in unittest": (EQUAL + "def double(x):\n    return Any()", UNITTEST),
    "a decorator for the check": (WRONG + "@(lambda f: lambda *a: None)", CHECK),
    "a line that goes on": (WRONG + "x = 1 if True else \\", CHECK),
    "a text around the tests": (WRONG + QUOTES, PLAIN + "\n" + QUOTES),
    "no assertions": ("import unittest\nunittest.TestCase.assertEqual = lambda *a: None\n" + WRONG, UNITTEST),
    "other built-in names": (
        "import builtins\nbuiltins.all = lambda x: True\n" + WRONG,
        "assert all([double(2) == 4])",
    ),
    "another module": (
        "import sys, types\nm = types.ModuleType('math')\nm.isclose = lambda *a: True\nsys.modules['math'] = m\n"
        + WRONG,
        "import math\nassert math.isclose(double(2), 4)",
    ),
    "lines skipped": (
        "import sys\ndef skip(frame, event, argument):\n    if event == 'line':\n        frame.f_lineno = 2\n"
        "    return skip\nsys.settrace(skip)\n" + WRONG,
        PLAIN,
    ),
    "the word, and the token": (
        "import os, sys\nheld = sys._getframe(1).f_locals\nfor value in list(held.values()):\n"
        "    if isinstance(value, bytes):\n        os.write(held.get('outcome', 5), value)\n"
        "held['go'].release()\nimport time\ntime.sleep(0.5)\n" + WRONG,
        PLAIN,
    ),
    "frames of other threads": ("import sys\nsys._current_frames()", ""),
    "all objects": ("import gc\ngc.get_objects()", ""),
    "printed": (WRONG + "print('passed')\nprint('OK')", PLAIN),
    "at exit": (WRONG + "import atexit, os\natexit.register(os._exit, 0)", PLAIN),
}


@pytest.mark.parametrize("name", FAKES)
def test_a_wrong_program_that_claims_to_be_right_is_wrong(name):
    answer, tests = FAKES[name]
    assert not run_program(answer, SECONDS, tests).right


@pytest.mark.parametrize("tests", [PLAIN, CHECK, UNITTEST])
def test_honest_programs_pass_whatever_the_form_of_their_tests(tests):
    answer = (
        "import collections, dataclasses, threading\nPair = collections.namedtuple('Pair', 'a b')\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\nthreading.Thread(target=int).start()\n"
        "def double(x):\n    return 2 * x\n"
    )
    also = "\nassert Pair(1, 2) == (1, 2)\nassert Point(1) == Point(1)\nassert Point(1) != Point(2)"
    assert run_program(answer, SECONDS, tests + also).right


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
