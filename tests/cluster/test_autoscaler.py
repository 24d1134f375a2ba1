"""Ray's real autoscaler, over its provider that starts raylets instead of machines: grown for a search, and shrunk."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures.ports import free_port
from fixtures.searches import AT_ONCE
from fixtures.waiting import LIMIT_SECONDS, ended, until

from rankray.config import Config
from rankray.errors import ConfigError

FILE = Path(__file__).parents[2] / "cluster" / "local-autoscaling.yaml"
WATCH = """
import sys, time
import ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
while True:
    print("NODES", time.time(), sum(node["Alive"] for node in ray.nodes()) - 1, flush=True)
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def autoscaling(tmp_path_factory, modules):
    """A head whose autoscaler may start three nodes of one CPU, with the tests' token; its address."""
    place = tmp_path_factory.mktemp("head")
    node = "f" * 51 + "00000"
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_CLOUD_INSTANCE_ID": node,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": node,
    }
    port = free_port()
    text = FILE.read_text().replace("127.0.0.1:6379", f"127.0.0.1:{port}")
    (place / "cluster.yaml").write_text(text.replace("idle_timeout_minutes: 0.2", "idle_timeout_minutes: 0.05"))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=0"]
    options = [f"--port={port}", "--autoscaling-config=cluster.yaml", "--include-dashboard=false"]
    address = "--node-ip-address=127.0.0.1"
    with open(place / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [*command, *options, address],
            env=os.environ | environment,
            cwd=place,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    until(lambda: "Ray runtime started" in (place / "log.txt").read_text(), process, log=place / "log.txt")
    yield f"127.0.0.1:{port}"
    process.send_signal(signal.SIGTERM)
    try:
        ended(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None


@pytest.fixture
def head(autoscaling, monkeypatch):
    """The head, for the searches of one test."""
    monkeypatch.setenv("RAY_ADDRESS", autoscaling)
    return autoscaling


def test_the_cluster_grows_for_a_search_and_shrinks_to_nothing(head, place, gate):
    """The first trials are held until there are three nodes."""
    watcher = subprocess.Popen([sys.executable, "-c", WATCH, head], stdout=subprocess.PIPE, text=True)
    seen, end = [], time.time() + LIMIT_SECONDS

    def watch(until_nodes, process=None):
        for line in watcher.stdout:
            if line.startswith("NODES "):
                _, at, nodes = line.split()
                seen.append((float(at), int(nodes)))
                if seen[-1][1] == until_nodes:
                    return
                assert process is None or process.poll() is None, place.log.read_text()
                assert time.time() < end, f"waited in vain for {until_nodes} nodes"

    watch(0)
    begun = time.time()
    process = place.begin("--set", "study.trials=6", *AT_ONCE, *gate.words)
    watch(3, process)
    full = time.time()
    gate.open()
    assert ended(process) == 0, place.log.read_text()
    over = time.time()
    watch(0)
    watcher.kill()
    assert "starting 3 trial slots (3 of 3 that fit, 0 of them now)" in place.log.read_text()
    assert max(nodes for _, nodes in seen) == 3
    assert seen[-1][1] == 0, "nodes go back when there is nothing more to do"
    assert place.status()["budget"] == {"trials": 6, "finished": 6}
    spans = [(at, nodes, then - at) for (at, nodes), (then, _) in itertools.pairwise(seen)]
    idle = sum(nodes * seconds for at, nodes, seconds in spans if at > over)
    print(
        f"\nfrom the command to 3 nodes {full - begun:.1f} s, of a search of {over - begun:.1f} s; "
        f"idle afterwards {idle:.0f} node-seconds, gone {seen[-1][0] - over:.1f} s after its end"
    )


def test_what_even_a_grown_cluster_cannot_hold_is_refused(head, place):
    done = place.search("--set", "resources.cpus_per_worker=2", expect=2)
    assert "a trial asks for 2 CPU" in done.stderr
    assert "up to 3 worker of 1 CPU" in done.stderr


def kinds(monkeypatch, there, startable=(), reports=False):
    """Let a cluster be so; kinds are (name, resources, count)."""
    from rankray.cluster.autoscaler import NodeKind
    from rankray.search import placement

    monkeypatch.setattr(placement, "nodes_there", lambda: [NodeKind(*kind) for kind in there])
    monkeypatch.setattr(placement, "nodes_startable", lambda: [NodeKind(*kind) for kind in startable])
    monkeypatch.setattr(placement, "autoscaler_reports", lambda: reports)
    return placement.place


def configured(**resources):
    data = {"train": "a.jsonl", "eval": "a.jsonl", "prompt": "{q}", "completion": "{a}"}
    return Config.model_validate({"name": "x", "model": {"path": "m"}, "data": data, "resources": resources})


HEAD = ("", {"CPU": 0.0, "node:__internal_head__": 1.0})
GPUS = ("spot", {"CPU": 8.0, "GPU": 2.0}, 4)


@pytest.mark.parametrize(
    ("resources", "slots", "bundle"),
    [
        ({"gpus_per_worker": 1}, 8, {"CPU": 1.0, "GPU": 1.0}),
        ({"gpus_per_worker": 0.5}, 16, {"CPU": 1.0, "GPU": 0.5}),
        ({"gpus_per_worker": 1, "cpus_per_worker": 8}, 4, {"CPU": 8.0, "GPU": 1.0}),
        ({"gpus_per_worker": 1, "workers": 2}, 4, {"node:__internal_head__": 0.001}),
        ({"gpus_per_worker": 1, "workers": [2, 8]}, 1, {"node:__internal_head__": 0.001}),
        ({"gpus_per_worker": 1, "concurrency": 3}, 3, {"CPU": 1.0, "GPU": 1.0}),
    ],
)
def test_slots_are_counted_over_what_could_be_started(monkeypatch, resources, slots, bundle):
    place = kinds(monkeypatch, [HEAD], [GPUS])
    found = place(configured(**resources))
    assert (found.slots, found.bundle) == (slots, bundle)


def test_nodes_that_run_already_are_not_counted_twice(monkeypatch):
    place = kinds(monkeypatch, [HEAD, ("", {"CPU": 8.0, "GPU": 2.0})], [GPUS])
    found = place(configured(gpus_per_worker=1))
    assert (found.slots, found.reason) == (8, "8 of 8 that fit, 2 of them now")


def test_an_autoscaler_of_unknown_limits_is_taken_at_the_files_word(monkeypatch):
    place = kinds(monkeypatch, [HEAD], reports=True)
    assert place(configured(gpus_per_worker=1, workers=2, concurrency=5)).slots == 5
    with pytest.raises(ConfigError, match=r"set resources\.concurrency to a number"):
        place(configured(gpus_per_worker=1))


def test_more_workers_than_fit_are_refused(monkeypatch):
    place = kinds(monkeypatch, [HEAD], [GPUS])
    with pytest.raises(ConfigError, match="9 workers of 1 CPU, 1 GPU each; the nodes here have room for 8"):
        place(configured(gpus_per_worker=1, workers=9))
