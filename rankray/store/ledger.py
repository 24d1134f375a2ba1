"""What a search has cost, and whether that ends it: from the store alone.

Every driver keeps one record, an attribute of the claims study: since when and until when it has worked, how many
GPU-seconds its trials have held, and which nodes of the cluster it has seen from when to when. It is rewritten every
few seconds (`search/meter.py`) and never removed. So the sum over all records is what all drivers of all times have
spent; what a trial cost is in it whatever became of the trial, lost work included; and a kill loses a few seconds.

    rankray:spent:<driver>   {"from", "to": Unix times, "gpu_seconds", "nodes": {id: [type, is spot, from, to]}}

Times that overlap count once: two drivers at once for wall hours, two drivers that see one node for money. This
compares the clocks of machines, and is as exact as they are. How long a driver has worked is measured on its monotonic
clock: a clock that is set meanwhile, or a machine that sleeps, moves both ends of its times.

What ended the search is an attribute of the study, `rankray:ended`, for those who look at it. Whether it has ended is
asked of the records and the limits each time, so a raised limit continues a search.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from rankray.config.evaluation import is_over_tokens
from rankray.config.schema import Config
from rankray.config.study import BudgetSection
from rankray.store.pareto import costs_of, dominates, metrics_of
from rankray.store.stored import mapping, number, text

logger = logging.getLogger(__name__)

SPENT = "rankray:spent:"
ENDED = "rankray:ended"
HOUR = 3600.0
Interval = tuple[float, float]


@dataclass(frozen=True)
class Spent:
    """What all drivers of a study have spent.

    Attributes:
        wall_seconds: during which at least one driver worked.
        gpu_seconds: GPUs that trials held, times seconds.
        money: in the unit of the prices; 0 without any.
        unpriced: types of nodes that have no price; they count with the highest one that is given.
    """

    wall_seconds: float = 0.0
    gpu_seconds: float = 0.0
    money: float = 0.0
    unpriced: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return hours and money, as people read them."""
        return {
            "wall_hours": self.wall_seconds / HOUR,
            "gpu_hours": self.gpu_seconds / HOUR,
            "money": self.money,
            "unpriced": list(self.unpriced),
        }


@dataclass(frozen=True)
class Ended:
    """Why a search has ended.

    Attributes:
        by: the limit: `trials`, `wall_hours`, `gpu_hours`, `money` or `plateau`; or `space`, of
            which every point has been tried.
        reason: the same for people, with the figures.
    """

    by: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def spent_of(attributes: Mapping[str, Any], budget: BudgetSection) -> Spent:
    """Return what was spent, from the attributes of the claims study.

    Args:
        attributes: those of the claims study.
        budget: has the prices.
    """
    records = [record for key, stored in attributes.items() if key.startswith(SPENT) and (record := _record(stored))]
    by_node: dict[str, tuple[str, bool, list[Interval]]] = {}
    for record in records:
        for node, kind, spot, interval in record.nodes:
            by_node.setdefault(node, (kind, spot, []))[2].append(interval)
    money, unpriced = 0.0, set()
    for kind, spot, intervals in by_node.values():
        price = price_of(budget, kind, spot)
        if price is None:
            unpriced.add(kind or "a node without a type")
            price = max((price_of(budget, each, False) or 0.0 for each in budget.price), default=0.0)
        money += price * covered(intervals) / HOUR
    return Spent(
        wall_seconds=covered(record.worked for record in records),
        gpu_seconds=sum(record.gpu_seconds for record in records),
        money=money,
        unpriced=tuple(sorted(unpriced)) if budget.price else (),
    )


class _Record(NamedTuple):
    worked: Interval
    gpu_seconds: float
    nodes: list[tuple[str, str, bool, Interval]]


def _record(stored: Any) -> _Record | None:
    """Return what a driver has written of its costs, without what is malformed; None where nothing can be used."""
    found = mapping(stored)
    worked = _interval([found.get("from"), found.get("to")])
    if worked is None:
        if stored is not None:
            logger.debug("ledger: a driver's record of its costs is malformed, and is left out: %r", stored)
        return None
    nodes = [
        (node, text(seen[0]), seen[1] is True, interval)
        for node, seen in mapping(found.get("nodes")).items()
        if isinstance(seen, list) and len(seen) == 4 and (interval := _interval(seen[2:]))
    ]
    gpu_seconds = number(found.get("gpu_seconds")) or 0.0
    return _Record(worked, max(0.0, gpu_seconds) if math.isfinite(gpu_seconds) else 0.0, nodes)


