"""A tiny search that really runs: Ray, a random Llama, a SQLite store; and the command line in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from finetune.conftest import ROWS, build_model

FILE = """\
name: tiny
model: {{path: {root}/model}}
data:
  train: {root}/sums.jsonl
  eval: {root}/sums.jsonl
  prompt: "{{question}}\\n"
  completion: "{{answer}}"
  max_length: 48
train: {{max_steps: 6, batch_size: 8, learning_rate: 5.0e-3}}
evaluate: {{every_steps: 2, max_examples: 10}}
space:
  loss.temperature: {{float: [0.25, 8.0], log: true}}
  train.learning_rate: {{float: [1.0e-4, 1.0e-2], log: true}}
study: {{trials: 4}}
store: {store}
storage: {place}/runs
"""
PAUSE = """\
import time


def briefly(model, tokenizer, rows):
    time.sleep(1.0)
    return {"paused": 1.0}
"""


@dataclass
class Place:
    """One directory with a search file in it."""

    file: Path
    store: str

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "rankray", "search", str(self.file), *words]

    def search(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the search to its end."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, env=self.environment())
        assert done.returncode == expect, done.stdout + done.stderr
        return done

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start the search in a process group of its own."""
        with open(self.file.parent / "log.txt", "ab") as log:
            return subprocess.Popen(
                self.command(*words), stdout=log, stderr=log, start_new_session=True, env=self.environment()
            )

    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.file.parent), "RANKRAY_LEASE_SECONDS": "30"}

    def status(self, name: str = "tiny") -> dict[str, Any]:
        words = [sys.executable, "-m", "rankray", "status", name, "--store", self.store, "--json"]
        return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    def trials(self, name: str = "tiny") -> dict[int, dict[str, Any]]:
        from rankray.store import attach, views

        study = attach(self.store, name)
        return {row["number"]: views.trial(study, row["number"]) for row in views.trials(study)}

    def recorded(self, name: str = "tiny") -> dict[tuple[int, int], dict[str, float]]:
        """Return every committed report, (trial, step) to metrics; nothing where there is no study yet."""
        from rankray.errors import StoreError
        from rankray.store import attach
        from rankray.store.records import steps_of

        try:
            trials = attach(self.store, name).trials()
        except StoreError:
            return {}
        return {(each.number, step): record.metrics for each in trials for step, record in steps_of(each).items()}


def kill(process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    """Signal a whole process group, and return how its leader ended."""
    os.killpg(process.pid, number)
    return process.wait(timeout=60)


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120.0) -> None:
    """Wait for a condition while a process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        assert process.poll() is None or condition(), f"the search ended with {process.returncode}"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A model with dropout and its data."""
    root = tmp_path_factory.mktemp("world")
    build_model(root / "model", dropout=0.1)
    (root / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return root


@pytest.fixture(scope="session")
def make_place(world, tmp_path_factory) -> Callable[[], Place]:
    """Return a function that makes a directory of its own for a search."""

    def make() -> Place:
        directory = tmp_path_factory.mktemp("place")
        store = f"sqlite:///{directory / 'store.db'}"
        file = directory / "tiny.yaml"
        file.write_text(FILE.format(root=world, store=store, place=directory))
        (directory / "pause.py").write_text(PAUSE)
        return Place(file, store)

    return make


@pytest.fixture
def place(make_place) -> Place:
    """A directory of its own for one test's search."""
    return make_place()
