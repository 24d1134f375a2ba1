"""Record a table for `rankray rehearse --table`: many settings of a small world, each trained by `finetune.run`.

One row per (setting, seed, step): dotted paths as columns (empty where a field does not exist), `seed`, `step`, and the
metrics. Settings are drawn from the world's space with a fixed seed, each field uniformly over its range, after the
settings that a search tries first; so a table of 300 settings is the first part of one of 500. `--dense` more are drawn
in the part of the space where the best ones were found (DENSE): of 300 settings spread evenly, four lie on the
quickstart's peak, too few to say what it looks like. Each run is appended when it is whole; the same command again
continues where the last one stopped, and processes may share a table (`--shard 0/2`, `--shard 1/2`, then `--merge`).

    nice -n 19 python benchmarks/record_table.py quickstart --directory /tmp/tables --settings 300 --seeds 2
    python benchmarks/record_table.py quickstart --directory /tmp/tables --merge benchmarks/tables/quickstart.parquet

A run costs 4 CPU seconds (quickstart: 800 runs took 27 minutes on two cores) and 7 (stories260K: 600 runs took 53
minutes beside other work). `wide`, stories260K in a space of nine fields, is not among our tables (docs/search.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from stories import ASSETS

from rankray.config import Config, apply_params, config_from, distributions, load_config
from rankray.config.params import get_path
from rankray.contracts import Report, TrialSpec, Verdict

QUICKSTART_SPACE = {
    "loss.objective": {"choice": ["sft", "dft", "rri"]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.base": {"choice": ["one", "prob"], "when": {"loss.objective": "rri"}},
    "loss.temperature": {"float": [0.25, 4.0], "log": True, "when": {"loss.objective": "rri"}},
    "loss.entropy_weight": {"float": [0.0, 2.0], "when": {"loss.objective": "rri"}},
    "train.learning_rate": {"float": [1.0e-4, 1.0e-2], "log": True},
}
STORIES_SPACE = {
    "loss.objective": {"choice": ["sft", "dft", "talr", "eaft", "rri"]},
    "loss.base": {"choice": ["one", "prob"], "when": {"loss.objective": "rri"}},
    "loss.temperature": {"float": [0.25, 8.0], "log": True, "when": {"loss.objective": "rri"}},
    "loss.entropy_weight": {"float": [0.0, 2.0], "when": {"loss.objective": "rri"}},
    "loss.min_weight": {"float": [0.0, 0.3], "when": {"loss.objective": "talr"}},
    "loss.alpha": {"float": [0.25, 2.0], "when": {"loss.objective": "eaft"}},
    "train.learning_rate": {"float": [1.0e-4, 3.0e-2], "log": True},
}
WIDE_SPACE = {
    **STORIES_SPACE,
    "train.learning_rate": {"float": [1.0e-5, 1.0e-1], "log": True},
    "train.warmup_ratio": {"float": [0.0, 0.5]},
    "train.schedule": {"choice": ["constant", "linear", "cosine"]},
}
"""What somebody searches who knows nothing of the model: four decades of the rate, and the schedule."""
SPACES = {"quickstart": QUICKSTART_SPACE, "stories": STORIES_SPACE, "wide": WIDE_SPACE}
RATES = {"quickstart": 1e-3, "stories": 1e-3, "wide": 1e-3}
"""The files' own rates, from which the known settings start."""

DENSE: dict[str, dict[str, Any]] = {
    "quickstart": {
        "loss.objective": "rri",
        "loss.form": "bound",
        "loss.base": "prob",
        "train.learning_rate": (1e-3, 5e-3),
    },
}
"""Where the best settings of a table lie: values of choices, ranges of numbers. stories260K's best lie in two
dimensions, of which 60 of its 300 settings already show the shape."""
FIRST_DENSE = 1000
"""The number of the first setting of that part."""


def quickstart_world(directory: Path) -> Config:
    """The world of `rankray quickstart`, whole: all 100 steps, all 256 held-out problems, evaluated every 20 steps."""
    from rankray.quickstart.build import build_world

    tree = load_config(build_world(directory / "world", progress=print)).config.model_dump(mode="json")
    tree["space"] = QUICKSTART_SPACE
    tree["evaluate"]["every_steps"] = 20
    return config_from(tree)


