"""A whole search under fire: its driver, its trial actors and its raylet killed at random moments.

The search is real: Ray, a small Llama (the quickstart's, hardly pretrained), a SQLite store. A kill is one of

- the whole process group of the driver, which is then started again with the same command;
- one trial actor, which the search has to survive by itself;
- the raylet, after which the driver is killed and started again, as a supervisor would.

Afterwards the invariants of `chaos.py` must hold; complete trials are trained again without interruption, and must end
with the same metrics. `--stock` points the same kills at Ray Tune with OptunaSearch, ASHA and Tuner.restore.

    python benchmarks/chaos_search.py --kills 30 --trials 30
    python benchmarks/chaos_search.py --kills 10 --trials 12 --stock
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from stories import ROOT

SETTINGS = {
    "train.max_steps": 40,
    "evaluate.every_steps": 10,
    "evaluate.metrics": "[nll]",
    "study.metric": "eval/nll",
    "study.direction": "minimize",
    "study.pruner": "successive_halving",
}
COMMANDS = {"actor": "Trainable", "raylet": "raylet/raylet"}
"""What the command line of a process to be killed has in it."""


def make_search(directory: Path, trials: int) -> Path:
    """Make the world and a plain search file on it."""
    import yaml

    from rankray.config import load_config
    from rankray.quickstart import build_world

    made = build_world(directory, pretrain_steps=20)
    sets = [f"{path}={value}" for path, value in SETTINGS.items()]
    config = load_config(made, [*sets, f"study.trials={trials}"]).config
    file = directory / "chaos.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json") | {"name": "chaos"}))
    return file


def start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a driver in a process group of its own."""
    with open(log, "ab") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a driver with everything in its session."""
    for each in psutil.process_iter(["pid"]):
        try:
            if os.getsid(each.pid) == process.pid:
                os.kill(each.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    process.wait()


def victims(process: subprocess.Popen[bytes], word: str) -> list[int]:
    """Return the driver's descendants whose command line has a word in it."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if word in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def torment(
    command: list[str], log: Path, kills: int, longest: float, draw: random.Random, stock: bool
) -> Counter[str]:
    """Kill until the number is reached; start again whatever ended."""
    counted: Counter[str] = Counter()
    process = start(command, log)
    while sum(counted[kind] for kind in ("driver", "actor", "raylet")) < kills:
        time.sleep(draw.uniform(1.0, longest))
        if process.poll() is not None:
            if process.returncode == 0:
                counted["ended before"] += 1
                return counted
            counted["driver ended with an error"] += 1
            process = start(command, log)
            if counted["driver ended with an error"] >= 5:
                break
            continue
        kind = "driver" if stock else draw.choice(["driver", "actor", "actor", "raylet"])
        pids = [process.pid] if kind == "driver" else victims(process, COMMANDS[kind])
        if not pids:
            continue
        counted[kind] += 1
        if kind == "driver":
            end(process)
        else:
            os.kill(draw.choice(pids), signal.SIGKILL)
            if kind == "raylet":
                time.sleep(1.0)
                end(process)
        if kind != "actor":
            process = start(command, log)
    try:
        process.wait(timeout=900)
    except subprocess.TimeoutExpired:
        counted["hung"] += 1
        end(process)
    while process.returncode not in (0, 2) and counted["restarted at the end"] < 3:
        counted["restarted at the end"] += 1
        process = start(command, log)
        process.wait(timeout=900)
    counted["exit code"] = process.returncode
    return counted


def judge(store: str, file: Path, trials: int) -> dict[str, int]:
    """Count broken invariants of our own search."""
    from rankray.config import load_config
    from rankray.store import attach, views

    study = attach(store, "chaos")
    counts = study.counts()
    rows = [views.trial(study, row["number"]) for row in views.trials(study)]
    complete = [row for row in rows if row["state"] == "complete"]
    config = load_config(file).config
    unequal = sum(again(config, row) != row["value"] for row in complete)
    params = Counter(str(sorted(row["params"].items())) for row in rows if row["state"] in ("complete", "pruned"))
    return {
        "finished": counts.finished,
        "budget missed": int(counts.finished != trials),
        "left running": counts.running + counts.waiting,
        "failed": counts.failed,
        "unequal to an uninterrupted trial": unequal,
        "compared": len(complete),
        "same parameters": sum(count > 1 for key, count in params.items() if "learning_rate" in key),
    }


def again(config: Any, row: dict[str, Any]) -> float:
    """Train a trial's settings without interruption, and return the study's metric."""
    from rankray.contracts import Report, TrialSpec, Verdict
    from rankray.finetune import run
    from rankray.search.experiment import worker_config

    class Silent:
        def report(self, report: Report) -> Verdict:
            return Verdict(stop=False)

    with tempfile.TemporaryDirectory() as place:
        outcome = run(TrialSpec(worker_config(config, row["params"]), place), Silent())
    return outcome.metrics[config.study.metric]


def main() -> int:
    """Run, print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--longest", type=float, default=15.0, help="longest time between kills, in seconds")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--stock", action="store_true")
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="rankray-chaos-search-"))
    file = make_search(directory, options.trials)
    ours = [sys.executable, "-m", "rankray", "search", str(file)]
    stock = [sys.executable, str(ROOT / "benchmarks" / "stock_search.py"), str(file), str(directory)]
    log, begun = directory / "log.txt", time.monotonic()
    command = stock if options.stock else ours
    counted = torment(command, log, options.kills, options.longest, random.Random(options.seed), options.stock)
    label, seconds = "stock" if options.stock else "rankray", time.monotonic() - begun
    print(f"{label}: {dict(counted)}, {seconds:.0f} s, seed {options.seed}")
    if options.stock:
        return judge_stock(directory, options.trials, log)
    found = judge(f"sqlite:///{directory}/rankray.db", file, options.trials)
    print(found)
    print(log.read_text()[-600:] if counted["exit code"] else "")
    return sum(found[name] for name in found if name not in ("finished", "compared")) + counted["exit code"]


def judge_stock(directory: Path, trials: int, log: Path) -> int:
    """Print what the stock stack's database and log say."""
    import optuna

    study = optuna.load_study(study_name="stock", storage=f"sqlite:///{directory}/stock.db")
    states = Counter(trial.state.name for trial in study.trials)
    errors = Counter(line.split(":")[0].split(".")[-1] for line in log.read_text().splitlines() if "Error" in line[:80])
    print(f"asked for {trials}; in the database {dict(states)}; errors in the log {dict(errors.most_common(4))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
