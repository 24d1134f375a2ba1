"""Does `importance` find the fields that matter? Replays in recorded worlds, beside Optuna's PED-ANOVA.

In a surrogate of a recorded table the truth is known: the variance that each field explains by itself, of the
noise-free metric over the whole space, with what is worse than the median as the median. Printed is how far the shares
that each method finds in a search's trials are from the true ones: half the sum of the absolute differences, 0 to 1,
the median over searches; and how often the field that matters most is the one that is named first.

    python benchmarks/importance.py --seeds 6 --trials 16 32 64
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from search import OURS, TABLES, table_config

from rankray.config import Config
from rankray.rehearse.replay import configured, replay
from rankray.rehearse.surrogates import FAMILIES, kernel_smoother
from rankray.rehearse.table import read_table
from rankray.rehearse.worlds import World, worlds_of
from rankray.store import open_rehearsal
from rankray.store.encoding import Encoding
from rankray.store.importance import SETTINGS, importance, main_effects
from rankray.store.records import steps_of

Shares = dict[str, float]


def truth(config: Config, world: World) -> Shares:
    """Return the shares of the fields in a world."""
    encoding = Encoding(config)
    rows = encoding.draw(SETTINGS, np.random.default_rng(5))
    values = np.array([world.sign * world.true_value(encoding.params(row)) for row in rows])
    return shares_of(main_effects(encoding, rows, values))


def shares_of(found: Shares) -> Shares:
    total = sum(found.values()) or 1.0
    return {path: value / total for path, value in found.items()}


def ped_anova(study: Any, sign: float) -> Shares:
    """Return Optuna's answer from a study's finished trials: complete ones, then pruned ones, more steps first."""
    found = [each for each in study.trials() if each.state in (TrialState.COMPLETE, TrialState.PRUNED)]

    def merit(trial: FrozenTrial) -> tuple[bool, int, float]:
        pruned = trial.state == TrialState.PRUNED
        return pruned, -max(steps_of(trial), default=0) if pruned else 0, -sign * float(trial.value or 0.0)

    ranked = sorted((each for each in found if each.value is not None), key=merit)
    held = optuna.create_study()
    held.add_trials(
        create_trial(params=each.params, distributions=each.distributions, value=float(place))
        for place, each in enumerate(ranked)
    )
    evaluator = PedAnovaImportanceEvaluator(target_quantile=0.1)
    return {str(path): float(share) for path, share in get_param_importances(held, evaluator=evaluator).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--trials", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--strategies", nargs="+", default=["auto", "random", "tpe", "tpe+successive_halving"])
    parser.add_argument("--tables", nargs="*", default=list(OURS), choices=OURS)
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    print("| table | search | trials | ours: distance | first is right | PED-ANOVA: distance | first is right |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in given.tables:
        config = table_config(name)
        table = read_table(TABLES / f"{OURS[name][0]}.parquet", config)
        worlds = worlds_of(table, config, {**FAMILIES, "held out": kernel_smoother})
        wanted = {world.name: truth(config, world) for world in worlds}
        for strategy in given.strategies:
            for trials in given.trials:
                rows = [
                    compared(configured(config, strategy, world, trials, seed), world, seed, wanted[world.name])
                    for world in worlds
                    for seed in range(given.seeds)
                ]
                ours, first, theirs, their_first = np.array(rows).T
                print(
                    f"| {name} | {strategy} | {trials} | {np.median(ours):.2f} | {first.mean():.0%} | "
                    f"{np.median(theirs):.2f} | {their_first.mean():.0%} |",
                    flush=True,
                )


def compared(config: Config, world: World, seed: int, wanted: Shares) -> tuple[float, float, float, float]:
    """Run one search; return distance and whether the first field is right, of both methods."""
    study = open_rehearsal(config)
    replay(config, world, slots=1, seed=seed, opened=lambda _: study)
    figures: list[float] = []
    for found in (importance(study)["values"], ped_anova(study, world.sign)):
        distance = sum(abs(found.get(path, 0.0) - share) for path, share in wanted.items()) / 2
        first = max(found, key=lambda path: found[path], default="")
        figures += [distance, float(first == max(wanted, key=lambda path: wanted[path]))]
    return figures[0], figures[1], figures[2], figures[3]


if __name__ == "__main__":
    main()
