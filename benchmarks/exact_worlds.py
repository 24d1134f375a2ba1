"""The default search in made-up worlds of many kinds, whose truth is a formula and no surrogate. Synthetic, all of it.

    python benchmarks/exact_worlds.py --lands 8 --seeds 4 --first 20                 hours, all worlds
    python benchmarks/exact_worlds.py --worlds manycat,modes2 --lands 8 --seeds 4 --first 20

Each world has a space and a landscape: a bowl around a random best point, wider in one field than in another, with a
constant for each choice; or several peaks, a best at the ends of ranges, choices that act on each other. What is noisy,
diverges, is coarse or has an odd scale is said beside its name in WORLDS. The target is the best half percent of the
space. Printed are full runs until it is found, median (90 % quantile) over all lands and seeds, the mean with what is
not found counted as 20 more than were tried, and how many times fewer than random search's exact median that is.
`auto` starts with the file's known settings, `auto:none` with nothing known, `auto:right` and `auto:wrong` with six of
the best tenth or of the worst.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record_table import SPACES as RECORDED
from search import KNOWN_SETTINGS, with_known

from rankray.config import Config, config_from
from rankray.config.space import RATE
from rankray.rehearse.replay import configured, replay
from rankray.rehearse.summary import random_median
from rankray.rehearse.worlds import World
from rankray.store.encoding import Encoding

Array = NDArray[np.float64]
TRIALS, BEYOND = 60, 20


def number(low: float, high: float, *, log: bool = False, when: Mapping[str, str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"float": [low, high]}
    return found | ({"log": True} if log else {}) | ({"when": dict(when)} if when else {})


RATES = number(1e-5, 1e-2, log=True)
TEMPERATURE, ENTROPY = number(0.25, 4, log=True), number(0, 2)
SCHEDULES = {"choice": ["constant", "linear", "cosine"]}
SPACES: dict[str, dict[str, Any]] = {
    "quickstart": RECORDED["quickstart"],
    "stories": RECORDED["stories"],
    "floats": {
        RATE: RATES,
        "loss.temperature": TEMPERATURE,
        "loss.entropy_weight": ENTROPY,
        "train.weight_decay": number(0, 0.3),
    },
    "choices": {
        "loss.objective": {"choice": ["sft", "dft", "talr", "eaft", "rri", "deft"]},
        "train.schedule": {"choice": ["linear", "cosine", "constant"]},
        "loss.kl_direction": {"choice": ["forward", "reverse"]},
        "loss.low_entropy": {"choice": ["max_prob", "bound"]},
        "train.sft.optim": {"choice": ["adamw_torch", "adafactor", "sgd", "lion_32bit", "rmsprop"]},
    },
    "many choices": {
        "model.path": {"choice": [f"s{index}" for index in range(24)]},
        RATE: RATES,
        "train.weight_decay": number(0, 0.3),
    },
    "ints": {
        "model.lora.rank": {"int": [1, 128], "log": True},
        "model.lora.alpha": {"int": [1, 64]},
        "train.batch_size": {"int": [4, 64], "step": 4},
        RATE: RATES,
    },
    "linear rate": {
        RATE: number(1e-5, 1e-2),
        "train.warmup_ratio": number(0, 0.5),
        "loss.temperature": number(0.25, 4),
    },
    "conditions": {
        "loss.objective": {"choice": ["sft", "rri", "eaft"]},
        "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
        "loss.min_competence": number(1e-8, 1e-2, log=True, when={"loss.form": "bound"}),
        "loss.temperature": number(0.25, 4, log=True, when={"loss.objective": "rri"}),
        "loss.entropy_weight": number(0, 2, when={"loss.form": "exact"}),
        "loss.alpha": number(0.25, 2, when={"loss.objective": "eaft"}),
        RATE: RATES,
    },
    "one": {RATE: RATES},
    "twelve": {
        RATE: RATES,
        "loss.temperature": TEMPERATURE,
        "loss.entropy_weight": ENTROPY,
        "train.weight_decay": number(0, 0.3),
        "train.warmup_ratio": number(0, 0.5),
        "model.lora.dropout": number(0, 0.5),
        "data.prompt_weight": number(0, 1),
        "loss.kl_weight": number(0, 1),
        "model.lora.rank": {"int": [2, 64], "log": True},
        "train.sft.adam_beta2": number(0.9, 0.999),
        "train.sft.max_grad_norm": number(0.1, 10, log=True),
        "train.schedule": {"choice": ["linear", "cosine", "constant"]},
    },
    "schedule": {**RECORDED["quickstart"], "train.schedule": SCHEDULES},
    "schedule and optimizer": {
        **RECORDED["quickstart"],
        "train.schedule": SCHEDULES,
        "train.sft.optim": {"choice": ["adamw_torch", "adafactor", "sgd"]},
    },
}
WORLDS: dict[str, dict[str, Any]] = {
    "floats": {"space": "floats"},
    "floats-edge": {"space": "floats", "land": "edge"},
    "cats": {"space": "choices", "land": "pairs"},
    "manycat": {"space": "many choices"},
    "manycat-shift": {"space": "many choices", "land": "shift"},
    "ints": {"space": "ints"},
    "linrate": {"space": "linear rate"},
    "cond2": {"space": "conditions"},
    "one": {"space": "one", "share": 0.02},
    "twelve": {"space": "twelve", "land": "two matter"},
    "twelve-all": {"space": "twelve"},
    "edge12": {"space": "twelve", "land": "edge"},
    "modes": {"space": "floats", "land": "peaks"},
    "modes2": {"space": "floats", "land": "wide peaks"},
    "modes3": {"space": "linear rate", "land": "peaks"},
    "hetero": {"space": "quickstart", "noise": "larger where bad"},
    "heavy": {"space": "quickstart", "noise": "heavy tails"},
    "lucky": {"space": "quickstart", "noise": "a tenth fails"},
    "noisy": {"space": "quickstart", "amount": 3.0},
    "clean": {"space": "quickstart", "amount": 0.05},
    "collapse": {"space": "floats", "half": "collapses"},
    "nan": {"space": "floats", "half": "is NaN"},
    "min": {"space": "floats", "metric": "eval/nll"},
    "tiny": {"space": "floats", "scale": 1e-9},
    "huge": {"space": "floats", "scale": 1e9, "shift": -1e12},
    "nonll": {"space": "quickstart", "has_nll": False},
    "ties": {"space": "quickstart", "is_coarse": True},
    "ties-nonll": {"space": "quickstart", "is_coarse": True, "has_nll": False},
    "shared": {"space": "schedule", "land": "shared"},
    "shared2": {"space": "schedule and optimizer", "land": "shared"},
    "quick": {"space": "quickstart"},
    "edgequick": {"space": "quickstart", "land": "edge"},
    "stories": {"space": "stories"},
    "stories-shift": {"space": "stories", "land": "shift"},
    "multi": {"space": "quickstart", "study": {"metrics": ["eval/accuracy", "eval/nll"]}},
}


def config_of(space: str, metric: str, study: Mapping[str, Any]) -> Config:
    model = {"path": "none", "lora": {"rank": 8}} if any("lora" in path for path in SPACES[space]) else {"path": "none"}
    return config_from(
        {
            "name": "w",
            "model": model,
            "data": {"train": "n.jsonl", "eval": "n.jsonl"},
            "loss": {"objective": "rri"},
            "train": {"learning_rate": 1e-3},
            "evaluate": {"metrics": ["nll", "accuracy", "token_accuracy"]},
            "space": SPACES[space],
            "study": {"metric": metric, "known": ["paper", "sft", "rates"], **study},
        }
    )


class Land:
    """What settings are worth, without noise; larger is better."""

    def __init__(self, config: Config, seed: int, kind: str) -> None:
        self.encoding, self._kind = Encoding(config), kind
        fields, draws = self.encoding.fields, np.random.default_rng([55, seed])
        count = len(fields)
        self._offsets = {
            index: draws.normal(0, 0.6, len(field.choices))
            for index, field in enumerate(fields)
            if field.kind == "choice"
        }
        self.best = draws.uniform(0.1, 0.9, count)
        if kind == "edge":
            self.best = draws.integers(0, 2, count) * 1.0
        self._width = np.exp(draws.normal(math.log(0.45), 0.4, count))
        self._matters = np.ones(count)
        if kind == "two matter":
            self._matters = np.zeros(count)
            self._matters[0] = self._matters[int(draws.integers(1, count))] = 1.0
        self._peaks = draws.uniform(0.05, 0.95, (6, count))
        self._heights = np.sort(draws.uniform(0.3, 1, 6))
        self._heights[-1] = 1.15
        self._pairs: dict[tuple[int, int], Array] = {}
        if kind == "pairs":
            sizes = {index: len(fields[index].choices) for index in self._offsets}
            self._pairs = {
                (one, two): draws.normal(0, 0.5, (sizes[one], sizes[two]))
                for one in sizes
                for two in sizes
                if one < two
            }
        if kind == "shared":
            for index, path in enumerate(self.encoding.paths):
                if path in ("train.schedule", "train.sft.optim"):
                    self._offsets[index] = draws.permutation([0, 0.8, 1.6][: len(fields[index].choices)])
        self._moves = draws.normal(0, 0.15, (count, 40)) if kind == "shift" else None

    def __call__(self, rows: Array) -> Array:
        """Return the worth of settings in the unit cube."""
        at = np.where(np.isnan(rows), 0.5, rows)
        sizes = {index: len(self.encoding.fields[index].choices) for index in self._offsets}
        chosen = {index: np.minimum((at[:, index] * size).astype(int), size - 1) for index, size in sizes.items()}
        if "peaks" in self._kind:
            return self._of_peaks(self.encoding.in_order(at), chosen)
        out, off = np.zeros(len(rows)), np.zeros(len(rows))
        for index in range(len(self.encoding.fields)):
            there = ~np.isnan(rows[:, index])
            if index in self._offsets:
                out += np.where(there, self._offsets[index][chosen[index]] * self._matters[index], 0)
                continue
            best: Any = self.best[index]
            if self._moves is not None and chosen:
                best = np.clip(best + self._moves[index][next(iter(chosen.values()))], 0, 1)
            off += np.where(there, self._matters[index] * ((at[:, index] - best) / self._width[index]) ** 2, 0)
        for (one, two), worth in self._pairs.items():
            there = ~np.isnan(rows[:, one]) & ~np.isnan(rows[:, two])
            out += np.where(there, worth[chosen[one], chosen[two]], 0)
        found: Array = out - 2 * np.log1p(off)
        return found

    def _of_peaks(self, at: Array, chosen: Mapping[int, Array]) -> Array:
        numbers = [index for index in range(at.shape[1]) if index not in self._offsets]
        width, found = 0.13 if self._kind == "peaks" else 0.25, np.zeros(len(at))
        for peak, height in zip(self._peaks, self._heights, strict=True):
            away = ((at[:, numbers] - peak[numbers]) ** 2).sum(1)
            found = np.maximum(found, height * np.exp(-0.5 * away / width**2))
        for index, offsets in self._offsets.items():
            found = found + 0.3 * offsets[chosen[index]]
        return found


class Exact(World):
    """A world of one land, whose runs have one report."""

    def __init__(
        self,
        name: str,
        config: Config,
        seed: int,
        *,
        land: str = "bowl",
        share: float = 0.005,
        noise: str = "normal",
        amount: float = 1.0,
        has_nll: bool = True,
        scale: float = 1.0,
        shift: float = 0.0,
        is_coarse: bool = False,
        half: str = "",
    ) -> None:
        self._land = Land(config, seed, land)
        self._noise_kind, self._half, self._is_coarse = noise, half, is_coarse
        self._scale, self._shift, self._sign = scale, shift, 1 if config.direction == "maximize" else -1
        encoding, metric = self._land.encoding, config.study.metric
        values = self._land(encoding.draw(20_000, np.random.default_rng(3)))
        self._seed_sd = float(values.max() - np.quantile(values, 1 - share)) * amount
        self._most, self._middle = float(values.max()), float(np.quantile(values, 0.5))
        self._least = float(np.quantile(values, 0.6))
        self._rate = encoding.paths.index(RATE) if RATE in encoding.paths else 0
        names = ("eval/nll", metric) if has_nll and metric != "eval/nll" else (metric,)

        def predict(rows: Array) -> Array:
            truth = self._land(rows)
            if half == "collapses":
                truth = np.where(self._is_bad(rows), self._middle - 8, truth)
            columns = {"eval/nll": 2 - truth, metric: self._sign * self._coarse(truth) * scale + shift}
            return np.stack([columns[each] for each in names], 1)

        empty = np.zeros((40, 1, len(names))), np.zeros((0, len(encoding.fields)))
        super().__init__(name, config, (1,), names, predict, encoding.draw(40, np.random.default_rng(1)), *empty)
        self.aim_at(share)

    def _coarse(self, truth: Array) -> Array:
        """Return what is measured on average: on 32 examples, and 0 for most of the space, where it is coarse."""
        if not self._is_coarse:
            return truth
        found: Array = np.round(32 * np.clip((truth - self._least) / (self._most - self._least), 0, 1) * 0.6) / 32
        return found

    def _is_bad(self, rows: Array) -> Array:
        found: Array = rows[:, self._rate] > 0.55 if self._land.best[self._rate] < 0.5 else rows[:, self._rate] < 0.45
        return found

    def run(self, params: Mapping[str, Any], draws: np.random.Generator) -> list[dict[str, float]]:
        """Return the reports of one run."""
        row = self._encoding.place(params)[None]
        truth, sd = float(self._land(row)[0]), self._seed_sd
        noise = draws.normal(0, 1, 2)
        if self._noise_kind == "heavy tails":
            noise = draws.standard_t(1.5, 2)
        elif self._noise_kind == "larger where bad":
            sd *= 0.3 + 3 * max(0.0, self._most - truth) / (self._most - self._middle)
        elif self._noise_kind == "a tenth fails" and draws.random() < 0.1:
            noise[0] -= 8
        is_bad = bool(self._half) and bool(self._is_bad(row)[0])
        if is_bad and self._half == "is NaN":
            return [dict.fromkeys(self.metrics, math.nan)]
        truth = self._middle - 8 if is_bad else truth
        value = truth + sd * noise[0]
        if self._is_coarse:
            right = float(np.clip((value - self._least) / (self._most - self._least), 0, 1) * 0.6)
            value = draws.binomial(32, right) / 32 if right > 0 else 0.0
        nll = float(2 - truth + sd * 0.3 * noise[1] + sd * 0.2 * noise[0])
        figures = {"eval/nll": nll, self.metrics[-1]: float(self._sign * value * self._scale + self._shift)}
        return [{each: figures[each] for each in self.metrics}]


def made(name: str, seed: int) -> tuple[Config, World]:
    """Return one land of a world, with its configuration."""
    given = dict(WORLDS[name])
    config = config_of(given.pop("space"), given.pop("metric", "eval/accuracy"), given.pop("study", {}))
    return config, Exact(name, config, seed, **given)


def found(config: Config, world: World, strategy: str, slots: int, seed: int) -> float:
    """Return the full runs until the target is found."""
    name, _, known = strategy.partition(":")
    if known:
        config = with_known(config, KNOWN_SETTINGS[known](config, world, seed))
    return replay(configured(config, name, world, TRIALS, seed), world, slots=slots, seed=seed, enough=0.0).found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--worlds", default=",".join(WORLDS), help="some of them, with commas between")
    parser.add_argument("--strategies", default="auto,tpe,auto:none,tpe:none")
    parser.add_argument("--lands", type=int, default=8, help="landscapes of each world")
    parser.add_argument("--first", type=int, default=0, help="number of the first landscape")
    parser.add_argument("--seeds", type=int, default=4, help="searches in each landscape")
    parser.add_argument("--slots", type=int, default=1)
    given = parser.parse_args()
    for name in given.worlds.split(","):
        lands = [made(name, given.first + each) for each in range(given.lands)]
        median = random_median([world for _, world in lands])
        print(f"{name:14} random {median:5g}", end="", flush=True)
        for strategy in given.strategies.split(","):
            runs = sorted(
                found(config, world, strategy, given.slots, 1000 * given.first + 7 * at + seed)
                for at, (config, world) in enumerate(lands)
                for seed in range(given.seeds)
            )
            middle, late = (runs[math.ceil(share * len(runs)) - 1] for share in (0.5, 0.9))
            mean = float(np.mean([min(each, TRIALS + BEYOND) for each in runs]))
            print(f" | {strategy} {middle:g} ({late:g}), mean {mean:.1f}, 1/{median / middle:.1f}", end="", flush=True)
        print(flush=True)


if __name__ == "__main__":
    main()
