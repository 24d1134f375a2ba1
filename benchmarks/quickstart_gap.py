"""How far apart good and bad settings end in the quickstart world: held-out accuracy over three seeds.

Every setting is trained from the start by `rankray.finetune.run`, as a trial of the quickstart is, once per
`train.seed`, and measured at its last step. The learning rates called best were chosen in a sweep on seed 0 only. The
default seeds are others, so no setting was chosen by the result that is shown.

    python benchmarks/quickstart_gap.py --directory rankray-quickstart --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from rankray.config import apply_params, load_config
from rankray.contracts import Report, TrialSpec, Verdict
from rankray.finetune import run
from rankray.quickstart.build import build_world

SETTINGS: dict[str, dict[str, Any]] = {
    "sft, rate far too low": {"loss.objective": "sft", "train.learning_rate": 1e-4},
    "sft, rate far too high": {"loss.objective": "sft", "train.learning_rate": 1e-2},
    "sft, default rate": {"loss.objective": "sft", "train.learning_rate": 1e-3},
    "sft, its best rate": {"loss.objective": "sft", "train.learning_rate": 2e-3},
    "dft, default rate": {"loss.objective": "dft", "train.learning_rate": 1e-3},
    "dft, its best rate": {"loss.objective": "dft", "train.learning_rate": 1.5e-3},
    "paper, default rate": {"train.learning_rate": 1e-3},
    "paper, its best rate": {"train.learning_rate": 2e-3},
    "rri, temperature 0.25": {"loss.temperature": 0.25, "train.learning_rate": 2e-3},
    "rri, temperature 0.5": {"loss.temperature": 0.5, "train.learning_rate": 2e-3},
    "rri, temperature 0.5, entropy weight 2": {
        "loss.temperature": 0.5,
        "loss.entropy_weight": 2.0,
        "train.learning_rate": 2e-3,
    },
    "rri, temperature 4": {"loss.temperature": 4.0, "train.learning_rate": 2e-3},
}
"""Label -> differences from the quickstart's search file, whose fixed values are the paper's setting."""


class Keep:
    """A reporter that records the accuracies and lets every trial run to its end."""

    def __init__(self) -> None:
        self.curve: list[float] = []

    def report(self, report: Report) -> Verdict:
        """Record the accuracy of a report; never stop."""
        self.curve.append(report.metrics["eval/accuracy"])
        return Verdict(stop=False)


def measure(file: Path, params: dict[str, Any], seed: int) -> tuple[list[float], float]:
    """Return the accuracy at every report of one trial, and its CPU seconds."""
    config = apply_params(load_config(file).config, {**params, "train.seed": seed, "train.threads": 1})
    reporter, started = Keep(), time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        run(TrialSpec(config=config.model_dump(mode="json"), directory=directory), reporter)
    return reporter.curve, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=Path("rankray-quickstart"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", default="", help="settings whose label contains this")
    parser.add_argument("--curves", action="store_true", help="print every report's accuracy too")
    arguments = parser.parse_args()
    file = build_world(arguments.directory, progress=print)
    print(f"| setting | rate | accuracy on seeds {arguments.seeds} | mean | std | CPU s |")
    print("|---|---|---|---|---|---|")
    for label, params in SETTINGS.items():
        if arguments.only not in label:
            continue
        found = [measure(file, params, seed) for seed in arguments.seeds]
        last = [curve[-1] for curve, _ in found]
        spread = statistics.stdev(last) if len(last) > 1 else 0.0
        shown = " ".join(f"{value:.3f}" for value in last)
        cost = statistics.fmean(seconds for _, seconds in found)
        rate = params["train.learning_rate"]
        print(
            f"| {label} | {rate:g} | {shown} | {statistics.fmean(last):.3f} | {spread:.3f} | {cost:.1f} |", flush=True
        )
        if arguments.curves:
            print(json.dumps([[round(value, 3) for value in curve] for curve, _ in found]), flush=True)


if __name__ == "__main__":
    main()
