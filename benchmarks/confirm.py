"""How often `rankray confirm` errs, and how often it finds what is there: its whole procedure, on resampled runs.

    python benchmarks/confirm.py                      # normal scatter
    python benchmarks/confirm.py --values runs.json   # runs drawn from recorded ones: a list of values of one setting

Each experiment is a search's worth of finalists and of rates of plain SFT, all with the true means given, whose runs
are drawn at random. The code that plans, chooses, looks and judges is that of the command; only the training is left
out. Three worlds: nothing differs; the finalists differ from plain SFT by two standard deviations over seeds; one
finalist differs and the others are like plain SFT, so that it has to be chosen first.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankray.config import Config
from rankray.config.space import RATE
from rankray.search.candidates import Candidate, confirmation_config
from rankray.search.confirmation import Confirmation, Options, Plan
from rankray.store.confirmation import Run

RATES = (1e-3, 3e-3, 3e-4, 2e-3, 5e-4)
Draw = Callable[[random.Random], float]


class Claims:
    """What is decided in one experiment."""

    def __init__(self) -> None:
        self.entered: dict[str, Any] = {}

    def first(self, key: str) -> Any:
        """Return what was decided, or None."""
        return self.entered.get(key)

    def enter(self, key: str, body: Any) -> Any:
        """Decide something, unless it is decided."""
        return self.entered.setdefault(key, body)


def experiment(options: Options, means: list[float], draw: Draw, dice: random.Random) -> dict[str, Any]:
    """Run one confirmation in which finalist i has the true mean `means[i]` and plain SFT has 0; return its verdict."""
    config = Config.model_validate(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "e.jsonl", "test": "t.jsonl"},
            "evaluate": {"metrics": ["accuracy"]},
            "space": {"loss.objective": {"choice": ["rri", "sft"]}, RATE: {"float": [1e-5, 1e-1], "log": True}},
            "study": {"metric": "eval/accuracy"},
        }
    )
    count = options.finalists
    best = [Candidate({"loss.objective": "rri", RATE: rate}, at, 0.0) for at, rate in enumerate(RATES[:count])]
    plain = [Candidate({"loss.objective": "sft", RATE: rate}) for rate in RATES[:count]]
    plan = Plan(options, best, plain, "e.jsonl", "t.jsonl", str(dice.random()), [0], 20)
    claims: Any = Claims()
    confirmation = Confirmation(confirmation_config(config, "s.confirm"), plan, claims)
    truth = {(each.params["loss.objective"], each.params[RATE]): 0.0 for each in [*best, *plain]}
    truth |= {("rri", rate): mean for rate, mean in zip(RATES[:count], means, strict=True)}
    runs: list[Run] = []
    while True:
        ended = {(run.origin, run.seed) for run in runs}
        due = [each for each in confirmation.points(runs) if (each[0], each[1]["train.seed"]) not in ended]
        if not due:
            break
        for origin, params in due:
            value = truth[params["loss.objective"], params[RATE]] + draw(dice)
            runs.append(Run(len(runs), origin, "complete", value, None, params["train.seed"]))
    found = confirmation.verdict(runs, "s")
    assert found is not None
    return found | {"runs": len(runs)}


def drawing(values: list[float] | None) -> Draw:
    """Return what draws one run's scatter, of standard deviation 1: normal, or one of the recorded values."""
    if values is None:
        return lambda dice: dice.gauss(0.0, 1.0)
    mean, sd = statistics.fmean(values), statistics.stdev(values)
    return lambda dice: (dice.choice(values) - mean) / sd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--difference", type=float, default=2.0, help="in standard deviations over seeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--values", type=Path, help="a JSON list of recorded values of one setting")
    given = parser.parse_args()
    draw = drawing(json.loads(given.values.read_text()) if given.values else None)
    started = time.monotonic()
    every = [given.difference] * 5
    worlds = {"no difference": [0.0] * 5, "all finalists better": every, "one of five better": [*every[:1], 0, 0, 0, 0]}
    ways = {
        "8 seeds": Options(),
        "5 seeds": Options(seeds=5),
        "looks 4,8,12,16 (O'Brien-Fleming)": Options(looks=(4, 8, 12, 16)).checked(),
        "looks 4,8,12,16 (Pocock)": Options(looks=(4, 8, 12, 16), spending="pocock").checked(),
    }
    for way, options in ways.items():
        for world, means in worlds.items():
            dice = random.Random(f"{given.seed} {way} {world}")
            found = [experiment(options, [float(mean) for mean in means], draw, dice) for _ in range(given.experiments)]
            words = Counter(each["verdict"]["word"] for each in found)
            shown = {word: f"{100 * words[word] / len(found):.1f} %" for word in sorted(words)}
            runs = statistics.fmean(each["runs"] for each in found)
            print(f"{way}; {world}: {shown}, {runs:.1f} runs", flush=True)
    print(f"{given.experiments} experiments each, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
