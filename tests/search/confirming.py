"""Runs of a confirmation that cost nothing: values drawn from a seeded scatter around each setting's true mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from rankray.contracts import Report
from rankray.store.confirmation import Run

Truth = Callable[[Mapping[str, Any]], float]


class Claims:
    """The claims of one process."""

    def __init__(self) -> None:
        self.entered: dict[str, Any] = {}

    def first(self, key: str) -> Any:
        return self.entered.get(key)

    def enter(self, key: str, body: Any) -> Any:
        return self.entered.setdefault(key, body)


def value(params: Mapping[str, Any], truth: Truth, sd: float, world: int = 0) -> float:
    """What a run measures: the same for the same setting, data and seed."""
    return truth(params) + sd * random.Random(f"{world} {sorted(params.items())}").gauss(0.0, 1.0)


def play(confirmation: Any, truth: Truth, sd: float, world: int = 0, failing: Any = None) -> list[Run]:
    """Run whatever is due until nothing is."""
    runs: list[Run] = []
    while True:
        ended = {(run.origin, run.seed) for run in runs}
        due = [each for each in confirmation.points(runs) if (each[0], each[1]["train.seed"]) not in ended]
        if not due:
            return runs
        for origin, params in due:
            fails = failing is not None and failing(origin, len(runs))
            measured = None if fails else value(params, truth, sd, world)
            state = "failed" if fails else "complete"
            runs.append(Run(len(runs), origin, state, measured, 0.01, params["train.seed"]))


def run_all(truth: Truth, sd: float, metric: str) -> Callable[..., bool]:
    """Return what stands in for `run_search`: it trains nothing and reports what a run would measure."""

    def run(study: Any, observer: Any, *, verbose: bool = False) -> bool:
        with study:
            while not study.done:
                ticket = study.next_trial()
                if ticket is None:
                    continue
                full = study.config.full_steps
                metrics = {metric: value(ticket.params, truth, sd), f"{metric}_stderr": 0.01}
                study.report(ticket.number, Report(full, metrics))
                study.complete(ticket.number, metrics)
        return True

    return run
