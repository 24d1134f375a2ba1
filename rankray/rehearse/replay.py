"""One search in a world, in virtual time: the store, its sampler, its pruner and its budget are the real ones.

A trial takes one unit of time per report, in one of `slots` slots, so that what is asynchronous sees the reports in the
order of a real search. Reports are what costs: a full run is one with all its reports, and evaluation is a large part
of it. The study is kept in memory, unless a store is given.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankray.config import Config
from rankray.contracts import Report
from rankray.errors import ConfigError, nearest
from rankray.rehearse.worlds import World

if TYPE_CHECKING:
    from rankray.store import StudyStore


@dataclass(frozen=True)
class Replay:
    """How one search went. Costs are in full runs; `inf` where something did not happen.

    Attributes:
        found: cost until a whole run of a setting that reaches the target had ended.
        chosen: cost from which on the best run so far, by what it reported, was of such a setting, to the end.
        spent: cost of the whole search.
        wall: its duration, in full runs one after another.
        complete: trials that trained to their end.
        pruned: trials that were stopped.
        ask_seconds: the driver's CPU time of each new trial.
        report_seconds: the driver's CPU time of each report.
        ask_wall_seconds: how long each new trial was waited for, the store included.
        report_wall_seconds: how long each report took.
    """

    found: float
    chosen: float
    spent: float
    wall: float
    complete: int
    pruned: int
    ask_seconds: tuple[float, ...]
    report_seconds: tuple[float, ...]
    ask_wall_seconds: tuple[float, ...] = ()
    report_wall_seconds: tuple[float, ...] = ()

    @property
    def cpu_seconds(self) -> float:
        """The driver's CPU time in all: asking, reports, ends."""
        return sum(self.ask_seconds) + sum(self.report_seconds)


def configured(config: Config, strategy: str, world: World, trials: int, seed: int) -> Config:
    """Return the configuration of one replay.

    Args:
        config: the file's.
        strategy: `file` for its own sampler and pruner; else a sampler, or `sampler+pruner`. A sampler alone prunes
            nothing, but `auto` has its own pruner. `random` starts with no known settings, all others with the file's.
        world: whose steps a trial has; of metrics that it does not report, `study.metric` alone is searched.
        trials: the budget, finished trials.
        seed: of the sampler.

    Raises:
        ConfigError: there is no such sampler or pruner.
    """
    from rankray.store.strategies import PRUNERS, SAMPLERS

    sampler, _, pruner = strategy.partition("+")
    if sampler not in ("file", *SAMPLERS) or (pruner and pruner not in PRUNERS):
        wrong, table = (pruner, list(PRUNERS)) if sampler in ("file", *SAMPLERS) else (sampler, ["file", *SAMPLERS])
        raise ConfigError(
            f"rehearse: --strategies: got {wrong!r}{nearest(wrong, table)}; allowed: {', '.join(table)}, or "
            "sampler+pruner; correct the name"
        )
    study: dict[str, Any] = {"trials": trials, "seeds": 1, "seed": seed}
    if sampler != "file":
        study |= {"sampler": sampler, "pruner": pruner or ("auto" if sampler == "auto" else "none")}
    elif pruner:
        study["pruner"] = pruner
    if sampler == "random":
        study |= {"known": [], "warm_start": []}
    if config.study.prune_on not in world.metrics:
        study["prune_on"] = config.study.metric
    if not set(config.study.metrics) <= set(world.metrics):
        study["metrics"] = []  # a trial without one of them fails, and a search of failures has no end
    rungs = {"every_steps": world.steps[0]}
    return config.model_copy(
        update={
            "study": config.study.model_copy(update=study),
            "train": config.train.model_copy(update={"max_steps": world.steps[-1]}),
            "evaluate": config.evaluate.model_copy(update=rungs),
        }
    )


