"""A whole search with kills: its driver, its trial actors, its raylet and its database die at random moments.

The search is real: Ray, a small Llama (the quickstart's, hardly pretrained), a store of each kind. A kill is one of

- the whole session of the driver, which is then started again with the same command;
- one trial actor, which the search has to survive without help;
- the raylet, after which the driver is killed and started again, as a supervisor would;
- the PostgreSQL server, which is started again at once.

Afterwards the number of finished trials must be exact, no trial may be left RUNNING or have failed, and no two may have
the same parameters. Every finished trial is trained again without interruption, and must have the same metric at the
step at which it ended. Every optimizer step of every worker is counted, so the steps trained in vain are known.

`--stock` makes the same kills in Ray Tune with OptunaSearch, ASHA and Tuner.restore, and checks the same.

    python benchmarks/chaos_search.py --kills 12 --trials 24 --backends sqlite journal postgresql
    python benchmarks/chaos_search.py --kills 12 --trials 24 --stock
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from stories import ROOT

SETTINGS = {
    "train.max_steps": 40,
    "evaluate.every_steps": 10,
    "evaluate.metrics": "[nll]",
    "evaluate.functions": "[tally:nothing]",
    "study.metric": "eval/nll",
    "study.direction": "minimize",
    "study.pruner": "successive_halving",
}
LONGEST_SECONDS = 15.0
"""Longest time between two kills."""
WORDS = {"actor": ("Trainable", "TrialActor", "ImplicitFunc"), "raylet": ("raylet/raylet",)}
"""The command line of a process to be killed contains one of these."""
TALLY = """\
import os
from torch.optim.optimizer import register_optimizer_step_post_hook


def count(*_):
    with open(os.environ["RANKRAY_CHAOS_TALLY"], "ab", buffering=0) as file:
        file.write(b".")


register_optimizer_step_post_hook(count)


def nothing(model, tokenizer, rows):
    return {}
"""
"""A module that counts the optimizer steps of the process that imports it, before its first trial trains."""


@dataclass
class Search:
    """One search with kills: its command, its directory, its database server if it has one."""

    command: list[str]
    directory: Path
    server: Any = None

    @property
    def log(self) -> Path:
        """The output of the driver and of Ray."""
        return self.directory / "log.txt"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the driver in its own session."""
        environment = os.environ | {
            "PYTHONPATH": str(self.directory),
            "RANKRAY_CHAOS_TALLY": str(self.directory / "tally"),
        }
        with open(self.log, "ab") as out:
            return subprocess.Popen(self.command, stdout=out, stderr=out, start_new_session=True, env=environment)

    def steps(self) -> int:
        """Return how many optimizer steps all workers made."""
        return (self.directory / "tally").stat().st_size


def make_search(directory: Path, trials: int) -> Path:
    """Make the quickstart's world and a plain search file for it."""
    import yaml

    from rankray.config import load_config
    from rankray.quickstart.build import build_world

    made = build_world(directory, pretrain_steps=20)
    (directory / "tally.py").write_text(TALLY)
    sets = [f"{path}={value}" for path, value in SETTINGS.items()]
    config = load_config(made, [*sets, f"study.trials={trials}"]).config
    file = directory / "chaos.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json") | {"name": "chaos"}))
    return file


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a driver with everything in its session."""
    for each in psutil.process_iter(["pid"]):
        try:
            if os.getsid(each.pid) == process.pid:
                os.kill(each.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    process.wait()


def victims(process: subprocess.Popen[bytes], words: tuple[str, ...]) -> list[int]:
    """Return the driver's descendants whose command line contains one of the words."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if any(word in " ".join(child.cmdline()) for word in words):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def kill_at_random(search: Search, kills: int, longest: float, draw: random.Random) -> Counter[str]:
    """Kill until the number of kills is reached; start the driver again whenever it has ended."""
    counted: Counter[str] = Counter()
    kinds = ["driver", "actor", "actor", "raylet"] + ["server"] * 2 * (search.server is not None)
    process = search.start()
    while sum(counted[kind] for kind in set(kinds)) < kills:
        time.sleep(draw.uniform(1.0, longest))
        if process.poll() is not None:
            if process.returncode == 0:
                break
            counted["driver ended with an error"] += 1
            if counted["driver ended with an error"] >= 5:
                break
            process = search.start()
            continue
        kind = draw.choice(kinds)
        if kill(search, process, kind, draw):
            counted[kind] += 1
            if kind in ("driver", "raylet"):
                process = search.start()
    counted["driver ended with an error"] += finish(search, process)
    return counted


def kill(search: Search, process: subprocess.Popen[bytes], kind: str, draw: random.Random) -> bool:
    """Kill one process, and everything that ends with it; return whether there was one to kill."""
    if kind == "server":
        search.server.kill_and_restart()
        return True
    pids = [process.pid] if kind == "driver" else victims(process, WORDS[kind])
    if not pids:
        return False
    if kind != "driver":
        os.kill(draw.choice(pids), signal.SIGKILL)
    if kind == "raylet":
        time.sleep(1.0)
    if kind != "actor":
        end(process)
    return True


def finish(search: Search, process: subprocess.Popen[bytes]) -> int:
    """Let the search end, started again up to three times; return how often it ended with an error."""
    for again in range(4):
        try:
            process.wait(timeout=600)
        except subprocess.TimeoutExpired:
            end(process)
        if process.returncode in (0, 2) or again == 3:
            break
        process = search.start()
    return again + (process.returncode != 0)


