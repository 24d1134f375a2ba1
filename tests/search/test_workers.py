"""Whole: a worker group that may grow: a node is added to a cluster of raylets while the trial trains."""

import json

import pytest
from fixtures.training import ROWS, build_model
from fixtures.waiting import until

from rankray.contracts import TrialSpec, Verdict

SIZE = """\
import os


def size(model, tokenizer, rows):
    return {"workers": float(os.environ.get("WORLD_SIZE", "1"))}
"""
pytestmark = pytest.mark.xdist_group("cluster")

STEPS = 20
RESOURCES = {"workers": [1, 2], "cpus_per_worker": 1, "gpus_per_worker": 0}


class Growing:
    """A reporter that adds a node at the first report, and at the second lets the trial wait until it is used."""

    def __init__(self, nodes=None):
        self.nodes, self.sizes, self.nll = nodes, {}, {}

    def report(self, report):
        if self.nodes and not self.sizes:
            self.nodes.add()
            until(lambda: self.nodes.free_cpus() == 1)
        elif self.nodes and 2.0 not in self.sizes.values():
            until(lambda: self.nodes.free_cpus() == 0)
        self.nll[report.step] = report.metrics["eval/nll"]
        self.sizes[report.step] = report.metrics["eval/workers"]
        return Verdict(stop=False)


def test_a_group_that_may_grow_takes_a_new_node_and_continues(joined, modules, tmp_path, monkeypatch):
    from rankray.finetune import run
    from rankray.search import group

    joined.reset(1)
    (modules / "size.py").write_text(SIZE)
    build_model(tmp_path / "model")
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = {
        "name": "test",
        "model": {"path": str(tmp_path / "model")},
        "data": {
            "train": str(tmp_path / "sums.jsonl"),
            "eval": str(tmp_path / "sums.jsonl"),
            "prompt": "{question}\n",
            "completion": "{answer}",
            "max_length": 48,
        },
        "train": {"max_steps": STEPS, "batch_size": 8, "learning_rate": 1e-3, "threads": 1},
        "evaluate": {"every_steps": 1, "max_examples": 8, "functions": ["size:size"]},
        "resources": RESOURCES,
        "storage": str(tmp_path),
    }
    monkeypatch.setattr(group, "RESIZE_SECONDS", 1.0)
    growing, grown = Growing(joined), group.Group(RESOURCES, str(tmp_path))
    outcome = grown.run(TrialSpec(config, str(tmp_path / "trial")), growing)
    grown.close()
    assert outcome.steps == STEPS
    assert set(growing.sizes.values()) == {1.0, 2.0}
    assert list(growing.nll) == list(range(1, STEPS + 1)), "no step is missing, none is trained in another order"
    alone = Growing()
    run(TrialSpec(config | {"resources": RESOURCES | {"workers": 1}}, str(tmp_path / "alone")), alone)
    before = [step for step, size in growing.sizes.items() if size == 1.0]
    assert [growing.nll[step] for step in before] == [alone.nll[step] for step in before]
    assert growing.nll[STEPS] == pytest.approx(alone.nll[STEPS], rel=1e-3)