def stories_world(directory: Path) -> Config:
    """stories260K on GSM8K: 100 steps of 4 examples of up to 192 tokens; 64 held-out problems (54 are short enough)."""
    gsm8k = ASSETS / "data" / "gsm8k"
    return config_from(
        {
            "name": "stories",
            "model": {"path": str(ASSETS / "models" / "stories260K")},
            "data": {
                "train": str(gsm8k / "train.jsonl"),
                "eval": str(gsm8k / "test.jsonl"),
                "prompt": "{question}\n",
                "completion": "{answer}",
                "max_length": 192,
            },
            "loss": {"objective": "rri"},
            "train": {"max_steps": 100, "batch_size": 4, "learning_rate": RATES["stories"]},
            "evaluate": {"every_steps": 20, "max_examples": 64, "metrics": ["nll", "token_accuracy"]},
            "space": STORIES_SPACE,
            "study": {"metric": "eval/nll"},
        }
    )


def wide_world(directory: Path) -> Config:
    """The same in a wider space, of nine fields. No strategy was tuned in it."""
    tree = stories_world(directory).model_dump(mode="json")
    return config_from({**tree, "name": "wide", "space": WIDE_SPACE})


WORLDS = {"quickstart": quickstart_world, "stories": stories_world, "wide": wide_world}


def settings(config: Config, rate: float, count: int) -> list[dict[str, Any]]:
    """Return the settings to train: SFT, DFT and the paper's at a ladder of rates, then random ones."""
    space = distributions(config)
    known: list[dict[str, Any]] = []
    paper = {"loss.form": "bound", "loss.base": "prob", "loss.temperature": 1.0, "loss.entropy_weight": 1.0}
    for factor in (1.0, 3.0, 1 / 3, 2.0, 0.5):
        for objective in ("sft", "dft", "rri"):
            point = {"loss.objective": objective, **paper, "train.learning_rate": rate * factor}
            active = [path for path, dist in space.items() if dist.active(point, config)]
            known.append({path: point[path] if path in point else get_path(config, path) for path in active})
    draw = random.Random("a table of settings")
    while len(known) < count:
        point = {}
        for path, dist in space.items():
            if dist.active(point, config):
                point[path] = _drawn(draw, dist)
        known.append(point)
    return known[:count]


