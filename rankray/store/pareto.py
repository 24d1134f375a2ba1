"""Studies of several metrics: which trials no other one beats, and how a sampler of one value proposes for all of them.

The store keeps one value per trial, the first metric's, so everything that works for one metric works here too. The
others are in the trial's final metrics. For each proposal the metrics are joined to one value with weights of its own,
drawn at random, so that one sampler after the other looks for another part of the front (ParEGO):

    cost = max_i(w_i c_i) + 0.05 sum_i w_i c_i,    c_i = metric i, 0 at its best and 1 at its worst so far

Source: J. Knowles, IEEE Transactions on Evolutionary Computation 10 (2006) 50-66, eq. 2.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.store.records import end_of, steps_of

AUGMENTED = 0.05
"""The share of the sum, which keeps points that are only as good as others in the worst metric from being equal."""


def metrics_of(trial: FrozenTrial) -> dict[str, float]:
    """Return a trial's final metrics: the last ones of each name that it has reported."""
    metrics: dict[str, float] = {}
    for record in steps_of(trial).values():
        metrics.update(record.metrics)
    metrics.update(end_of(trial).get("metrics", {}))
    return metrics


def costs_of(trial: FrozenTrial, config: Config) -> tuple[float, ...] | None:
    """Return what a complete trial reached in each of `study.metrics`, less is better; None for any other trial."""
    if trial.state != TrialState.COMPLETE:
        return None
    found = metrics_of(trial)
    if any(name not in found for name in config.study.metrics):
        return None
    return tuple(
        -found[name] if config.direction_of(name) == "maximize" else found[name] for name in config.study.metrics
    )


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether costs are nowhere higher than others, and somewhere lower."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(trials: Sequence[FrozenTrial], config: Config) -> list[FrozenTrial]:
    """Return the complete trials that no other beats, the best in the first metric first; of equals the earliest."""
    known = [(costs, trial.number, trial) for trial in trials if (costs := costs_of(trial, config)) is not None]
    kept: list[tuple[tuple[float, ...], int, FrozenTrial]] = []
    for entry in sorted(known, key=lambda each: each[:2]):  # whoever beats another comes before it in this order
        if not any(dominates(other[0], entry[0]) or other[0] == entry[0] for other in kept):
            kept.append(entry)
    return [trial for *_, trial in kept]


def joined(trials: Sequence[FrozenTrial], config: Config, number: int) -> Sequence[FrozenTrial]:
    """Return the trials with the joined value for a proposal in place of their own, in the study's direction.

    Args:
        trials: the study's trials; those that are not complete are returned as they are.
        config: its configuration, with `study.metrics`.
        number: the trial that is being proposed: with the study's seed it decides the weights.
    """
    known = {trial.number: costs for trial in trials if (costs := costs_of(trial, config)) is not None}
    if not known:
        return trials
    lows, highs = ([pick(column) for column in zip(*known.values(), strict=True)] for pick in (min, max))
    weights = weights_for(config, number)
    sign = -1.0 if config.direction == "maximize" else 1.0
    shown: list[FrozenTrial] = []
    for trial in trials:
        if trial.number in known:
            trial = copy.copy(trial)
            parts = [
                weight * (cost - low) / (high - low or 1.0)
                for weight, cost, low, high in zip(weights, known[trial.number], lows, highs, strict=True)
            ]
            trial.value = sign * (max(parts) + AUGMENTED * sum(parts))
        shown.append(trial)
    return shown


def weights_for(config: Config, number: int) -> list[float]:
    """Return one proposal's weights: positive, of sum 1, evenly spread over all such weights."""
    dice = random.Random(f"weights {config.study.seed}:{number}")
    drawn = [dice.expovariate(1.0) for _ in config.study.metrics]
    return [each / sum(drawn) for each in drawn]
