"""Whole: the extension points of rankray, each really one line, through the command line.

A copy of the package gets one more line in `WEIGHTS` or `SAMPLERS`; an evaluation is named in the YAML. Then the real
command runs on the copy, in a process of its own. Nothing else is changed, so a name that is also listed elsewhere,
as in the configuration's schema, would fail here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HALF = '    "mine": lambda stats, knobs: stats.log_prob_N.new_full(stats.log_prob_N.shape, 0.5),'
SAME_DRAW = '    "mine": lambda config, seed: (samplers.RandomSampler, {"seed": 7}),'
EVALUATION = """\
def count(model, tokenizer, rows):
    return {"questions": float(len(rows))}
"""


@pytest.fixture
def add_line(tmp_path):
    """Copy the package and add one line after the line that opens a dictionary in one of its files."""

    def add(file: str, table: str, line: str) -> None:
        shutil.copytree(ROOT / "rankray", tmp_path / "copy" / "rankray", ignore=shutil.ignore_patterns("__pycache__"))
        target = tmp_path / "copy" / "rankray" / file
        text = target.read_text(encoding="utf-8")
        changed, found = re.subn(rf"^({table}: .* = {{)$", rf"\1\n{line}", text, flags=re.MULTILINE)
        assert found == 1, f"{file}: {table}"
        target.write_text(changed, encoding="utf-8")

    return add


@pytest.fixture
def rankray(tmp_path, tree):
    """Run a verb of the copied command line, or of the real one if there is no copy; return the finished process."""

    def run(verb: str, made: dict, *words: str) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "file.yaml"
        storage = {"store": f"sqlite:///{tmp_path / 'store.db'}", "storage": str(tmp_path / "runs")}
        file.write_text(yaml.safe_dump({**made, **storage}), encoding="utf-8")
        package = tmp_path / "copy" if (tmp_path / "copy").is_dir() else ROOT
        return subprocess.run(
            [sys.executable, "-m", "rankray", verb, str(file), *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(tmp_path)])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def last_line(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_weight_function(add_line, rankray, tree):
    """One that gives every token half of sft's weight: half of the loss, and otherwise a training like any other."""
    add_line("loss/weights.py", "WEIGHTS", HALF)
    objectives = ("mine", "sft")
    mine, sft = (
        last_line(rankray("train", tree(), "--set", f"loss.objective={name}", "--json")) for name in objectives
    )
    assert mine["steps"] == sft["steps"] == 4
    assert sft["metrics"]["train/loss"] == pytest.approx(sft["metrics"]["train/nll"])
    assert mine["metrics"]["train/loss"] == pytest.approx(mine["metrics"]["train/nll"] / 2)
    unknown = rankray("train", tree(), "--set", "loss.objective=mien")
    assert unknown.returncode == 2
    assert "did you mean 'mine'" in unknown.stderr
    assert "mine, rri, sft" in unknown.stderr


def test_a_sampler_and_an_evaluation(add_line, rankray, tree, tmp_path):
    """A sampler with a seed of its own: the first trial gets its draw, as under no other, and none gets it again."""
    add_line("store/strategies.py", "SAMPLERS", SAME_DRAW)
    (tmp_path / "my_evaluations.py").write_text(EVALUATION, encoding="utf-8")
    made = tree(study__sampler="mine", study__pruner="none", study__trials=2, study__known=[])
    made["evaluate"]["functions"] = ["my_evaluations:count"]
    made["resources"] = {"concurrency": 1}
    made["space"] = {"loss.temperature": {"float": [0.5, 4.0]}}
    done = rankray("search", made)
    assert done.returncode == 0, done.stderr
    code = (
        "import sys, json; from rankray.store import attach, views; study = attach(sys.argv[1], 'test'); "
        "rows = views.trials(study); shown = [views.trial(study, row['number']) for row in rows]; "
        "print(json.dumps([[row['params']['loss.temperature'] for row in rows], "
        "[row['steps'][-1]['metrics']['eval/questions'] for row in shown]]))"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'store.db'}"], capture_output=True, text=True, check=True
    )
    (first, second), questions = json.loads(listed.stdout)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=7)).ask(
        {"loss.temperature": optuna.distributions.FloatDistribution(0.5, 4.0)}
    )
    assert first == drawn.params["loss.temperature"]
    assert first != second, "nothing is learnt from the same point again"
    assert questions == [10.0, 10.0]
