"""Which strategy finds a good setting with the least compute: replays on recorded tables, in every family of surrogate.

The target is a whole run within one seed sd of the noise-free best; costs are full runs (an evaluation costs what it
costs, so a rung is a part of a run). `auto` starts with the file's known settings, with nothing known, with right ones
(six of the best tenth of the space, also only ones that do not reach the target) or with wrong ones (the six worst of
200 settings).
`held out` is a kernel smoother, which `rankray rehearse` does not use.

    python benchmarks/search.py --seeds 30 --slots 1 8 64
    python benchmarks/search.py --made 3      # three made-up tables of 300 settings for each space instead
    python benchmarks/search.py --table runs.parquet --file search.yaml     # a table of your own
    python benchmarks/search.py --only auto tpe --seeds 5

    python benchmarks/search.py --share 0.5   # the target is what half a percent of the space reaches, in every world

Printed per strategy: median and 90 % quantile of the runs until the target is found, and the median as a share of
random search's exact one; then the median (90 % quantile) in each world. `/ random` of all worlds is the median of each
search's own ratio, because worlds differ in how rare the target is. A replay ends when the target is found; when it is
*chosen* too, `rankray rehearse` says. Strategies that prune decide on reports, of which made-up tables have one per
run, so these are left out there. `random + ASHA` is what Syne Tune's
ASHA does, and `tpe + hyperband` is BOHB's idea; Syne Tune itself is not replayed: it is not on the index we install
from, so nothing of it could be tried.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made_tables import made_table
from record_table import RATES, SPACES

from rankray.config import Config, config_from, load_config
from rankray.rehearse.replay import Replay, configured, replay
from rankray.rehearse.summary import Summary, random_median, random_quantile
from rankray.rehearse.surrogates import FAMILIES, kernel_smoother
from rankray.rehearse.table import read_table
from rankray.rehearse.worlds import World, worlds_of
from rankray.store.encoding import Encoding

TABLES = Path(__file__).resolve().parent / "tables"
OURS = {
    "quickstart": ("quickstart", "eval/accuracy"),
    "stories": ("stories", "eval/token_accuracy"),
    "stories-nll": ("stories", "eval/nll"),
}
"""What is replayed: the table and the metric that is searched for. NLL is plain SFT's own loss, which wins by it."""
KNOWN = 6
Play = Callable[[Config, World, int, int, int], Replay]


def table_config(name: str) -> Config:
    """Return a configuration for one of OURS: its space, its metric, its known settings."""
    table, metric = OURS[name]
    return config_from(
        {
            "name": name,
            "model": {"path": "none"},
            "data": {"train": "none.jsonl", "eval": "none.jsonl"},
            "loss": {"objective": "rri"},
            "train": {"learning_rate": RATES[table]},
            "evaluate": {"metrics": ["nll", "accuracy", "token_accuracy"]},
            "space": SPACES[table],
            "study": {"metric": metric, "known": ["paper", "sft", "rates"]},
        }
    )


def with_known(config: Config, known: list[Any]) -> Config:
    return config.model_copy(update={"study": config.study.model_copy(update={"known": known, "warm_start": []})})


def wrong_settings(config: Config, world: World, seed: int) -> list[dict[str, Any]]:
    """Return settings of the worst tenth of the space."""
    encoding = Encoding(config)
    points = [encoding.params(row) for row in encoding.draw(200, np.random.default_rng([9, seed]))]
    points.sort(key=lambda params: world.sign * world.true_value(params))
    return points[:KNOWN]


