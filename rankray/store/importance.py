"""Which searched fields matter: how much of the differences between settings each one explains by itself.

The Gaussian process that `auto` proposes by (`gp`) is fitted to the finished trials' ranks, and its mean is looked at
in settings that are spread evenly over the whole space. A field's importance is the variance of that mean over all
other fields, as in functional ANOVA (Hutter, Hoos, Leyton-Brown 2014); a field that exists only under others counts as
often as it exists. What is worse than the median counts as the median: how bad a bad learning rate is matters little.

The trials themselves would not do. A search tries most where it is good, so among its trials the field that decided has
hardly any variance left, and what distinguishes the best of them is mostly chance: the shares of Optuna's PED-ANOVA,
which compares the best tenth with all, are farther from the true ones (`benchmarks/importance.py`).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from rankray.store import gp
from rankray.store.encoding import Array, Encoding
from rankray.store.records import steps_of
from rankray.store.trials import StudyStore

logger = logging.getLogger(__name__)

FEWEST = 16
"""Finished trials below which nothing is said."""
MOST = 300
"""How many trials are looked at: of more the best half of these, and others evenly over time."""
SETTINGS = 3000
"""How many settings of the space the process is asked about."""
BINS = 10
"""Into how many parts the range of a number is divided."""
SEED = 0


def importance(study: StudyStore) -> dict[str, Any]:
    """Return how much each searched field matters, the most important first.

    Returns:
        `{"values": {path: share}, "trials": n, "why": ""}`; the shares add up to 1. Without an answer `values` is empty
        and `why` says why. The same trials give the same answer.
    """
    sign = -1.0 if study.config.direction == "maximize" else 1.0
    finished = [each for each in study.trials() if each.state in _RANKED and each.value is not None]
    if len(finished) < FEWEST:
        return _none(len(finished), f"it takes {FEWEST} finished trials, and there are {len(finished)}")
    scores = merit_scores([_merit(each, sign) for each in finished])
    picked = gp.selected(scores, MOST)
    encoding = Encoding(study.config)
    try:
        with gp.one_thread():
            places = np.stack([encoding.place(finished[at].params) for at in picked])
            shares = explained(encoding, places, scores[picked])
    except (ValueError, KeyError, IndexError) as error:
        logger.debug("study %s: no importances: %s", study.name, error)
        return _none(len(picked), f"the trials do not fit the space: {error}")
    total = sum(shares.values())
    if not total > 0:
        return _none(len(picked), "these trials do not tell the searched fields apart")
    ordered = sorted(shares.items(), key=lambda each: -each[1])
    return {"values": {path: share / total for path, share in ordered}, "trials": len(picked), "why": ""}


def merit_scores(merits: list[Any]) -> Array:
    """Return the normal score of each one's rank, the best largest, in standard deviations; equal ones share theirs."""
    order = {merit: place for place, merit in enumerate(sorted(set(merits)))}
    _, each, there = gp.normal_scores(np.array([-order[merit] for merit in merits], dtype=float))
    scores = each[there]
    return np.asarray((scores - scores.mean()) / (scores.std() or 1.0))


def explained(encoding: Encoding, places: Array, scores: Array) -> dict[str, float]:
    """Return the variance that each field explains by itself, of a Gaussian process through some scores.

    Args:
        encoding: the space.
        places: rows of the settings; (settings, fields).
        scores: what they are worth, larger is better; (settings,).
    """
    draws = np.random.default_rng(SEED)
    scales, noise = gp.drawn_scales(encoding.fields, draws)
    on = gp.selected(scores, gp.SELECTED_ON)
    kept = gp.best_scales(encoding.distances(places[on], places[on]), scores[on], scales, noise)
    posterior = gp.Posterior(encoding.distances(places, places), scores, scales[kept], noise[kept])
    rows = encoding.draw(SETTINGS, draws)
    means = posterior.at(encoding.distances(places, rows))[0].mean(axis=0)
    return main_effects(encoding, rows, means)


def main_effects(encoding: Encoding, rows: Array, values: Array) -> dict[str, float]:
    """Return the variance of values over each field alone, where it exists, times how often it does.

    What is below the median counts as the median. The variance that bins of this size have by chance is taken off.
    """
    values = np.maximum(values, np.median(values))
    found = {}
    for field, column in zip(encoding.fields, rows.T, strict=True):
        there = ~np.isnan(column)
        inside, count = values[there], len(field.choices) if field.kind == "choice" else BINS
        bins = np.minimum((column[there] * count).astype(int), count - 1)
        means = [(float((bins == each).mean()), float(inside[bins == each].mean())) for each in np.unique(bins)]
        spread = sum(share * (mean - inside.mean()) ** 2 for share, mean in means)
        by_chance = inside.var() * (len(means) - 1) / max(1, len(inside))
        found[field.path] = max(0.0, float(spread - by_chance)) * float(there.mean()) if len(inside) else 0.0
    return found


_RANKED = (TrialState.COMPLETE, TrialState.PRUNED)


def _merit(trial: FrozenTrial, sign: float) -> tuple[bool, int, float]:
    """Return what a trial is ranked by, the best first: pruned ones behind complete ones, more steps first."""
    value = sign * float(trial.value or 0.0)
    if trial.state == TrialState.COMPLETE:
        return False, 0, value
    return True, -max(steps_of(trial), default=0), value


def _none(trials: int, why: str) -> dict[str, Any]:
    return {"values": {}, "trials": trials, "why": why}
