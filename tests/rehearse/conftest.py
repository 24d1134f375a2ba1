"""A recorded table in small: a bowl with known noise, its first seed's runs and its second's."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankray.config import Config
from rankray.store.encoding import Encoding

STEPS = (10, 20, 30)
NOISE = 0.02


def made_config(**study: Any) -> Config:
    return Config.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "train": {"max_steps": 40, "learning_rate": 1e-3},
            "evaluate": {"every_steps": 10, "metrics": ["nll", "accuracy"]},
            "space": {
                "loss.objective": {"choice": ["sft", "rri"]},
                "loss.temperature": {"float": [0.25, 4.0], "log": True, "when": {"loss.objective": "rri"}},
                "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
            },
            "study": {"trials": 12, "known": [], **study},
        }
    )


def true_loss(params: dict[str, Any]) -> float:
    """Best at rri, a temperature of 1 and a rate of 1e-3."""
    off = math.log10(params["train.learning_rate"] / 1e-3) ** 2
    return 1.0 + off + (0.1 * abs(math.log2(params["loss.temperature"])) if "loss.temperature" in params else 0.5)


def rows(config: Config, settings: int = 60, seeds: int = 2) -> list[dict[str, Any]]:
    encoding, draws = Encoding(config), np.random.default_rng(0)
    found = []
    for row in encoding.draw(settings, draws):
        params = encoding.params(row)
        for seed in range(seeds):
            noise = draws.normal(0, NOISE)
            for step in STEPS:
                nll = true_loss(params) + 10 / step + noise
                cells = {path: params.get(path, "") for path in encoding.paths}
                found.append({**cells, "seed": seed, "step": step, "eval/nll": nll, "eval/accuracy": 2 - nll / 2})
    return found


def write_csv(file: Path, table: list[dict[str, Any]]) -> Path:
    lines = [",".join(table[0]), *(",".join(str(value) for value in row.values()) for row in table)]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture
def config() -> Config:
    return made_config()


@pytest.fixture
def file(tmp_path: Path, config: Config) -> Path:
    return write_csv(tmp_path / "runs.csv", rows(config))
