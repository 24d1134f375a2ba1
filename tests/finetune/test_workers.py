"""Several workers that train one trial together."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rankray.contracts import TrialSpec
from rankray.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import json, os, sys
from rankray.contracts import TrialSpec, Verdict
from rankray.finetune import run
class Reporter:
    def report(self, report):
        assert os.environ["RANK"] == "0", "only the first worker's reporter is asked"
        print(json.dumps({"step": report.step, **report.metrics}))
        return Verdict(stop=report.step == 4, reason="told to")
outcome = run(TrialSpec.from_json(sys.stdin.read()), Reporter())
print(json.dumps({"steps": outcome.steps, "stopped": outcome.stopped}))
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


SHARDED = """
import accelerate.state
from rankray.finetune import arguments
arguments._refuse_fsdp_on_cpus = lambda: None
plain = accelerate.state.AcceleratorState.__init__
def sharding_on_cpus_too(self, *words, fsdp_plugin=None, **named):
    plain(self, *words, fsdp_plugin=fsdp_plugin, **named)
    fsdp_plugin = fsdp_plugin or self.__dict__.get("fsdp_plugin")
    if fsdp_plugin is not None:
        self.distributed_type, self.fsdp_plugin = accelerate.state.DistributedType.FSDP, fsdp_plugin
accelerate.state.AcceleratorState.__init__ = sharding_on_cpus_too
"""
"""accelerate shards on accelerators only; this lets it do so on CPUs, where gloo can."""


def together(spec, first=""):
    """Train a trial in two processes; return what each said, and how each ended."""
    place = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", first + WORKER],
            env={**place, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in "01"
    ]
    for worker in workers:
        worker.stdin.write(spec.to_json())
        worker.stdin.close()
    watch = threading.Timer(120, lambda: [worker.kill() for worker in workers])
    watch.start()
    said = [[json.loads(line) for line in worker.stdout] for worker in workers]
    watch.cancel()
    return said, [worker.wait(timeout=60) for worker in workers]


def test_two_workers_do_what_one_does(tree, train, tmp_path):
    made = tree(train__max_steps=6, train__micro_batch_size=2)
    made["loss"] = {"objective": "talr"}
    alone = train(made, directory="alone")[1].by_step
    said, ended = together(TrialSpec(config=made, directory=str(tmp_path / "together")))
    assert ended == [0, 0]
    assert said[0][-1] == said[1][-1] == {"steps": 4, "stopped": "told to"}
    assert [report["step"] for report in said[0][:-1]] == [2, 4]
    for report in said[0][:-1]:
        for name in ("eval/nll", "train/loss", "train/nll"):
            assert report[name] == pytest.approx(alone[report["step"]][name], rel=2e-4)
    checkpoint = tmp_path / "together" / "step-000004"
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= {path.name for path in checkpoint.iterdir()}


def test_two_workers_that_shard_the_model_do_what_one_does_and_resume(tree, train, tmp_path):
    made = tree(train__max_steps=3, train__parallelism="fsdp", evaluate__max_examples=7)
    alone = train(made, directory="alone")[1].by_step
    sharded = TrialSpec(config=made, directory=str(tmp_path / "sharded"))
    said, ended = together(sharded, SHARDED)
    assert ended == [0, 0]
    assert [report["step"] for report in said[0][:-1]] == [2, 3]
    for report in said[0][:-1]:
        for name in ("eval/nll", "train/loss", "train/nll", "train/mean_weight"):
            assert report[name] == pytest.approx(alone[report["step"]][name], rel=1e-5)
    first = tmp_path / "sharded" / "step-000002"
    names = {path.name for path in first.iterdir()}
    assert {"model.safetensors", "optimizer.bin"} <= names
    assert not names & {"pytorch_model_fsdp.bin", "training_args.bin"}
    resumed, ended = together(
        TrialSpec(config=made, directory=str(tmp_path / "resumed"), checkpoint=str(first)), SHARDED
    )
    assert ended == [0, 0]
    assert resumed[0][:-1] == said[0][:-1], "bit for bit"


def test_sharding_on_cpus_is_refused_and_not_done_as_something_else(tree, train, monkeypatch):
    """accelerate would train with DDP and say nothing."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"train\.parallelism: fsdp on a CPU"):
        train(tree(train__parallelism="fsdp"))
