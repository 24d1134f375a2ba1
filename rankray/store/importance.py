"""Which searched fields mattered for reaching the best trials: Optuna's PED-ANOVA over the finished trials.

PED-ANOVA (arXiv 2304.10255; with fields that exist only under others: arXiv 2601.20800) compares how a field's values
are distributed among the best tenth of the trials with how they are distributed among all. It looks at ranks only. So
pruned trials count too, as they must: the complete ones of a search that prunes are nearly all good, and among them the
field that decides most seems not to matter. They rank behind the complete ones, as for TPE: more steps first.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from rankray.store.records import steps_of
from rankray.store.trials import StudyStore

logger = logging.getLogger(__name__)

FEWEST = 16
"""Finished trials below which nothing is said: of fewer the best tenth is one trial."""
BEST_SHARE = 0.1
"""Which share of the trials counts as best."""
MOST = 2000
"""How many trials are looked at: of more, every second, third, ... in order of rank."""


def importance(study: StudyStore) -> dict[str, Any]:
    """Return how much each searched field mattered, the most important first.

    Returns:
        `{"values": {path: share}, "trials": n, "why": ""}`; the shares add up to 1. Without an answer `values` is empty
        and `why` says why.
    """
    sign = -1.0 if study.config.direction == "maximize" else 1.0
    finished = [each for each in study.trials() if each.state in _RANKED and each.value is not None]
    if len(finished) < FEWEST:
        return _none(len(finished), f"it takes {FEWEST} finished trials, and there are {len(finished)}")
    ranked = sorted(finished, key=lambda each: _rank(each, sign))
    every = -(-len(ranked) // MOST)
    picked = list(enumerate(ranked))[::every]
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the evaluator is experimental
            held = optuna.study.Study(study_name="ranks", storage=_in_memory())
            held.add_trials(
                create_trial(params=each.params, distributions=each.distributions, value=float(place))
                for place, each in picked
            )
            found = get_param_importances(held, evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE))
    except (ValueError, RuntimeError) as error:
        logger.debug("study %s: no importances: %s", study.name, error)
        return _none(len(picked), f"Optuna could not compute it: {error}")
    values = {str(path): float(share) for path, share in found.items()}
    if not sum(values.values()) > 0:
        return _none(len(picked), "these trials do not tell the searched fields apart")
    return {"values": values, "trials": len(picked), "why": ""}


_RANKED = (TrialState.COMPLETE, TrialState.PRUNED)


def _rank(trial: FrozenTrial, sign: float) -> tuple[bool, int, float, int]:
    value = sign * float(trial.value or 0.0)
    if trial.state == TrialState.COMPLETE:
        return False, 0, value, trial.number
    return True, -max(steps_of(trial), default=0), value, trial.number


def _in_memory() -> optuna.storages.InMemoryStorage:
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "ranks")
    return storage


def _none(trials: int, why: str) -> dict[str, Any]:
    return {"values": {}, "trials": trials, "why": why}