def dense_settings(config: Config, part: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Return settings drawn evenly in a part of the space."""
    space, draw, points = distributions(config), random.Random("settings near the best"), []
    for _ in range(count):
        point: dict[str, Any] = {}
        for path, dist in space.items():
            if dist.active(point, config):
                limit = part.get(path)
                point[path] = _drawn(draw, dist, limit) if limit is None or isinstance(limit, tuple) else limit
        points.append(point)
    return points


def _drawn(draw: random.Random, dist: Any, limit: tuple[float, float] | None = None) -> Any:
    if dist.kind == "choice":
        return draw.choice(dist.choices)
    low, high = limit or (dist.low, dist.high)
    if dist.log:
        return float(f"{low * (high / low) ** draw.random():.6g}")
    return float(f"{draw.uniform(low, high):.6g}")


class Keep:
    """A reporter that records every report and lets the run train to its end."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, float]]] = []

    def report(self, report: Report) -> Verdict:
        """Record the held-out metrics of a report; never stop."""
        kept = {name: value for name, value in report.metrics.items() if name.startswith("eval/")}
        self.reports.append((report.step, kept))
        return Verdict(stop=False)


def record(config: Config, params: dict[str, Any], seed: int) -> tuple[list[tuple[int, dict[str, float]]], float]:
    """Train one setting with one seed; return its reports and its CPU seconds."""
    from rankray.finetune import run

    steps = config.train.max_steps
    changed = apply_params(
        config, {**params, "train.seed": seed, "train.threads": 1, "train.checkpoint_every_steps": steps}
    )
    reporter, started = Keep(), time.process_time()
    with tempfile.TemporaryDirectory() as directory:
        run(TrialSpec(config=changed.model_dump(mode="json"), directory=directory), reporter)
    return reporter.reports, time.process_time() - started


def recorded(files: list[Path]) -> list[dict[str, str]]:
    """Return the rows of table parts, by setting, seed and step; a last line that was cut off is left out."""
    rows: dict[tuple[int, int, int], dict[str, str]] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if None not in row.values() and None not in row:
                    rows[int(row["setting"]), int(row["seed"]), int(row["step"])] = row
    return [rows[key] for key in sorted(rows)]


def merge(parts: list[Path], file: Path, config: Config, max_seeds: int) -> None:
    """Write the settings that have all their seeds as one parquet or csv file, and say how many there are."""
    import pandas

    table = pandas.DataFrame(recorded(parts))
    numbers = [name for name in table if table[name].iloc[0] != "" and name not in ("loss.objective",)]
    for name in table:
        kinds = config.search_space.distributions.get(name)
        if kinds is None or kinds.kind != "choice":
            table[name] = pandas.to_numeric(table[name].replace("", None))
        else:
            table[name] = table[name].replace("", None)
    whole = table[table["step"] == config.train.max_steps].groupby("setting").size()
    table = table[table["setting"].isin(whole[whole >= max_seeds].index)]
    for name in numbers:
        if name.startswith("eval/"):
            table[name] = table[name].astype("float32")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        table.to_parquet(file, index=False, compression="zstd")
    else:
        table.to_csv(file, index=False)
    print(f"{file}: {table['setting'].nunique()} settings, {len(table)} rows, {file.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--directory", type=Path, required=True, help="where the world and the parts are kept")
    parser.add_argument("--settings", type=int, default=300)
    parser.add_argument("--dense", type=int, default=100, help="settings in the best part of the space, after those")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--shard", default="0/1", help="this process's share of the settings, as 0/2")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--merge", type=Path, help="write the parts as one table and train nothing")
    given = parser.parse_args()
    directory = given.directory / given.world
    directory.mkdir(parents=True, exist_ok=True)
    config = WORLDS[given.world](directory)
    parts = sorted(directory.glob("part-*.csv"))
    if given.merge:
        merge(parts, given.merge, config, given.seeds)
        return
    share, of = map(int, given.shard.split("/"))
    have = {
        (int(row["setting"]), int(row["seed"])) for row in recorded(parts) if int(row["step"]) == config.train.max_steps
    }
    started, file = time.monotonic(), directory / f"part-{share}.csv"
    spread = dict(enumerate(settings(config, RATES[given.world], given.settings)))
    dense = dense_settings(config, DENSE[given.world], given.dense) if given.world in DENSE else []
    for number, params in (spread | dict(enumerate(dense, FIRST_DENSE))).items():
        for seed in range(1, given.seeds + 1):
            if number % of != share or (number, seed) in have:
                continue
            if time.monotonic() - started > given.minutes * 60:
                return
            reports, seconds = record(config, params, seed)
            _append(file, number, seed, params, list(config.space), reports)
            last = {name: round(value, 4) for name, value in reports[-1][1].items()}
            print(
                f"{number:4d} seed {seed}  {seconds:5.2f} CPU s  {json.dumps(last)}  {json.dumps(params)}", flush=True
            )


def _append(
    file: Path, number: int, seed: int, params: dict[str, Any], space: list[str], reports: list[tuple[int, Any]]
) -> None:
    """Append the rows of one whole run in one write."""
    names = ["setting", *space, "seed", "step", *reports[-1][1]]
    lines = []
    for step, metrics in reports:
        figures = [f"{value:.6g}" for value in metrics.values()]
        lines.append(
            ",".join([str(number), *(str(params.get(path, "")) for path in space), str(seed), str(step), *figures])
        )
    head = [] if file.exists() else [",".join(names)]
    with file.open("a", encoding="utf-8") as out:
        out.write("".join(f"{line}\n" for line in [*head, *lines]))


if __name__ == "__main__":
    main()
