"""What a study's overview (`rankray.store.overview`) adds up to: leaderboard, cost, failures, slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import log
from typing import Any

Row = Mapping[str, Any]
FINISHED = ("complete", "pruned")
RATE = "train.learning_rate"
SURE = 32
"""Trials of `auto` from which importance names the right field first in most searches (`benchmarks/importance.py`)."""
EDGE_SHARE = 0.05
"""How close to an end of its range a value counts as at its edge, as a share of the range."""


@dataclass(frozen=True)
class Standing:
    """How one objective did.

    Attributes:
        objective: its name.
        trials: trials of it that are finished.
        steps: optimizer steps that its trials trained.
        best: its best complete trial, or None.
        within: its best value within the steps that every objective was given, or None.
        rate: the learning rate of its best trial, or None.
        at_edge: whether that rate lies at an end of its range, so that a better one may lie beyond.
    """

    objective: str
    trials: int
    steps: int
    best: Row | None
    within: float | None
    rate: float | None
    at_edge: bool


@dataclass(frozen=True)
class Cost:
    """What a study took: `trial_hours` is time that trials ran, on all slots; `saved_steps` is what pruning saved.

    Of a range of workers a trial is counted with the most, as `study.budget` counts it.
    """

    wall_hours: float
    trial_hours: float
    cpu_hours: float
    gpu_hours: float
    steps: int
    saved_steps: int
    lost_steps: int
    lost_hours: float


@dataclass(frozen=True)
class Stretch:
    """A time in which one driver ran a trial.

    Attributes:
        number: the trial's.
        state: the trial's.
        node: where it ran; empty where that is not stored.
        slot: the first one that was free on the node then, counted from 0.
        start: when it began.
        end: when it ended; where it still runs, the latest time that is known.
        resumed: whether it is not the trial's first.
        interrupted: whether the trial did not end with it.
        lost: the work that was lost at its end, as `WorkLost`; empty where nothing is stored.
    """

    number: int
    state: str
    node: str
    slot: int
    start: datetime
    end: datetime
    resumed: bool
    interrupted: bool
    lost: Row


def objective_of(overview: Row, trial: Row) -> str:
    """Return the objective that a trial trains with."""
    return str(trial["params"].get("loss.objective", overview["config"]["loss"]["objective"]))


def better(overview: Row, rows: Iterable[Row]) -> list[Row]:
    """Return the rows that have a value, the best first."""
    sign = -1.0 if overview["status"]["direction"] == "maximize" else 1.0
    return sorted(
        (row for row in rows if row["value"] is not None), key=lambda row: (sign * row["value"], row["number"])
    )


def complete(overview: Row) -> list[Row]:
    """Return the complete trials, the best first."""
    return better(overview, (row for row in overview["trials"] if row["state"] == "complete"))


def standings(overview: Row) -> list[Standing]:
    """Return one standing per objective, the best first; those without a complete trial last."""
    groups: dict[str, list[Row]] = {}
    for trial in overview["trials"]:
        if trial["state"] in FINISHED:
            groups.setdefault(objective_of(overview, trial), []).append(trial)
    given = min((sum(trial["step"] for trial in trials) for trials in groups.values()), default=0)
    found = [_standing(overview, name, trials, given) for name, trials in groups.items()]
    order = [id(row) for row in better(overview, (each.best for each in found if each.best))]
    return sorted(found, key=lambda each: order.index(id(each.best)) if each.best else len(order))


def _standing(overview: Row, name: str, trials: Sequence[Row], given: int) -> Standing:
    spent, affordable = 0, []
    for trial in trials:
        spent += trial["step"]
        if spent <= given and trial["state"] == "complete":
            affordable.append(trial)
    ranked = better(overview, (trial for trial in trials if trial["state"] == "complete"))
    best, within = ranked[0] if ranked else None, better(overview, affordable)
    rate = None
    if best is not None:
        rate = best["params"].get(RATE, overview["config"]["train"]["learning_rate"])
    edge = best is not None and at_edge(overview["space"].get(RATE), best["params"].get(RATE))
    return Standing(name, len(trials), spent, best, within[0]["value"] if within else None, rate, edge)


def at_edge(bounds: Row | None, value: Any) -> bool:
    """Return whether a value lies at an end of its range in the space, and beyond that end there are other values."""
    if bounds is None or "low" not in bounds or not isinstance(value, int | float):
        return False
    low, high = bounds["low"], bounds["high"]
    place = log(value / low) / log(high / low) if bounds["log"] else (value - low) / (high - low)
    end = "low" if place <= EDGE_SHARE else "high" if place >= 1 - EDGE_SHARE else None
    return end is not None and end in bounds.get("wider", ("low", "high"))


def edges(overview: Row) -> list[str]:
    """Return the searched fields whose value in the trial to use lies at an end of its range."""
    found = overview["recommended"]
    return [] if found is None else [p for p, v in found["params"].items() if at_edge(overview["space"].get(p), v)]


def front(overview: Row) -> tuple[list[str], list[Row]]:
    """Return the metrics of a study of several, and the trials that no other one beats in all of them; else nothing."""
    best = overview["best"] or {}
    return list(best.get("metrics_compared") or ()), list(best.get("front") or ())


def few_trials(importance: Row) -> str:
    """Return what has to be said where few trials speak of importance, else ""."""
    return (
        " Of so few trials it is a hint: the first one is often not the right one."
        if importance["trials"] < SURE
        else ""
    )


def references(overview: Row) -> list[tuple[str, float]]:
    """Return what to compare with, as (label, value): plain SFT, the paper's setting, the untrained model."""
    found = []
    plain = ("baseline:sft", "confirm:decide:sft")
    for origins, label in ((plain, "plain SFT"), (("baseline:paper",), "the paper's setting")):
        for trial in overview["trials"]:
            if trial["origin"] in origins and trial["state"] == "complete" and trial["value"] is not None:
                found.append((label, trial["value"]))
                break
    untrained = (overview["status"].get("untrained") or {}).get("value")
    return found if untrained is None else [*found, ("the untrained model", untrained)]