def _interval(stored: list[Any]) -> Interval | None:
    since, until = map(number, stored)
    if since is None or until is None or not (math.isfinite(since) and math.isfinite(until)):
        return None
    return since, until


def worked_until(attributes: Mapping[str, Any]) -> dict[str, datetime]:
    """Return driver to when it last wrote what it had spent.

    Args:
        attributes: those of the claims study.
    """
    records = {key.removeprefix(SPENT): record for key, record in attributes.items() if key.startswith(SPENT)}
    times = {driver: number(record.get("to")) for driver, record in records.items() if isinstance(record, Mapping)}
    return {driver: at for driver, time in times.items() if time is not None and (at := _date(time))}


def _date(time: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(time).astimezone()
    except (ValueError, OverflowError, OSError) as error:
        logger.debug("ledger: %r is no time: %s", time, error)
        return None


def price_of(budget: BudgetSection, kind: str, spot: bool) -> float | None:
    """Return the price of a node for an hour; of a spot node that has no price of its own, the one on demand."""
    found = budget.price.get(kind, budget.price.get("default"))
    if isinstance(found, dict):
        return found.get("spot" if spot else "on_demand", found.get("on_demand", found.get("spot")))
    return found


def covered(intervals: Iterable[Interval]) -> float:
    """Return how long at least one of some intervals lasts."""
    total, end = 0.0, float("-inf")
    for since, until in sorted(intervals):
        total += max(0.0, until - max(since, end))
        end = max(end, until)
    return total


def ended(config: Config, finished: int, spent: Spent, trials: Sequence[FrozenTrial]) -> Ended | None:
    """Return why a search has ended, or None while it has not.

    Args:
        config: its configuration.
        finished: its complete and pruned trials.
        spent: what it has cost.
        trials: its trials, by number.
    """
    budget = config.study.budget
    if finished >= config.study.trials:
        return Ended("trials", f"{finished} of {config.study.trials} trials are finished")
    limits = (
        ("wall_hours", spent.wall_seconds / HOUR, budget.wall_hours, "hours"),
        ("gpu_hours", spent.gpu_seconds / HOUR, budget.gpu_hours, "GPU-hours"),
        ("money", spent.money, budget.money, "of money"),
    )
    for name, used, limit, unit in limits:
        if limit is not None and used >= limit:
            return Ended(name, f"{used:.4g} of {limit:g} {unit} are spent")
    if budget.plateau is not None:
        return _plateau(config, budget.plateau, trials)
    return None


def _plateau(config: Config, most: int, trials: Sequence[FrozenTrial]) -> Ended | None:
    """Return that nothing has become better for so many finished trials, in order of number."""
    metric = config.study.metric
    best: FrozenTrial | None = None
    seen: list[FrozenTrial] = []
    since = 0
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        since += 1
        if trial.state != TrialState.COMPLETE or trial.value is None:
            continue
        if _is_better(trial, best, seen, config):
            best, since = trial, 0
        seen.append(trial)
    if best is None or since < most:
        return None
    if config.study.metrics:
        return Ended("plateau", f"{since} finished trials in a row were beaten by earlier ones in every metric")
    return Ended(
        "plateau",
        f"{since} finished trials in a row were not better than {metric} {best.value:.4g} (trial {best.number}) by "
        f"more than {_noise(best, metric):.2g}",
    )


def _is_better(trial: FrozenTrial, best: FrozenTrial | None, seen: Sequence[FrozenTrial], config: Config) -> bool:
    """Return whether a complete trial improves on all before it: beyond noise, or in some metric of several."""
    if best is None:
        return True
    if config.study.metrics:
        costs = costs_of(trial, config)
        before = [each for other in seen if (each := costs_of(other, config)) is not None]
        return costs is not None and not any(other == costs or dominates(other, costs) for other in before)
    gain = float(trial.value or 0.0) - float(best.value or 0.0)
    return (gain if config.direction == "maximize" else -gain) > _noise(best, config.study.metric)


def _noise(trial: FrozenTrial, metric: str) -> float:
    """Return the standard error over examples that came with a trial's final metric; 0 where none did.

    That of a metric over tokens says how well the examples stand for others: two trials see the same tokens, and differ
    by far less than that without chance being the reason. It is no noise here.
    """
    return 0.0 if is_over_tokens(metric) else metrics_of(trial).get(f"{metric}_stderr", 0.0)
