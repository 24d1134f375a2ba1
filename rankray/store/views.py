"""What the command line shows of a study: plain dicts of JSON types, with finite numbers only."""

from __future__ import annotations

import functools
import math
import operator
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.trial import FrozenTrial, TrialState

from rankray.checkpoints.places import is_remote
from rankray.config.params import get_path, is_plain_sft
from rankray.errors import StoreError
from rankray.store.confirmation import CONFIRMS, verdicts
from rankray.store.leases import number_in
from rankray.store.pareto import front, metrics_of
from rankray.store.records import damaged_of, end_of, failures_of, losses_of, origin_of, steps_of, ticket_of
from rankray.store.stored import clean, reading
from rankray.store.stored import number as as_number
from rankray.store.trials import StudyStore

P = ParamSpec("P")
T = TypeVar("T")


def _shown(view: Callable[Concatenate[StudyStore, P], T]) -> Callable[Concatenate[StudyStore, P], T]:
    """Make a view survive what is malformed in a store, and give it texts that can be printed."""

    def show(study: StudyStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with reading(study.name):
            found: T = clean(view(study, *args, **kwargs))
            return found

    functools.update_wrapper(show, view)
    return show


@_shown
def status(study: StudyStore) -> dict[str, Any]:
    """Return how far a study has come.

    `state` is `complete` when the budget or a finite space is used up, `running` while a driver is not known to be
    dead, else `interrupted`. `metrics` are those of a study of several, else []. `best` is the best complete trial, or
    None. `ended` says which limit has ended the search and why, or is None; `spent` what all its drivers have spent. A
    driver's `renewed_seconds_ago` compares two clocks: it is for people, and decides nothing.
    """
    counts = study.counts()
    drivers = study.drivers()
    ended = study.ended
    state = "complete" if ended is not None else "running" if drivers else "interrupted"
    top = best(study)
    return {
        "study": study.name,
        "state": state,
        "trials": {
            "complete": counts.complete,
            "pruned": counts.pruned,
            "failed": counts.failed,
            "running": counts.running,
            "waiting": counts.waiting,
        },
        "budget": {"trials": study.budget, "finished": counts.finished, **_limits(study)},
        "spent": study.spent.to_json(),
        "ended": None if ended is None else ended.to_json(),
        "best": None if top is None else {key: top[key] for key in ("number", "value", "params")},
        "metric": study.config.study.metric,
        "metrics": list(study.config.study.metrics),
        "direction": study.config.direction,
        "directions": {name: study.config.direction_of(name) for name in study.config.study.metrics},
        "untrained": untrained(study),
        "store": study.url,
        "drivers": [
            {"driver": driver, "host": record.get("host"), "pid": record.get("pid")}
            | {"renewed_seconds_ago": round(max(0.0, time.time() - number_in(record, "at")))}
            for driver, record in drivers.items()
        ],
        "first_failure": _first_failure(study),
    }


def _limits(study: StudyStore) -> dict[str, Any]:
    """Return the limits that are set beside the number of trials."""
    limits = study.config.study.budget.model_dump(exclude={"price"})
    return {name: limit for name, limit in limits.items() if limit is not None}


def untrained(study: StudyStore) -> dict[str, Any] | None:
    """Return what the untrained model reaches, `{"value", "metrics"}`; None before that is known."""
    metrics = _plain(study.untrained)
    return {"value": metrics.get(study.config.study.metric), "metrics": metrics} if metrics else None


@_shown
def trial(study: StudyStore, number: int) -> dict[str, Any]:
    """Return everything about one trial.

    Raises:
        StoreError: there is no such trial.
    """
    try:
        number = operator.index(number)  # a number of numpy or pandas as well
    except TypeError:
        raise StoreError(f"trial: got {number!r}; allowed: a trial's number, an integer; correct it") from None
    found = study.find(number)
    study.look()
    if found is None:
        known = [each.number for each in study.trials()]
        there = f"{known[0]} to {known[-1]}" if known else "none yet"
        raise StoreError(f"study {study.name}: there is no trial {number}; its trials: {there}; give one of these")
    ticket = ticket_of(found, adopted=False)
    end = end_of(found)
    steps = steps_of(found)
    before = untrained(study)
    return {
        **_row(study, found, before),
        "untrained": before,
        "metrics": _plain(metrics_of(found)),
        "steps": [
            {
                "step": record.step,
                "metrics": _plain(record.metrics),
                "checkpoint": record.checkpoint,
                "stop": record.stop,
                "reason": record.reason,
            }
            for record in steps.values()
        ],
        "traceback": end.get("traceback", ""),
        "checkpoint": ticket.checkpoint,
        "checkpoint_exists": _exists(ticket.checkpoint),
        "owner": study.owner(found) if not found.state.is_finished() else "",
        "failures": failures_of(found),
        "work_lost": losses_of(found),
        "damaged": damaged_of(found),
    }


@_shown
def trials(study: StudyStore, most: int | None = None) -> list[dict[str, Any]]:
    """Return one short row per trial, in order of number; of at most so many, those that matter most.

    Those are the trials that have not ended, then the best complete ones, pruned ones and failed ones.
    """
    study.counts()
    before = untrained(study)
    if most is None:
        return [_row(study, each, before) for each in study.trials()]
    found = _ranked(study)[:most] if study.glance is None else study.glance.ranked(most)
    return [_row(study, each, before) for each in found]


@_shown
def best(study: StudyStore) -> dict[str, Any] | None:
    """Return the best complete trial, or None. Trials that were stopped early do not count.

    In a study of several metrics `front` has every trial that no other one beats in all of them, and the best is that
    one of them that is best in the first metric.
    """
    before = untrained(study)
    if study.config.study.metrics:
        rows = [_result(study, each, before) for each in front(study.trials(), study.config)]
        return {**rows[0], "metrics_compared": list(study.config.study.metrics), "front": rows} if rows else None
    candidates = study.trials() if study.glance is None else study.glance.best()
    top = _best(study, (each for each in candidates if each.state == TrialState.COMPLETE))
    return None if top is None else _result(study, top, before)


@_shown
def alike(study: StudyStore) -> dict[str, Any] | None:
    """Return `trials` and `value` where all complete trials, one at least, have the same value; else None."""
    if study.glance is None:
        values = {_value(study, each) for each in study.trials() if each.state == TrialState.COMPLETE}
        same = len(values) == 1 and None not in values
        return {"trials": study.counts().complete, "value": values.pop()} if same else None
    return study.glance.alike()


@_shown
def untried(study: StudyStore) -> dict[str, list[Any]]:
    """Return the choices of the space that no trial has had, by path; a few trials cannot have them all.

    A confirmation trains what a search has chosen, and is not asked to try more. Where a finite space has been used up,
    the configuration allows no other point.
    """
    found = study.config.search_space.distributions
    choices = {path: dist.choices for path, dist in found.items() if dist.kind == "choice"}
    if not choices or study.provenance.get(CONFIRMS) or study.exhausted:
        return {}
    if study.glance is None:
        tried = {(path, repr(each.params[path])) for each in study.trials() for path in choices if path in each.params}
    else:
        tried = {(path, repr(value)) for path, value in study.glance.tried(choices)}
    left = {path: [value for value in values if (path, repr(value)) not in tried] for path, values in choices.items()}
    return {path: values for path, values in left.items() if values}


@_shown
def confirmed(study: StudyStore) -> dict[str, Any] | None:
    """Return the trial whose setting `rankray confirm` chose, as `best` returns one, with `verdicts`; None without one.

    Of several confirmations it is the one that counts first (`verdicts`). It need not be the best trial: that one has
    the best figure of the search, and this one was best on new seeds.
    """
    found = verdicts(study)
    number = found[0]["finalists"][0]["number"] if found and found[0]["finalists"] else None
    chosen = None if number is None else study.find(number)
    return None if chosen is None else {**_result(study, chosen, untrained(study)), "verdicts": found}


def recommended(study: StudyStore) -> dict[str, Any] | None:
    """Return the trial to use: the one that `rankray confirm` found better than plain SFT, else the best one, or None.

    The first has `verdicts`, as `confirmed` returns it.
    """
    return to_use(best(study), confirmed(study))


def to_use(best: dict[str, Any] | None, confirmed: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return which of the best and the confirmed trial is to be used, as `recommended` does."""
    return confirmed if confirmed and confirmed["verdicts"][0]["verdict"]["word"] == "better" else best


@_shown
def objectives(study: StudyStore) -> list[dict[str, Any]]:
    """Return the best trial of each `loss.objective`, then the baselines if there are any.

    `what` is the objective, or `baseline:sft` and `baseline:paper`. Complete trials come before pruned ones. Where an
    objective has only pruned ones, the best of those is returned, with the value and the step it was stopped at. A
    baseline is returned however it ended, with its last value and its state; of several tries, the last one.
    """
    found = study.trials() if study.glance is None else study.glance.leaders()
    before = untrained(study)
    best_of: dict[str, FrozenTrial] = {}
    for state in (TrialState.PRUNED, TrialState.COMPLETE):
        by_objective: dict[str, list[FrozenTrial]] = {}
        for each in found:
            if each.state == state and each.value is not None:
                by_objective.setdefault(_objective(study, each), []).append(each)
        for objective, candidates in by_objective.items():
            top = _best(study, candidates)
            assert top is not None
            best_of[objective] = top
    rows = [{"what": objective, **_result(study, top, before)} for objective, top in sorted(best_of.items())]
    for origin in ("baseline:sft", "baseline:paper"):
        tries = [each for each in found if origin_of(each) == origin]
        rows += [{"what": origin, **_result(study, each, before)} for each in tries[-1:]]
    return rows


def last_metrics(study: StudyStore) -> dict[int, dict[str, float | None]]:
    """Return the metrics of each trial's last report, by its number."""
    return {each.number: _plain(metrics_of(each)) for each in study.trials()}


def retention(study: StudyStore) -> tuple[set[int], set[int]]:
    """Return the numbers of all ended trials, and of those among them that keep their checkpoints.

    Those are the `study.keep_best` best complete ones, and in a study of several metrics those that no other one beats.
    A trial that is no longer among them never will be again, unless the number is raised. So to delete the checkpoints
    of all others is safe at any moment.
    """
    ended = [each for each in study.trials() if each.state.is_finished()]
    complete = (each for each in ended if each.state == TrialState.COMPLETE)
    ranked = sorted(complete, key=lambda each: _rank(study, each))
    kept = [
        *ranked[: study.config.study.keep_best],
        *(front(ended, study.config) if study.config.study.metrics else []),
    ]
    return {each.number for each in ended}, {each.number for each in kept}


def _row(study: StudyStore, found: FrozenTrial, before: dict[str, Any] | None) -> dict[str, Any]:
    value, last = _value(study, found), _plain(metrics_of(found)) if study.config.study.metrics else {}
    return {
        "number": found.number,
        "state": study.state(found),
        "value": value,
        "worse_than_untrained": _is_worse(study, value, before),
        "metrics": {name: last[name] for name in study.config.study.metrics if name in last},
        "step": max(steps_of(found), default=0),
        "params": dict(found.params),
        "origin": origin_of(found),
        "reason": _reason(found),
        "attempts": len(failures_of(found)) + 1,
        "started": _time(found.datetime_start),
        "ended": _time(found.datetime_complete),
    }


def _result(study: StudyStore, found: FrozenTrial, before: dict[str, Any] | None) -> dict[str, Any]:
    checkpoint = ticket_of(found, adopted=False).checkpoint
    value = _value(study, found)
    return {
        "number": found.number,
        "value": value,
        "worse_than_untrained": _is_worse(study, value, before),
        "params": dict(found.params),
        "metrics": _plain(metrics_of(found)),
        "checkpoint": checkpoint,
        "checkpoint_exists": _exists(checkpoint),
        "objective": _objective(study, found),
        "plain_sft": is_plain_sft(study.config, found.params),
        "origin": origin_of(found),
        "state": study.state(found),
        "step": max(steps_of(found), default=0),
    }


def _is_worse(study: StudyStore, value: float | None, before: dict[str, Any] | None) -> bool | None:
    """Whether a value is worse than the untrained model's; None where that is unknown or each trial has its own."""
    if value is None or before is None or before["value"] is None:
        return None
    if any(path.startswith(("model.", "data.")) for path in study.config.space):
        return None
    return bool(value < before["value"] if study.config.direction == "maximize" else value > before["value"])


def _ranked(study: StudyStore) -> list[FrozenTrial]:
    """Return all trials: those that have not ended, then complete, pruned and failed ones, the best of each first."""
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)

    def key(each: FrozenTrial) -> tuple[Any, ...]:
        if not each.state.is_finished():
            return -1, each.number
        valued = each.state != TrialState.FAIL and each.value is not None
        return order.index(each.state), *(_rank(study, each) if valued else (math.inf, each.number))

    return sorted(study.trials(), key=key)


def _best(study: StudyStore, candidates: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the best of the trials whose value is a finite number; the earlier of two that are equal."""
    values = ((each, as_number(each.value)) for each in candidates)
    known = [each for each, value in values if value is not None and math.isfinite(value)]
    return min(known, key=lambda each: _rank(study, each), default=None)


def _rank(study: StudyStore, found: FrozenTrial) -> tuple[float, int]:
    """Return the sort key of trials that have a value, the best first."""
    sign = -1.0 if study.config.direction == "maximize" else 1.0
    return sign * float(found.value or 0.0), found.number


def _exists(checkpoint: str | None) -> bool | None:
    """Return whether a checkpoint exists, as seen from this machine; None where there never was one.

    None also for one in an object store, which is not asked: it may be slow, and this machine may have no credentials.
    """
    return None if checkpoint is None or is_remote(checkpoint) else os.path.isdir(checkpoint)


def _objective(study: StudyStore, found: FrozenTrial) -> str:
    return str(found.params.get("loss.objective", get_path(study.config, "loss.objective")))


def _value(study: StudyStore, found: FrozenTrial) -> float | None:
    """Return a trial's value: its final one once it has one, else the last one it reported."""
    if (final := as_number(found.value)) is not None:
        return final
    last = [record.metrics.get(study.config.study.metric) for record in steps_of(found).values()]
    values = [value for value in last if value is not None and math.isfinite(value)]
    return values[-1] if values else None


def _reason(found: FrozenTrial) -> str:
    stops = [record.reason for record in steps_of(found).values() if record.stop]
    return str(end_of(found).get("reason") or (stops[-1] if stops else ""))


def _first_failure(study: StudyStore) -> dict[str, Any] | None:
    for each in study.trials() if study.glance is None else study.glance.first_failed():
        if each.state == TrialState.FAIL:
            traceback = end_of(each).get("traceback", "")
            return {"number": each.number, "reason": _reason(each), "traceback": traceback}
    return None


def _plain(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