def failures(overview: Row) -> list[tuple[str, list[int]]]:
    """Return why trials failed: each first line of a reason with the numbers of the trials, the most frequent first."""
    found: dict[str, list[int]] = {}
    for trial in overview["trials"]:
        if trial["state"] == "failed":
            reason = (trial["reason"].strip() or "no reason is stored").splitlines()[0]
            found.setdefault(reason, []).append(trial["number"])
    return sorted(found.items(), key=lambda each: -len(each[1]))


def cost(overview: Row) -> Cost:
    """Return what the study took so far."""
    times = [(_time(s["started"]), _time(s["ended"])) for t in overview["trials"] for s in t["stretches"] if s["ended"]]
    hours = sum((end - start).total_seconds() for start, end in times) / 3600
    wall = (max(e for _, e in times) - min(s for s, _ in times)).total_seconds() / 3600 if times else 0.0
    resources = overview["config"]["resources"]
    workers = resources["workers"] if isinstance(resources["workers"], int) else max(resources["workers"])
    lost = [each for trial in overview["trials"] for each in trial["lost"]]
    pruned = [trial for trial in overview["trials"] if trial["state"] == "pruned"]
    return Cost(
        wall_hours=wall,
        trial_hours=hours,
        cpu_hours=hours * workers * resources["cpus_per_worker"],
        gpu_hours=hours * workers * resources["gpus_per_worker"],
        steps=sum(trial["step"] for trial in overview["trials"]),
        saved_steps=sum(max(0, _full_steps(overview, trial) - trial["step"]) for trial in pruned),
        lost_steps=sum(each["steps"] for each in lost),
        lost_hours=sum(each["wall_seconds"] for each in lost) / 3600,
    )


def _full_steps(overview: Row, trial: Row) -> int:
    """Return the steps of a whole trial with a trial's settings."""
    chosen = trial["params"].get("train.max_steps")
    return int(chosen * overview["config"]["study"].get("seeds", 1)) if chosen else int(overview["steps"])


def timeline(overview: Row) -> list[Stretch]:
    """Return when trials ran, in order of their start, each on the lowest slot of its node that was free then."""
    found = []
    for trial in overview["trials"]:
        for index, each in enumerate(trial["stretches"]):
            last = index == len(trial["stretches"]) - 1
            stopped = not last or trial["state"] == "waiting"
            end = _time(each["ended"]) if each["ended"] else None
            found.append((_time(each["started"]), end, trial, each, index > 0, stopped))
    latest = max((end or start for start, end, *_ in found), default=None)
    busy: dict[str, list[datetime]] = {}
    placed = []
    for start, end, trial, each, resumed, stopped in sorted(found, key=lambda each: each[0]):
        until = max(start, end or latest or start)
        node = each.get("node") or ""
        free = busy.setdefault(node, [])
        slot = next((index for index, at in enumerate(free) if at <= start), len(free))
        free[slot : slot + 1] = [until]
        lost = each.get("lost") or {}
        placed.append(Stretch(trial["number"], trial["state"], node, slot, start, until, resumed, stopped, lost))
    return placed


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
