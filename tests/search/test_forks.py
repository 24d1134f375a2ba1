"""Workers that are forks: sound, like ordinary ones, replaced by ordinary ones, and gone when they are to be gone."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from rankray.search import forks
from search.conftest import kill, until

HOLD = """
import sys, time
from rankray.search import forks
with forks.fork_server(forks.TRIALS) as python:
    print(python, flush=True)
    time.sleep(600)
"""
USED = """
from ray._raylet import UniqueID
from rankray.search import forks
UniqueID.from_random()
forks.check_forks()
"""
CLASSES = """
import ray
from ray._raylet import UniqueID
from rankray.search import forks
@ray.remote
class Defined:
    pass
print(len({forks.in_fork(lambda: UniqueID.from_random().binary()) for _ in range(2)}))
"""


def facts():
    """What tells one worker process from another."""
    import random
    import uuid

    import numpy
    from ray._raylet import UniqueID

    forked = "rankray.finetune.run" in sys.modules
    import rankray.finetune.run  # noqa: F401  # torch sets a variable when it is imported

    status = Path("/proc/self/status").read_text().splitlines()
    own = ("RAY_RAYLET_PID", "RAY_JOB_ID", forks.SWITCH, *forks.SHELLS)
    return {
        "like all": {
            "signals": [line for line in status if line.startswith(("SigBlk", "SigIgn", "SigCgt"))],
            "oom": Path("/proc/self/oom_score_adj").read_text(),
            "directory": os.getcwd(),
            "script": sys.argv[0],
            "path": sys.path,
            "leads": os.getpgid(0) == os.getpid(),
            "session": os.getsid(0),
            "environment": {name: value for name, value in os.environ.items() if name not in own},
            "input": os.readlink("/proc/self/fd/0"),
        },
        "own": [random.random(), numpy.random.random(), uuid.uuid4().hex, UniqueID.from_random().hex()],
        "forked": forked,
    }


def train(text, directory):
    """Train a trial; return all it reports, as text."""
    from rankray.contracts import TrialSpec, Verdict
    from rankray.finetune import run

    said = []

    class Recorder:
        def report(self, report):
            said.append(report.metrics)
            return Verdict(stop=False)

    said.append(run(TrialSpec(config=json.loads(text), directory=directory, number=0), Recorder()).metrics)
    return json.dumps(said)


def commands_below(process):
    """Return process id to command line of all processes below one."""
    found = {}
    for each in process.children(recursive=True):
        with suppress(psutil.Error):
            found[each.pid] = " ".join(each.cmdline())
    return found


@contextmanager
def ray_of_forks():
    """Start Ray as a search does, and yield the process that forks, if one does."""
    from rankray.search.cluster import prepare_environment, ray_session

    prepare_environment()
    with forks.fork_server(forks.TRIALS) as python:
        servers = [each for each in psutil.Process().children() if "rankray.search.forks" in each.cmdline()]
        with ray_session(verbose=False, python=python, state_api=False):
            yield servers[0] if servers else None


def ask(function, *args, **options):
    """Call a function in a process of its own."""
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Asked:
        def call(self, *args):
            return function(*args)

    actor = ray.remote(num_cpus=1, **options)(Asked).remote()
    try:
        return ray.get(actor.call.remote(*args), timeout=120)
    finally:
        ray.kill(actor)


@pytest.fixture(scope="module")
def server():
    """A Ray whose workers are forks; the process that forks them."""
    skip_where_nothing_forks()
    with ray_of_forks() as server:
        yield server


def skip_where_nothing_forks():
    if not forks.wanted():
        pytest.skip("workers are forked on Linux, and beside an accelerator only if RANKRAY_FORK=1 asks for it")


def test_a_fork_is_as_an_ordinary_worker():
    skip_where_nothing_forks()
    command = [sys.executable, "-m", "search.test_forks"]
    forked, ordinary = (
        json.loads(
            subprocess.check_output(
                command, text=True, cwd=Path(__file__).parents[1], env=os.environ | {forks.SWITCH: switch}
            )
        )
        for switch in ("", "0")
    )
    assert forked["forked"]
    assert not ordinary["forked"]
    assert forked["like all"] == ordinary["like all"]


def test_two_forks_have_nothing_random_in_common(server):
    first, second = ask(facts)["own"], ask(facts)["own"]
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_a_trial_gives_the_same_numbers_in_a_fork(server, world, tmp_path):
    config = {
        "name": "test",
        "model": {"path": f"{world}/model"},
        "data": {"train": f"{world}/sums.jsonl", "eval": f"{world}/sums.jsonl", "prompt": "{question}\n"}
        | {"completion": "{answer}", "max_length": 48},
        "train": {"max_steps": 6, "batch_size": 8, "learning_rate": 5e-3, "threads": 1},
        "evaluate": {"every_steps": 2, "max_examples": 8},
    }
    text = json.dumps(config)
    assert ask(train, text, str(tmp_path / "forked")) == train(text, str(tmp_path / "here"))


def test_another_environment_gets_an_ordinary_worker(server):
    def seen():
        return os.environ.get("TOKENIZERS_PARALLELISM"), "rankray.finetune.run" in sys.modules

    other = {"env_vars": {"TOKENIZERS_PARALLELISM": "false"}}
    assert ask(seen, runtime_env=other) == ("false", False)


def test_ray_runs_here_without_what_nobody_asks(server):
    running = commands_below(psutil.Process()).values()
    assert any("raylet" in command for command in running)
    for name in ("monitor.py", "dashboard.py", "log_monitor.py"):
        assert not [command for command in running if name in command]


def test_a_stub_that_goes_before_its_time_harms_no_other(server):
    import ray

    place = shlex.split(ray.get_runtime_context().runtime_env["py_executable"])[-1]
    for said in (b"", b"\0" * 7 + b"\x09{", b"\0" * 7 + b"\x01{"):
        with socket.socket(socket.AF_UNIX) as stub:
            stub.connect(place)
            assert stub.recv(1) == b"+"
            stub.sendall(said)
    assert ask(facts)["forked"]


def test_without_its_server_a_worker_starts_the_ordinary_way(server):
    """The last one that may use the server."""
    assert ask(facts)["forked"]
    server.kill()
    server.wait()
    assert not ask(facts)["forked"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_forks_all_its_workers(place, workers):
    skip_where_nothing_forks()
    words = ("--set", "study.trials=1", "--set", "train.max_steps=2000", "--set", f"resources.workers={workers}")
    process = place.begin(*words)
    until(lambda: bool(place.recorded()), process)
    driver = psutil.Process(process.pid)
    [server] = [each for each in driver.children() if "rankray.search.forks" in " ".join(each.cmdline())]
    forked = {each.pid for each in server.children()}
    running = {pid for pid, command in commands_below(driver).items() if re.match("ray::(?!.*Agent)", command)}
    assert len(forked) >= workers
    assert forked == running
    assert any("dashboard.py" in command for command in commands_below(driver).values()) == (workers > 1)
    assert kill(process, signal.SIGTERM) == 130


def test_a_server_goes_with_its_driver(tmp_path):
    skip_where_nothing_forks()
    driver = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    place = driver.stdout.readline().split()[-1]
    [server] = psutil.Process(driver.pid).children()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    server.wait(timeout=60)
    end = time.monotonic() + 10
    while Path(place).exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(place).parent.exists()


def test_a_stub_without_a_server_is_ordinary_python(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys; print(sys.argv[1:], sys.flags.isolated, sys.flags.no_site)")
    stub = Path(forks.__file__).with_name("fork_stub.py")
    command = [sys.executable, "-I", "-S", str(stub), str(tmp_path / "none"), str(script), "a b", "--c"]
    assert subprocess.check_output(command, text=True) == "['a b', '--c'] 0 0\n"


def test_a_process_whose_generator_was_used_is_not_forked():
    """Forks would draw the same ids, and Ray would take one worker's objects for another's."""
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True)
    assert "RuntimeError: forks would not be sound: 1 different ids of 2" in done.stderr


def test_a_remote_class_draws_from_rays_generator():
    """Where this prints 2, `import_ray` needs no stand-in any more."""
    assert subprocess.check_output([sys.executable, "-c", CLASSES], text=True) == "1\n"


def test_no_forks_where_there_is_an_accelerator_or_they_are_not_wanted(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(forks.SWITCH, raising=False)
    monkeypatch.setattr(forks, "ACCELERATORS", ("no such*",))
    assert forks.wanted()
    monkeypatch.setenv(forks.SWITCH, "0")
    assert not forks.wanted()
    with forks.fork_server(forks.TRIALS) as python:
        assert python is None
    monkeypatch.delenv(forks.SWITCH)
    monkeypatch.setattr(forks, "ACCELERATORS", ("null",))
    assert not forks.wanted()
    monkeypatch.setenv(forks.SWITCH, "1")
    assert forks.wanted()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not forks.wanted()


if __name__ == "__main__":
    with ray_of_forks():
        print(json.dumps(ask(facts)))
