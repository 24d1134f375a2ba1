"""Several workers that train one trial together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rankray.contracts import TrialSpec

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


def test_two_workers_do_what_one_does(tree, train, tmp_path):
    made = tree(train__max_steps=6, train__micro_batch_size=2)
    made["loss"] = {"objective": "talr"}
    alone = train(made, directory="alone")[1].by_step
    spec = TrialSpec(config=made, directory=str(tmp_path / "together")).to_json()
    place = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**place, "RANK": rank, "LOCAL_RANK": rank},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in "01"
    ]
    for worker in workers:
        worker.stdin.write(spec)
        worker.stdin.close()
    said = [[json.loads(line) for line in worker.stdout] for worker in workers]
    assert [worker.wait(timeout=60) for worker in workers] == [0, 0]
    assert said[0][-1] == said[1][-1] == {"steps": 4, "stopped": "told to"}
    assert [report["step"] for report in said[0][:-1]] == [2, 4]
    for report in said[0][:-1]:
        for name in ("eval/nll", "train/loss", "train/nll"):
            assert report[name] == pytest.approx(alone[report["step"]][name], rel=2e-4)
    checkpoint = tmp_path / "together" / "step-000004"
    assert {"rng_state_0.pth", "rng_state_1.pth", "model.safetensors"} <= {path.name for path in checkpoint.iterdir()}
