"""A whole study at once, as plain dicts of JSON types: what `rankray report` shows.

`views` answers one question at a time; this reads every trial once. Numbers that are not finite are None, as in JSON.
"""

from __future__ import annotations

import math
from typing import Any

from optuna.trial import FrozenTrial

from rankray.config.fields import limits
from rankray.config.space import distributions
from rankray.store import views
from rankray.store.confirmation import verdicts
from rankray.store.identity import snapshot
from rankray.store.importance import importance
from rankray.store.origin import origin
from rankray.store.records import PROVENANCE, StepRecord, end_of, failures_of, losses_of, nodes_of, steps_of
from rankray.store.stored import clean, figures, mapping, moment, number, reading, whole
from rankray.store.trials import StudyStore

VERSIONS = "rankray:versions"
MOST_BARS = 100
"""What has more bars is no histogram of ours."""
SCALE = ("train/scale_p05", "train/scale_p50", "train/scale_p95")
"""Quantiles of the relative scale S that a trial of objective `rri` reports."""


def overview(study: StudyStore) -> dict[str, Any]:
    """Return everything a report shows of a study.

    Returns:
        `status`, `best`, `alike`, `untried` and `objectives` as `views` has them; `trials`, a row each as `views` has
        them, with `metrics` (final), `curve` ([step, value] of the study's metric), `scale` ([step, p05, p50, p95] of
        S), `spread` (the latest histogram of S: `step`, `first`, `shares`; or None), `lost` and `stretches` (who ran
        it, when, on which node, and the work lost at its end); `space` (of a range also `wider`, the ends that its
        field allows to lie further out), `importance`, `steps` of a whole trial, `config`, `provenance`, `versions`,
        `origin` (`rankray.store.origin`), `verdicts` (`rankray.store.confirmation.verdicts`), `verdict`, the first of
        these or None, `confirmed` and `recommended` (`views`).
    """
    with reading(study.name):
        found: dict[str, Any] = clean(_overview(study))
        return found


def _overview(study: StudyStore) -> dict[str, Any]:
    rows = views.trials(study)
    by_number = {each.number: each for each in study.trials()}
    attributes = study.storage.get_study_user_attrs(study.study_id)
    metric, found = study.config.study.metric, verdicts(study)
    best, confirmed = views.best(study), views.confirmed(study)
    return {
        "status": views.status(study),
        "best": best,
        "alike": views.alike(study),
        "objectives": views.objectives(study),
        "untried": views.untried(study),
        "trials": [row | _more(study, by_number[row["number"]], metric) for row in rows],
        "space": {path: _bounds(dist) for path, dist in distributions(study.config).items()},
        "importance": importance(study),
        "steps": study.config.full_steps,
        "config": snapshot(study.config),
        "provenance": mapping(attributes.get(PROVENANCE)),
        "origin": origin(study),
        "versions": mapping(attributes.get(VERSIONS)),
        "identity": study.identity,
        "verdicts": found,
        "verdict": found[0] if found else None,
        "confirmed": confirmed,
        "recommended": views.to_use(best, confirmed),
    }


def _more(study: StudyStore, trial: FrozenTrial, metric: str) -> dict[str, Any]:
    steps = steps_of(trial)
    metrics: dict[str, float | None] = {}
    curve, scale = [], []
    for record in steps.values():
        metrics.update({name: _finite(value) for name, value in record.metrics.items()})
        if metric in record.metrics:
            curve.append([record.step, _finite(record.metrics[metric])])
        if all(name in record.metrics for name in SCALE):
            scale.append([record.step, *(_finite(record.metrics[name]) for name in SCALE)])
    metrics.update({name: _finite(value) for name, value in figures(end_of(trial).get("metrics")).items()})
    return {
        "metrics": metrics,
        "curve": curve,
        "scale": scale,
        "spread": _spread(list(steps.values())),
        "lost": losses_of(trial),
        "failures": [each["reason"] for each in failures_of(trial)],
        "stretches": _stretches(study, trial),
    }


def _spread(records: list[StepRecord]) -> dict[str, Any] | None:
    """Return the latest histogram of S, of what is stored only what is as it should be."""
    for record in reversed(records):
        first, shares = whole(record.spread.get("first")), record.spread.get("shares")
        if first is not None and isinstance(shares, list) and 0 < len(shares) <= MOST_BARS:
            return {"step": record.step, "first": first, "shares": [number(share) or 0.0 for share in shares]}
    return None


def _stretches(study: StudyStore, trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return who ran a trial, when and where, and the work that was lost when it left; None where it is not stored."""
    nodes = [(at, each) for each in nodes_of(trial) if (at := moment(each["at"]))]
    losses = [(at, each) for each in losses_of(trial) if (at := moment(each["at"]))]
    found = []
    stretches = study.stretches(trial)
    for index, (driver, start, end) in enumerate(stretches):
        since, until = start.isoformat(), None if end is None else end.isoformat()
        # what a killed driver lost is noted by the next one, when it takes over
        before = stretches[index + 1][1] if index + 1 < len(stretches) else end
        there = [each["node"] for at, each in nodes if start <= at and (before is None or at <= before)]
        lost = [each for at, each in losses if start <= at and (before is None or at <= before)]
        found.append(
            {
                "driver": driver,
                "started": since,
                "ended": until,
                "node": there[-1] if there else None,
                "lost": lost[-1] if lost else None,
            }
        )
    return found


def _bounds(dist: Any) -> dict[str, Any]:
    if dist.kind == "choice":
        return {"choices": list(dist.choices)}
    least, most = limits(dist.path)
    wider = [end for end, limit in (("low", least), ("high", most)) if limit is None or getattr(dist, end) != limit]
    return {"low": dist.low, "high": dist.high, "log": dist.log, "wider": wider}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