def replay(
    config: Config,
    world: World,
    *,
    slots: int,
    seed: int,
    enough: float = math.inf,
    opened: Callable[[Config], StudyStore] | None = None,
) -> Replay:
    """Run one search.

    Args:
        config: as `configured` returns it.
        world: what its trials report.
        slots: trials at a time.
        seed: of the noise; trial n of a seed has the same noise whatever the strategy.
        enough: stop this many full runs after the target was found and chosen; with 0, as soon as it was found.
        opened: opens the study; in memory, if None.
    """
    from rankray.store import open_rehearsal

    return _Search(config, world, slots, seed, enough, opened or open_rehearsal).run()


class _Stopwatch:
    """CPU and wall seconds of each of several calls."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    @contextmanager
    def timed(self) -> Iterator[None]:
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def forget(self) -> None:
        """Leave out the last call."""
        self.cpu.pop()
        self.wall.pop()


class _Search:
    """One call of `replay`."""

    def __init__(
        self, config: Config, world: World, slots: int, seed: int, enough: float, opened: Callable[[Config], StudyStore]
    ) -> None:
        self._config, self._world, self._slots, self._seed, self._enough = config, world, slots, seed, enough
        self._opened = opened
        self._queue: list[tuple[int, int, int]] = []
        self._curves: dict[int, list[dict[str, float]]] = {}
        self._params: dict[int, dict[str, Any]] = {}
        self._asks, self._reports = _Stopwatch(), _Stopwatch()
        self._spent = 0
        self._found, self._chosen, self._best = math.inf, math.inf, -math.inf

    def run(self) -> Replay:
        full = len(self._world.steps)
        now = 0
        with self._opened(self._config) as study:
            for _ in range(self._slots):
                self._begin(study, 0)
            while self._queue:
                now, number, index = heapq.heappop(self._queue)
                self._spent += 1
                if self._report(study, number, index):
                    self._begin(study, now)
                else:
                    heapq.heappush(self._queue, (now + 1, number, index + 1))
                if self._is_enough(self._spent / full):
                    break
            counts = study.counts()
        return Replay(
            found=self._found,
            chosen=self._chosen,
            spent=self._spent / full,
            wall=now / full,
            complete=counts.complete,
            pruned=counts.pruned,
            ask_seconds=tuple(self._asks.cpu),
            report_seconds=tuple(self._reports.cpu),
            ask_wall_seconds=tuple(self._asks.wall),
            report_wall_seconds=tuple(self._reports.wall),
        )

    def _is_enough(self, spent: float) -> bool:
        if not self._enough:
            return spent >= self._found
        return spent > max(self._found, self._chosen) + self._enough

    def _begin(self, study: StudyStore, now: int) -> None:
        with self._asks.timed():
            ticket = study.next_trial()
        if ticket is None:
            self._asks.forget()
            return
        draws = np.random.default_rng([self._seed, ticket.number])
        self._params[ticket.number] = dict(ticket.params)
        self._curves[ticket.number] = self._world.run(ticket.params, draws)
        heapq.heappush(self._queue, (now + 1, ticket.number, 0))

    def _report(self, study: StudyStore, number: int, index: int) -> bool:
        """Report one step; return whether that ended the trial."""
        metrics = self._curves[number][index]
        with self._reports.timed():
            stopped = study.report(number, Report(self._world.steps[index], metrics)).stop
            ends = not stopped and index == len(self._world.steps) - 1
            if ends:
                study.complete(number, metrics)
        if ends:
            self._ended(self._params[number], metrics)
        if ends or stopped:
            del self._curves[number], self._params[number]
        return ends or stopped

    def _ended(self, params: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        value = self._world.sign * metrics[self._config.study.metric]
        cost, reaches = self._spent / len(self._world.steps), self._world.reaches(params)
        if reaches:
            self._found = min(self._found, cost)
        if value > self._best:
            self._best = value
            if not reaches:
                self._chosen = math.inf
            elif math.isinf(self._chosen):
                self._chosen = cost
