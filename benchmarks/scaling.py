"""How a search scales on one machine, and what a trial of two workers costs beside Ray Train's own trainer.

    python benchmarks/scaling.py --directory DIR                       about six minutes on two idle cores
    python benchmarks/scaling.py --directory DIR --parts slots,group   one of the two, or both
    python benchmarks/scaling.py --directory DIR --steps 20            shorter trials: the search's start matters more

Slots: the same search of 16 trials with 1, 2 and 4 trials at a time. Efficiency is trials/hour divided by those of one
slot and by the number of cores that the slots can use. Group: in one Ray, alternating, a trial of two workers (a) in a
worker group that is started for it, (b) in a group that runs already, as for all trials of a slot but the first, and
(c) with `TorchTrainer.fit`, all with the same `finetune.run`. It prints medians of the seconds from the request to the
first report and from the trial's end until all resources are free again, and the ratio of (b) to (c).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
SLOTS = (1, 2, 4)
TRIALS, STEPS = 16, 20
"""Trials of a search, and steps of a group's trial."""


def slots(directory: Path, world: Path, steps: int) -> None:
    """Print trials/hour by trials at a time."""
    import overhead

    cores = len(os.sched_getaffinity(0))
    alone = 0.0
    print(f"{'slots':>6} {'trials/h':>9} {'wall s':>7} {'of one slot':>11} {'efficiency':>10}", flush=True)
    for count in SLOTS:
        overhead.CASES["slots"] = (steps, 1, count, TRIALS, TRIALS)
        overhead.CPUS_PER_WORKER = min(1.0, cores / count)
        run = overhead.measure("rankray", world, directory / f"slots-{count}", "slots")
        pace = run.trials_per_hour(TRIALS)
        alone = alone or pace
        share = pace / alone / min(count, cores)
        print(f"{count:6} {pace:9.0f} {run.wall_seconds:7.1f} {pace / alone:11.2f} {share:10.2f}", flush=True)


class First:
    """A reporter that notes when the first report comes."""

    def __init__(self) -> None:
        self.at = 0.0

    def report(self, report: Any) -> Any:
        """Note the time; the verdict is to continue."""
        from rankray.contracts import Verdict

        self.at = self.at or time.time()
        return Verdict(stop=False)


def train_alone(config: dict[str, Any]) -> None:
    """Train one trial in a worker of Ray Train, as anybody would who calls `finetune.run` there."""
    import ray.train

    from rankray.contracts import TrialSpec
    from rankray.finetune import run

    first = First()
    run(TrialSpec.from_json(config["spec"]), first)
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["note"]).write_text(str(first.at))  # Train V2 returns no metrics without a checkpoint


def free(seconds: float = 60.0) -> float:
    """Wait until all of Ray's resources are free; return the seconds it took."""
    import ray
    from ray.util import placement_group_table

    began = time.time()
    while time.time() - began < seconds:
        held = [group for group in placement_group_table().values() if group["state"] not in ("REMOVED",)]
        if not held and ray.available_resources().get("CPU") == ray.cluster_resources().get("CPU"):
            return time.time() - began
        time.sleep(0.02)
    raise TimeoutError("resources were never released")


def group(directory: Path, world: Path, rounds: int) -> None:
    """Print what a trial of two workers costs."""
    import overhead
    import ray

    from rankray.cluster.environment import prepare_environment
    from rankray.config import load_config
    from rankray.contracts import TrialSpec
    from rankray.search.specs import worker_config

    prepare_environment()
    place = directory / "group"
    place.mkdir(parents=True, exist_ok=True)
    file = overhead.write_search(world, place, STEPS, 2, 1, 1)
    config = load_config(file).config
    os.environ |= {
        "RAY_ADDRESS": "local",
        "RANKRAY_NOTES": str(place / "notes"),
        "PYTHONPATH": os.pathsep.join(sys.path[:2]),
    }
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tree = worker_config(config, {})

    def spec(name: str) -> TrialSpec:
        return TrialSpec(config=tree, directory=str(place / name))

    found: dict[str, list[tuple[float, float]]] = {"started for it": [], "running": [], "TorchTrainer": []}
    for turn in range(rounds):
        for name, times in _ours(tree, spec, turn).items():
            found[name].append(times)
        found["TorchTrainer"].append(_stock(spec(f"stock-{turn}"), place))
    ray.shutdown()
    print(f"\n{'group of two':16} {'to first report s':>18} {'end to free s':>14}   medians of {rounds}")
    for name, times in found.items():
        to_first, to_free = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:16} {to_first:18.2f} {to_free:14.2f}", flush=True)
    ratio = statistics.median(
        ours[0] / stock[0] for ours, stock in zip(found["running"], found["TorchTrainer"], strict=True)
    )
    print(f"running / TorchTrainer, to the first report: {ratio:.3f} (median of {rounds} rounds' ratios)")


def _ours(tree: dict[str, Any], spec: Any, turn: int) -> dict[str, tuple[float, float]]:
    from rankray.search.group import Group

    times, began = {}, time.time()
    made = Group(tree["resources"], tree["storage"])
    for name in ("started for it", "running"):
        first = First()
        made.run(spec(f"{name}-{turn}"), first)
        times[name] = [first.at - began, 0.0]
        began = time.time()
    made.close()
    closing = time.time() - began
    times["started for it"][1] = closing + free()
    return {name: (one, other) for name, (one, other) in times.items()}


def _stock(spec: Any, place: Path) -> tuple[float, float]:
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    note = place / "first"
    began = time.time()
    TorchTrainer(
        train_alone,
        train_loop_config={"spec": spec.to_json(), "note": str(note)},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(storage_path=str(place / "train")),
    ).fit()
    ended = time.time()
    free()
    return float(note.read_text()) - began, time.time() - ended


def main() -> None:
    """Run the parts."""
    from rankray.quickstart.build import build_world

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--parts", default="slots,group")
    parser.add_argument("--steps", type=int, default=100, help="of each trial of the searches")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    directory = options.directory.absolute()
    world = build_world(directory / "world", pretrain_steps=50)
    if "slots" in options.parts.split(","):
        slots(directory, world, options.steps)
    if "group" in options.parts.split(","):
        group(directory, world, options.rounds)


if __name__ == "__main__":
    main()
