"""A whole search in virtual time: the file's own space, sampler, pruner and budget, on curves that cost nothing.

What a sampler and a pruner do with a budget is hard to predict and cheap to try. A rehearsal runs the real store (in a
temporary journal) with the real sampler and the real pruner, and takes each trial's metric from a curve:

- synthetic: a bowl whose optimum is drawn from the seed, approached exponentially over the steps, with noise;
- recorded: the curve of the nearest complete trial of an earlier study.

Trials take virtual time, one unit per step, in `slots` slots, so that asynchronous pruning sees the reports in the
order of a real search. For comparison, the same search without pruning, and random search without pruning, run on the
same curves.
"""

from __future__ import annotations

import heapq
import math
import random
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankray.config import Config, Distribution, distributions
from rankray.contracts import Report
from rankray.errors import UserError

Curve = Callable[[Mapping[str, Any], int], float]
"""(parameters, step) to the study's metric."""


@dataclass(frozen=True)
class Rehearsal:
    """The result of one search in virtual time.

    Attributes:
        label: which search.
        complete: number of trials trained to the end.
        pruned: number of trials stopped early.
        steps: optimizer steps of all trials together.
        virtual_steps: duration of the search in steps, with `slots` trials at a time.
        best: best value of a complete trial.
        best_at_step: virtual step at which that trial ended.
    """

    label: str
    complete: int
    pruned: int
    steps: int
    virtual_steps: int
    best: float
    best_at_step: int


def rehearse(config: Config, curve: Curve, *, slots: int = 2, label: str = "as configured") -> Rehearsal:
    """Run the whole search on a curve.

    Args:
        config: the configuration; its store and storage are not used.
        curve: the metric a trial would report.
        slots: trials at a time.
        label: a name for the result.
    """
    from rankray.store import open_study

    full = config.full_steps
    every = config.evaluate.every_steps
    with tempfile.TemporaryDirectory(prefix="rankray-rehearsal-") as scratch:
        study = open_study(f"journal:///{Path(scratch) / 'store.log'}", config)
        best, best_at, spent, now = math.inf, 0, 0, 0
        sign = 1.0 if config.direction == "minimize" else -1.0
        queue: list[tuple[int, int, int, dict[str, Any]]] = []
        with study:
            for _ in range(slots):
                _begin(study, queue, 0, every, full)
            while queue:
                now, number, step, params = heapq.heappop(queue)
                value = curve(params, step)
                spent += step - _before(step, every, full)
                stopped = study.report(number, Report(step, {config.study.metric: value})).stop
                if not stopped and step < full:
                    after = _after(step, every, full)
                    heapq.heappush(queue, (now + after - step, number, after, params))
                    continue
                if not stopped:
                    study.complete(number, {config.study.metric: value})
                    if sign * value < best:
                        best, best_at = sign * value, now
                _begin(study, queue, now, every, full)
            counts = study.counts()
    return Rehearsal(label, counts.complete, counts.pruned, spent, now, sign * best, best_at)


def compare(config: Config, curve: Curve, *, slots: int = 2) -> list[Rehearsal]:
    """Rehearse a file as it is, without its pruner, and as random search, on the same curve."""
    unpruned = config.model_copy(update={"study": config.study.model_copy(update={"pruner": "none"})})
    chance = unpruned.model_copy(update={"study": unpruned.study.model_copy(update={"sampler": "random"})})
    return [
        rehearse(config, curve, slots=slots),
        rehearse(unpruned, curve, slots=slots, label="without pruning"),
        rehearse(chance, curve, slots=slots, label="random, without pruning"),
    ]


def synthetic_curve(config: Config, seed: int = 0) -> Curve:
    """Return a bowl over the unit cube of the space, with an optimum, weights and noise drawn from the seed."""
    space = distributions(config)
    draw = random.Random(f"curve {seed}")
    centre = {path: draw.uniform(0.15, 0.85) for path in space}
    weight = {path: draw.uniform(0.3, 1.5) for path in space}
    better = 1.0 if config.direction == "minimize" else -1.0
    full = config.full_steps

    def curve(params: Mapping[str, Any], step: int) -> float:
        off = sum(
            weight[path] * (unit(space[path], value) - centre[path]) ** 2
            for path, value in params.items()
            if path in space
        )
        noise = random.Random(f"{seed} {sorted(params.items())} {step}").gauss(0.0, 0.01)
        return better * (1.0 + off + 2.0 * math.exp(-4.0 * step / full) + noise)

    return curve


def recorded_curve(config: Config, rows: list[dict[str, Any]]) -> Curve:
    """Return the curve of the nearest recorded trial.

    Args:
        config: the configuration, for its space and metric.
        rows: recorded trials, each with `params` and `steps` as `rankray.store.views.trial` gives them.

    Raises:
        UserError: none of them is complete.
    """
    space, metric = distributions(config), config.study.metric
    whole = [row for row in rows if row["state"] == "complete" and row["steps"]]
    if not whole:
        raise UserError(
            "rehearse: no complete trial was recorded; needed: at least one; use synthetic curves, or finish a trial"
        )

    def distance(row: dict[str, Any], params: Mapping[str, Any]) -> float:
        apart = 0.0
        for path in space:
            mine, theirs = params.get(path), row["params"].get(path)
            if (mine is None) != (theirs is None):
                apart += 1.0
            elif mine is not None:
                apart += (unit(space[path], mine) - unit(space[path], theirs)) ** 2
        return apart

    def curve(params: Mapping[str, Any], step: int) -> float:
        nearest = min(whole, key=lambda row: distance(row, params))
        seen = [record for record in nearest["steps"] if metric in record["metrics"]]
        closest = min(seen, key=lambda record: abs(record["step"] - step))
        return float(closest["metrics"][metric])

    return curve


def unit(dist: Distribution, value: Any) -> float:
    """Return where a value lies in its distribution, from 0 to 1."""
    if dist.kind == "choice":
        return dist.choices.index(value) / max(1, len(dist.choices) - 1) if value in dist.choices else 0.0
    low, high, at = dist.low, dist.high, float(value)
    if dist.log:
        low, high, at = math.log(low), math.log(high), math.log(at)
    return (at - low) / (high - low)


def _begin(study: Any, queue: list[tuple[int, int, int, dict[str, Any]]], now: int, every: int, full: int) -> None:
    ticket = study.next_trial()
    if ticket is not None:
        first = _after(0, every, full)
        heapq.heappush(queue, (now + first, ticket.number, first, dict(ticket.params)))


def _after(step: int, every: int, full: int) -> int:
    return min(step // every * every + every, full)


def _before(step: int, every: int, full: int) -> int:
    return (step - 1) // every * every
