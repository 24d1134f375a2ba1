"""Whether a process that trains one trial after another grows, and how many bytes a trial writes.

    python benchmarks/resident_memory.py --directory DIR --trials 200

Trials alternate between objectives, LoRA and full fine-tuning, float32 and bfloat16, with two steps each, on the
quickstart's model. It prints the process's own memory (USS) after a number of trials, and the size of the
checkpoints of one trial with all weights and of one with adapters.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import time
from pathlib import Path
from typing import Any

import psutil

from rankray.config import load_config
from rankray.contracts import Report, TrialSpec, Verdict
from rankray.quickstart.build import build_world

OBJECTIVES = ("sft", "dft", "talr", "eaft", "rri")


class _NeverStop:
    def report(self, report: Report) -> Verdict:
        return Verdict(stop=False)


def tree_of(file: Path, number: int) -> dict[str, Any]:
    """Return the configuration of one trial."""
    tree = load_config(file).config.model_dump(mode="json")
    tree["train"] |= {"max_steps": 2, "learning_rate": 1e-4 * (1 + number % 7)}
    tree["evaluate"] |= {"every_steps": 1, "metrics": ["nll"], "max_examples": 32}
    tree["study"] |= {"metric": "eval/nll"}
    tree["loss"] |= {"objective": OBJECTIVES[number % 5]}
    tree["model"] |= {"lora": {"rank": 4} if number % 2 else None, "dtype": "bfloat16" if number % 3 else "float32"}
    return tree


def uss_mib() -> float:
    """Return this process's own memory."""
    gc.collect()
    return psutil.Process().memory_full_info().uss / 2**20


def written(place: Path) -> str:
    """Return number and size of the checkpoints in a trial's directory."""
    checkpoints = sorted(place.glob("step-*"))
    sizes = [sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) for each in checkpoints]
    return f"{len(sizes)} checkpoints of {sizes[-1] / 1024:.0f} KiB" if sizes else "nothing"


def main() -> None:
    """Train, and print."""
    from rankray.finetune import run

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=200)
    options = parser.parse_args()
    file = build_world(options.directory.absolute() / "world", pretrain_steps=50)
    began = time.monotonic()
    for number in range(options.trials):
        place = options.directory.absolute() / "trial"
        run(TrialSpec(tree_of(file, number), str(place)), _NeverStop())
        if number in (0, 1):
            print(f"{'adapters' if number % 2 else 'all weights'}: {written(place)}", flush=True)
        shutil.rmtree(place)
        if number + 1 in (10, 20, 50, 100, 150, 200) or number + 1 == options.trials:
            print(f"after {number + 1:3} trials: {uss_mib():7.1f} MiB, {time.monotonic() - began:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