def judge(rows: list[dict[str, Any]], left: int, failed: int, file: Path, trials: int, steps: int) -> dict[str, int]:
    """Count broken invariants and steps in vain; `rows` are the finished trials: params, value and the value's step.

    A row without a step counts as equal if its value is that of any step.
    """
    from rankray.config import load_config

    config = load_config(file).config
    unequal = needed = 0
    for row in rows:
        found = again(config, row)
        step = row["step"] or next((step for step, value in found.items() if value == row["value"]), max(found))
        unequal += found.get(step) != row["value"]
        needed += step
    params = Counter(str(sorted(row["params"].items())) for row in rows)
    broken = {
        "budget missed by": abs(len(rows) - trials),
        "left running": left,
        "failed": failed,
        "unequal to an uninterrupted trial": unequal,
        "same parameters": sum(count > 1 for count in params.values()),
    }
    return broken | {"finished": len(rows), "steps": steps, "in vain": steps - needed}


def again(config: Any, row: dict[str, Any]) -> dict[int, float]:
    """Train a trial again, uninterrupted, to the step it ended at (None: to the end); return the metric by step."""
    from rankray.contracts import Report, TrialSpec, Verdict
    from rankray.finetune import run
    from rankray.search.specs import worker_config

    found: dict[int, float] = {}

    class Until:
        def report(self, report: Report) -> Verdict:
            found[report.step] = report.metrics[config.study.metric]
            return Verdict(True, "far enough") if report.step == row["step"] else Verdict(False)

    tree = worker_config(config, row["params"])
    tree["evaluate"]["functions"] = []
    with tempfile.TemporaryDirectory() as place:
        run(TrialSpec(tree, place), Until())
    return found


def our_rows(url: str) -> tuple[list[dict[str, Any]], int, int]:
    """Return our finished trials, how many were left unfinished, and how many failed."""
    from rankray.store import attach, views

    study = attach(url, "chaos")
    counts, rows = study.counts(), views.trials(study)
    finished = [row for row in rows if row["state"] in ("complete", "pruned")]
    return finished, counts.running + counts.waiting, counts.failed


def stock_rows(url: str) -> tuple[list[dict[str, Any]], int, int]:
    """Return the same for the stock stack, which keeps a trial's last value without its step."""
    import optuna

    study = optuna.load_study(study_name="stock", storage=url)
    states = Counter(trial.state.name for trial in study.trials)
    rows = [
        {"params": trial.params, "value": trial.value, "step": None}
        for trial in study.trials
        if trial.state.name in ("COMPLETE", "PRUNED")
    ]
    return rows, states["RUNNING"] + states["WAITING"], states["FAIL"]


def search_with_kills(kind: str, options: Any, draw: random.Random, server: Any = None) -> tuple[int, int]:
    """Run one search with kills, print a line, and return (kills, invariants broken)."""
    directory = Path(tempfile.mkdtemp(prefix=f"rankray-chaos-search-{kind}-"))
    file = make_search(directory, options.trials)
    urls = {"sqlite": f"sqlite:///{directory}/store.db", "journal": f"journal:///{directory}/store.log"}
    url = server.url if server else urls[kind]
    ours = [sys.executable, "-m", "rankray", "search", str(file), "--store", url]
    stock = [sys.executable, str(ROOT / "benchmarks" / "stock_search.py"), str(file), str(directory), url]
    search = Search(stock if options.stock else ours, directory, server)
    begun = time.monotonic()
    counted = kill_at_random(search, options.kills, options.longest, draw)
    seconds = time.monotonic() - begun
    rows, left, failed = stock_rows(url) if options.stock else our_rows(url)
    found = judge(rows, left, failed, file, options.trials, search.steps())
    finished, steps, vain = (found.pop(name) for name in ("finished", "steps", "in vain"))
    kills = sum(counted[name] for name in ("driver", "actor", "raylet", "server"))
    shown = {name: count for name, count in found.items() if count}
    print(
        f"{'stock' if options.stock else 'rankray'} search on {kind}: {kills} kills {dict(+counted)}, "
        f"finished {finished}/{options.trials}, invariants broken {sum(found.values())} {shown or ''}, "
        f"steps in vain {vain}/{steps} ({vain / max(1, steps):.1%}), {seconds:.0f} s",
        flush=True,
    )
    errors = Counter(
        line.split(":")[0].split(".")[-1] for line in search.log.read_text().splitlines() if names_an_error(line)
    )
    if counted["driver ended with an error"] or options.stock:
        print(f"  errors in its log: {dict(errors.most_common(5))}")
    return kills, sum(found.values())


def names_an_error(line: str) -> bool:
    """Return whether a line of a log names an exception."""
    return "Error" in line[:80] and not line.startswith(" ")


def main() -> int:
    """Run a search on each store, print a line for each, and return the number of broken invariants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12, help="per store")
    parser.add_argument("--trials", type=int, default=24, help="per store")
    parser.add_argument("--longest", type=float, default=LONGEST_SECONDS, help="longest time between kills")
    parser.add_argument("--backends", nargs="+", default=["sqlite"])
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--stock", action="store_true")
    options = parser.parse_args()
    kills, broken = searches_with_kills(options)
    print(f"seed {options.seed}: {kills} kills, invariants broken in all: {broken}")
    return broken


def searches_with_kills(options: Any) -> tuple[int, int]:
    """Run a search with kills on each store; return (kills, invariants broken) of all."""
    from chaos import Server

    draw = random.Random(options.seed)
    found = [
        search_with_kills(kind, options, draw, Server() if kind == "postgresql" else None) for kind in options.backends
    ]
    return sum(kills for kills, _ in found), sum(broken for _, broken in found)


if __name__ == "__main__":
    sys.exit(main())
