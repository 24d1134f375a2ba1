"""A whole study at once, as plain dicts of JSON types: what `rankray report` shows.

`views` answers one question at a time; this reads every trial once, so that a study of ten thousand trials takes
seconds. Numbers that are not finite are None, as JSON has no others.
"""

from __future__ import annotations

import math
from typing import Any

from optuna.trial import FrozenTrial

from rankray.config.space import distributions
from rankray.store import views
from rankray.store.identity import snapshot
from rankray.store.importance import importance
from rankray.store.records import ATTEMPTS, LOST, PROVENANCE, steps_of
from rankray.store.trials import StudyStore

VERSIONS = "rankray:versions"
SCALE = ("train/scale_p05", "train/scale_p50", "train/scale_p95")
"""Quantiles of the relative scale S that a trial of objective `rri` reports."""


def overview(study: StudyStore) -> dict[str, Any]:
    """Return everything a report shows of a study.

    Returns:
        `status`, `best` and `objectives` as `views` has them; `trials`, one row each as `views.trials` has them, with
        `metrics` (final), `curve` ([step, value] of the study's metric), `scale` ([step, p05, p50, p95] of S), `lost`
        and `stretches` (who ran it and when); `space`, `importance`, `steps` of a whole trial, `config`, `provenance`,
        `versions` and `verdict` (of `rankray confirm`, or None).
    """
    rows = views.trials(study)
    by_number = {each.number: each for each in study.trials()}
    attributes = study.storage.get_study_user_attrs(study.study_id)
    metric = study.config.study.metric
    return {
        "status": views.status(study),
        "best": views.best(study),
        "objectives": views.objectives(study),
        "trials": [row | _more(study, by_number[row["number"]], metric) for row in rows],
        "space": {path: _bounds(dist) for path, dist in distributions(study.config).items()},
        "importance": importance(study),
        "steps": study.config.full_steps,
        "config": snapshot(study.config),
        "provenance": dict(attributes.get(PROVENANCE, {})),
        "versions": dict(attributes.get(VERSIONS, {})),
        "identity": study.identity,
        "verdict": None,
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
    metrics.update({name: _finite(value) for name, value in views.end_metrics(trial).items()})
    return {
        "metrics": metrics,
        "curve": curve,
        "scale": scale,
        "lost": list(trial.user_attrs.get(LOST, [])),
        "failures": [str(each.get("reason", "")) for each in trial.user_attrs.get(ATTEMPTS, [])],
        "stretches": [
            {"driver": driver, "started": start.isoformat(), "ended": None if end is None else end.isoformat()}
            for driver, start, end in study.stretches(trial)
        ],
    }


def _bounds(dist: Any) -> dict[str, Any]:
    if dist.kind == "choice":
        return {"choices": list(dist.choices)}
    return {"low": dist.low, "high": dist.high, "log": dist.log}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
