"""A real search on a real model, shared by several benchmarks and the acceptance runs.

It fine-tunes stories260K on GSM8K; both are found through RANKRAY_TEST_ASSETS (default `../shared`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ASSETS = Path(os.environ.get("RANKRAY_TEST_ASSETS", ROOT.parent / "shared"))

SEARCH = """\
name: {name}
model: {{path: {assets}/models/stories260K}}
data:
  train: {assets}/data/gsm8k/train.jsonl
  eval: {assets}/data/gsm8k/test.jsonl
  prompt: "{{question}}\\n"
  completion: "{{answer}}"
  max_length: 256
train: {{max_steps: 30, batch_size: 8, learning_rate: 1.0e-3}}
evaluate: {{every_steps: 10, max_examples: 64}}
space:
  loss.temperature: {{float: [0.25, 8.0], log: true}}
  loss.entropy_weight: {{float: [0.0, 2.0]}}
  train.learning_rate: {{float: [1.0e-4, 1.0e-2], log: true}}
study: {{metric: eval/nll, trials: {trials}}}
store: {store}
storage: {directory}/runs
"""


def write_search(directory: Path, *, name: str = "stories", trials: int = 8, store: str = "") -> Path:
    """Write the search file into a directory; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{name}.yaml"
    store = store or f"sqlite:///{directory}/store.db"
    file.write_text(SEARCH.format(name=name, assets=ASSETS, trials=trials, store=store, directory=directory))
    return file


def rankray(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line; return the completed process."""
    return subprocess.run([sys.executable, "-m", "rankray", *words], text=True, capture_output=True, **options)


def status(name: str, store: str) -> dict[str, Any]:
    """Return `status --json` of a study."""
    return json.loads(rankray("status", name, "--store", store, "--json", check=True).stdout)


def recorded(name: str, store: str) -> dict[tuple[int, int], dict[str, float]]:
    """Return every committed report of a study: (trial, step) to metrics."""
    from rankray.store import attach
    from rankray.store.records import steps_of

    trials = attach(store, name).trials()
    return {(each.number, step): record.metrics for each in trials for step, record in steps_of(each).items()}
