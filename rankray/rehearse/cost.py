"""What a rehearsed search costs: full runs as hours of its GPUs, by how long a step and an evaluation take.

A rehearsal counts in full runs, which holds for any machine. How long one takes is the user's to say: measured in a
trial, or estimated.
"""

from __future__ import annotations

import math
from typing import Any

from rankray.config import Config


def run_hours(config: Config, step_seconds: float, report_seconds: float = 0.0) -> float:
    """Return the hours of one full run: its steps, and its evaluations, at step 0 none.

    Args:
        config: of the search.
        step_seconds: of one optimizer step.
        report_seconds: of one evaluation with its checkpoint.
    """
    reports = math.ceil(config.train.max_steps / config.evaluate.every_steps) * config.study.seeds
    return (config.full_steps * step_seconds + reports * report_seconds) / 3600


def gpus_of_trial(config: Config) -> float:
    """Return the GPUs that a trial occupies; with a range of workers, of the most."""
    return config.resources.worker_range[1] * config.resources.gpus_per_worker


def hours(config: Config, spent_runs: float, wall_runs: float, run: float) -> dict[str, Any]:
    """Return what a search takes.

    Args:
        config: of the search.
        spent_runs: its cost, in full runs.
        wall_runs: its duration, in full runs.
        run: hours of one full run.
    """
    return {
        "run": round(run, 4),
        "wall": round(wall_runs * run, 4),
        "gpu": round(spent_runs * run * gpus_of_trial(config), 4),
    }
