"""What the machinery around a trial costs: ours, stock Ray Tune + Train V2, Tune alone with reuse_actors, Optuna alone.

    python benchmarks/overhead.py --directory DIR                      about a quarter of an hour, two idle cores
    python benchmarks/overhead.py --directory DIR --cases one,twenty   some of: one, twenty, group, search, longer
    python benchmarks/overhead.py --directory DIR --cases search --stacks rankray,optuna --rounds 5
    python benchmarks/overhead.py --directory DIR --before OTHER/.venv/bin/python --rounds 3   and another checkout

All stacks train the quickstart's model on its data with `finetune.run`, one thread per trial, on one machine, in one
run of this file, one after another. Overhead is the time from the end of one trial to the end of the next, with one
trial at a time, minus the seconds inside optimizer steps and evaluations (`overhead_hooks`); the first trial of a
search, which includes the imports, is left out. For a search, trials/hour include everything from the command to its
end. Memory is the highest sum of PSS over the process tree, and CPU the seconds of all its processes; both are sampled
twice a second. If a stack is too slow for as many trials, the time of the missing ones is estimated from the pace after
the first, and the table shows how many trials were measured. With several rounds, stacks alternate; the ratio to Optuna
alone is printed for each round, with the median, and so is the ratio to the checkout given with `--before`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

HERE = Path(__file__).resolve().parent
STACKS = {
    "rankray": "rankray",
    "before": "rankray before",
    "train": "Tune + Train V2",
    "tune": "Tune, reuse_actors",
    "optuna": "Optuna alone",
}
CASES = {  # steps, workers, trials at a time, trials, trials of the stock stack
    "one": (1, 1, 1, 9, 2),
    "twenty": (20, 1, 1, 9, 2),
    "group": (20, 2, 1, 5, 2),
    "search": (20, 1, 2, 32, 4),
    "longer": (100, 1, 2, 32, 4),
}
SCALED_TO = 32
CPUS_PER_WORKER = 1.0


@dataclass
class Run:
    """One search of one stack.

    Attributes:
        wall_seconds: from the command to its end.
        ends: when each trial ended, in order, from the command.
        work_seconds: seconds of training and evaluation of each trial, in the same order.
        pss_mib: highest memory of the process tree.
        cpu_seconds: CPU time of each process of the tree, by its id.
        phases: seconds from the command to each phase.
    """

    wall_seconds: float = 0.0
    ends: list[float] = field(default_factory=list)
    work_seconds: list[float] = field(default_factory=list)
    pss_mib: float = 0.0
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def pace_seconds(self) -> float:
        """Seconds from the end of one trial to that of the next, after the first."""
        return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    @property
    def overhead_seconds(self) -> float:
        """Seconds of a trial, after the first, that are neither training nor evaluation."""
        return self.pace_seconds - statistics.mean(self.work_seconds[1:])

    def trials_per_hour(self, trials: int) -> float:
        """Pace of a search of so many trials, start and end of the search included."""
        return 3600 * trials / (self.wall_seconds + max(0, trials - len(self.ends)) * self.pace_seconds)


def write_search(world: Path, place: Path, steps: int, workers: int, slots: int, trials: int) -> Path:
    """Write the search file of one case."""
    tree = yaml.safe_load(world.read_text())
    tree |= {"name": "overhead", "store": f"sqlite:///{place}/store.db", "storage": f"{place}/runs"}
    tree["train"] |= {"max_steps": steps}
    tree["evaluate"] = {"every_steps": 10, "functions": ["overhead_hooks:note"]}
    tree["space"] = {
        "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
        "loss.temperature": {"float": [0.25, 4.0], "log": True},
    }
    halving = {"name": "successive_halving", "min_resource": steps + 1}
    tree["study"] = {"metric": "eval/nll", "trials": trials, "pruner": halving, "known": []}
    tree["resources"] = {"workers": workers, "cpus_per_worker": CPUS_PER_WORKER, "concurrency": slots}
    file = place / "search.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


def measure(stack: str, world: Path, place: Path, case: str, python: str = "") -> Run:
    """Run one case of one stack; the stack `before` runs with another interpreter, `python`, and its own checkout."""
    steps, workers, slots, trials, few = CASES[case]
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    file = write_search(world, place, steps, workers, slots, few if stack == "train" else trials)
    peer = [str(HERE / "overhead_stacks.py"), stack, str(file), str(place), str(slots)]
    words = ["-m", "rankray", "search", str(file)] if stack in ("rankray", "before") else peer
    interpreter, root = (python, checkout_of(python)) if stack == "before" else (sys.executable, HERE.parent)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(root / "benchmarks"), str(root)]),
        "RANKRAY_NOTES": str(place / "notes"),
    }
    run, began = Run(), time.time()
    with open(place / "errors.txt", "w") as errors:
        process = subprocess.Popen(
            [interpreter, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=place
        )
        watcher = threading.Thread(target=_watch_processes, args=(process.pid, run), daemon=True)
        watcher.start()
        assert process.stdout is not None
        for line in process.stdout:
            for word in ("starting Ray", "trial slot", "trial 0 started"):
                if word in line:
                    run.phases.setdefault(word, time.time() - began)
        assert process.wait() == 0, (place / "errors.txt").read_text()[-3000:]
    run.wall_seconds = time.time() - began
    _read_notes(place / "notes", run, began)
    return run


def _read_notes(file: Path, run: Run, began: float) -> None:
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    last: dict[str, dict[str, Any]] = {}
    for note in notes:
        if note["rank"] == 0:
            last[note["trial"]] = note
    for note in sorted(last.values(), key=lambda note: note["at"]):
        run.ends.append(note["at"] - began)
        run.work_seconds.append(note["training_seconds"] + note["evaluation_seconds"])
    first = min(notes, key=lambda note: note["first_step_at"])
    run.phases |= {"imported": first["imported_at"] - began, "first step": first["first_step_at"] - began}


def checkout_of(python: str) -> Path:
    """Return the directory from which another interpreter imports rankray."""
    code = "import rankray; print(rankray.__file__)"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, cwd=Path(python).parent)
    return Path(found.stdout.strip()).parent.parent


def _watch_processes(pid: int, run: Run) -> None:
    while psutil.pid_exists(pid):
        try:
            tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        except psutil.Error:
            return
        run.pss_mib = max(run.pss_mib, sum(_pss_mib(process.pid) for process in tree))
        for process in tree:
            with suppress(psutil.Error):
                run.cpu_seconds[process.pid] = sum(process.cpu_times()[:2])
        time.sleep(0.5)


def _pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def show(case: str, stack: str, run: Run) -> None:
    """Print one case of one stack."""
    overhead = f"{run.overhead_seconds:10.3f}" if CASES[case][2] == 1 else f"{'':10}"
    print(
        f"{STACKS[stack]:20} {len(run.ends):6} {statistics.mean(run.work_seconds[1:]):7.3f} {overhead} "
        f"{run.trials_per_hour(SCALED_TO):9.0f} {run.pss_mib:9.0f} {run.phases['first step']:12.1f} "
        f"{sum(run.cpu_seconds.values()):7.0f}",
        flush=True,
    )
    if stack in ("rankray", "before"):
        said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(run.phases.items(), key=_at))
        print(f"{'':20} seconds from the command: {said}, end {run.wall_seconds:.1f}", flush=True)


def _at(item: tuple[str, float]) -> float:
    return item[1]


def main() -> None:
    """Run the cases, stack after stack."""
    from rankray.quickstart.build import build_world

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--stacks", default="rankray,train,tune,optuna")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--before", default="", metavar="PYTHON", help="the interpreter of another checkout's rankray")
    options = parser.parse_args()
    wanted = [*options.stacks.split(","), *(["before"] if options.before else [])]
    directory = options.directory.absolute()
    world = build_world(directory / "world", pretrain_steps=50)
    for case in options.cases.split(","):
        steps, workers, slots, *_ = CASES[case]
        print(f"\n{case}: {steps} step(s), {workers} worker(s), {slots} trial(s) at a time")
        print(f"{'':20} trials  work s overhead s  trials/h  peak MiB first step s   CPU s", flush=True)
        stacks = [stack for stack in wanted if workers == 1 or stack not in ("tune", "optuna")]
        paces: dict[str, list[float]] = {stack: [] for stack in stacks}
        for _ in range(options.rounds):
            for stack in stacks:
                run = measure(stack, world, directory / f"{case}-{stack}", case, options.before)
                show(case, stack, run)
                paces[stack].append(run.trials_per_hour(SCALED_TO))
        for other in ("optuna", "before"):
            if {"rankray", other} <= paces.keys():
                show_ratio(STACKS[other], paces["rankray"], paces[other])


def show_ratio(name: str, ours: list[float], theirs: list[float]) -> None:
    """Print trials/hour of rankray divided by those of another stack, round by round."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    rounds = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(
        f"trials/h, rankray / {name}: {rounds}; median {statistics.median(ratios):.2f} "
        f"(medians {statistics.median(ours):.0f} and {statistics.median(theirs):.0f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