def right_settings(config: Config, world: World, seed: int, *, short: bool = False) -> list[dict[str, Any]]:
    """Return settings of the best tenth of the space; with `short`, only ones that do not reach the target."""
    encoding = Encoding(config)
    draws = np.random.default_rng([10, seed])
    points = [encoding.params(row) for row in encoding.draw(200, draws)]
    points.sort(key=lambda params: -world.sign * world.true_value(params))
    near = [params for params in points[:60] if not (short and world.reaches(params))][: len(points) // 10]
    return [near[index] for index in draws.permutation(len(near))[:KNOWN]]


KNOWN_SETTINGS: dict[str, Callable[[Config, World, int], list[dict[str, Any]]]] = {
    "none": lambda config, world, seed: [],
    "right": right_settings,
    "short": functools.partial(right_settings, short=True),
    "wrong": wrong_settings,
}


def of_a_search(strategy: str, known: str = "file", prune_on: str = "") -> Play:
    """Return how to play one of rankray's own strategies, with the file's known settings or those of a name."""

    def play(config: Config, world: World, trials: int, slots: int, seed: int) -> Replay:
        if known != "file":
            config = with_known(config, KNOWN_SETTINGS[known](config, world, seed))
        made = configured(config, strategy, world, trials, seed)
        if prune_on == "metric":
            made = made.model_copy(update={"study": made.study.model_copy(update={"prune_on": made.study.metric})})
        return replay(made, world, slots=slots, seed=seed, enough=0.0)

    return play


def one_rung(config: Config, world: World, trials: int, slots: int, seed: int) -> Replay:
    """One rung of many random settings, then the best of them to the end: a fifth of the budget goes to whole runs."""
    encoding, full = Encoding(config), len(world.steps)
    rung = max(1, full // 5)
    whole = max(1, trials // 5)
    draws = np.random.default_rng([8, seed])
    count = int((trials - whole * (1 - rung / full)) * full / rung)
    points = [encoding.params(row) for row in encoding.draw(count, draws)]
    curves = [world.run(params, np.random.default_rng([seed, number])) for number, params in enumerate(points)]
    metric = "eval/nll" if "eval/nll" in world.metrics else config.study.metric
    sign = -1.0 if metric == "eval/nll" else world.sign
    order = sorted(range(count), key=lambda number: -sign * curves[number][rung - 1][metric])
    spent, found, chosen, best = count * rung / full, math.inf, math.inf, -math.inf
    for number in order[:whole]:
        spent += 1 - rung / full
        reaches, value = world.reaches(points[number]), world.sign * curves[number][-1][config.study.metric]
        found = min(found, spent) if reaches else found
        if value > best:
            best, chosen = value, (min(chosen, spent) if reaches else math.inf)
    return Replay(found, chosen, spent, spent / slots, whole, count - whole, (), ())


STRATEGIES: dict[str, Play] = {
    "random": of_a_search("random"),
    "default before: tpe + halving on the metric": of_a_search("tpe+successive_halving", prune_on="metric"),
    "random + ASHA on NLL": of_a_search("random+successive_halving"),
    "tpe, nothing known": of_a_search("tpe", "none"),
    "tpe": of_a_search("tpe"),
    "tpe + hyperband": of_a_search("tpe+hyperband"),
    "gp (Optuna)": of_a_search("gp"),
    "one rung, then the best": one_rung,
    "auto": of_a_search("auto"),
    "auto, nothing known": of_a_search("auto", "none"),
    "auto, right known": of_a_search("auto", "right"),
    "auto, right known, none reaches the target": of_a_search("auto", "short"),
    "auto, wrong known": of_a_search("auto", "wrong"),
    "auto + halving on NLL": of_a_search("auto+successive_halving"),
}


PRUNING = ("+", "halving", "one rung")
"""What is in the names of strategies that decide on reports before the end of a run."""


def run(name: str, config: Config, worlds: Sequence[World], given: argparse.Namespace) -> None:
    """Print one table's figures."""
    for world in worlds if given.share else ():
        world.aim_at(given.share / 100)
    exact, p90 = random_median(worlds), random_quantile([world.share for world in worlds], 0.9)
    shares = ", ".join(f"{world.name} {100 * world.share:.2f} %" for world in worlds)
    full = len(worlds[0].steps)
    print(f"\n## {name}: random search's exact median {exact:g}, 90 % {p90:g} (share of the space: {shares})\n")
    print("| strategy | slots | found | 90 % | / random | ms / trial | per world |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for label, play in STRATEGIES.items():
        if (given.only and label not in given.only) or (full == 1 and any(part in label for part in PRUNING)):
            continue
        seeds = range(given.first_seed, given.first_seed + given.seeds)
        for slots in given.slots:
            replays = {
                world.name: [play(config, world, given.trials, slots, seed) for seed in seeds] for world in worlds
            }
            done = Summary(label, tuple(one for each in replays.values() for one in each))
            each = " ".join(shown_pair(Summary("", tuple(some)), "found") for some in replays.values())
            ratios = [one.found / random_median([world]) for world in worlds for one in replays[world.name]]
            middle = float(np.median(ratios))
            ratio = f"1/{1 / middle:.1f}" if math.isfinite(middle) else "-"
            median = done.quantile("found", 0.5)
            figures = [median, done.quantile("found", 0.9)]
            shown = [f"{value:.3g}" if math.isfinite(value) else "never" for value in figures]
            cpu = 1e3 * done.cpu_seconds_per_trial
            print(f"| {label} | {slots} | {' | '.join(shown)} | {ratio} | {cpu:.1f} | {each} |", flush=True)


def shown_pair(done: Summary, what: str) -> str:
    """Return median and 90 % quantile of full runs, as `7 (19)`; `-` where that share never got there."""
    values = [done.quantile(what, part) for part in (0.5, 0.9)]
    middle, late = (f"{value:.3g}" if math.isfinite(value) else "-" for value in values)
    return f"{middle} ({late})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--trials", type=int, default=60, help="finished trials per search, at most")
    parser.add_argument("--only", nargs="*", default=[], help=f"of: {'; '.join(STRATEGIES)}")
    parser.add_argument("--tables", nargs="*", default=list(OURS), choices=OURS, help="our own tables")
    parser.add_argument("--made", type=int, default=0, help="made-up tables for each space (synthetic) instead of ours")
    parser.add_argument("--share", type=float, help="percent of the space that reach the target; else one seed sd")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="another table, with --file")
    parser.add_argument("--file", type=Path, help="its search file: space, metric, known settings")
    given = parser.parse_args()
    if given.table:
        jobs = [(given.table.name, given.table, load_config(given.file).config)]
    else:
        jobs = [(name, TABLES / f"{OURS[name][0]}.parquet", table_config(name)) for name in given.tables]
    for name, file, config in [] if given.made else jobs:
        table = read_table(file, config)
        worlds = worlds_of(table, config, {**FAMILIES, "held out": kernel_smoother})
        print(f"{file.name}: {len(table.settings)} settings, {sum(map(len, table.curves))} runs", file=sys.stderr)
        run(name, config, worlds, given)
    for name in {OURS[name][0]: name for name in given.tables}.values() if given.made else ():  # one for each space
        config = table_config(name)
        families = {**FAMILIES, "held out": kernel_smoother}
        tables = [made_table(config, seed) for seed in range(given.made)]
        worlds = [world for table in tables for world in worlds_of(table, config, families)]
        for index, world in enumerate(worlds):
            world.name += f" {index // len(families)}"
        run(f"{name}, {given.made} made-up tables (synthetic)", config, worlds, given)


if __name__ == "__main__":
    main()
