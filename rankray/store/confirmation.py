"""What a confirmation keeps in the store: its plan, its choice, its runs, its verdict.

A confirmation of the study NAME is a study of its own, `NAME.confirm`, with its own trials: the search's counts, best
trial and budget do not see them. Two decisions are claims of that study (`claims`), so that the first one counts and
every driver and every later start agrees: `confirm:plan`, what is compared; `confirm:choice`, which finalist and which
baseline the choosing runs have picked. The verdict is an attribute of the *search's* study, where a report finds it:
`rankray:verdict:NAME.confirm`, one of each confirmation, and `rankray:verdict`, the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.store.backend import connect
from rankray.store.claims import SUFFIX, Claims, find_or_create
from rankray.store.records import ORIGIN, TRIALS, end_of, is_void, steps_of
from rankray.store.stored import mapping, mappings, number, pair, text, whole
from rankray.store.strategies import direction
from rankray.store.trials import StudyStore

logger = logging.getLogger(__name__)

VERDICT = "rankray:verdict"
PLAN, CHOICE = "confirm:plan", "confirm:choice"
CONFIRMS = "confirms"
"""The key in the provenance of a confirmation's study: the name of the search."""


@dataclass(frozen=True)
class Run:
    """One training run of a confirmation.

    Attributes:
        number: its trial's number in the confirmation's study.
        origin: which comparison it belongs to.
        state: `complete`, `failed` or `open`.
        value: the study's metric at its end, for a complete one.
        stderr: the metric's standard error over examples, where one was reported.
        seed: its `train.seed`.
    """

    number: int
    origin: str
    state: str
    value: float | None
    stderr: float | None
    seed: int


def runs_of(trials: Sequence[FrozenTrial], metric: str) -> list[Run]:
    """Return the runs of a confirmation's study, in order of number, void trials left out."""
    return [_run(trial, metric) for trial in trials if not is_void(trial)]


def stored_verdict(study: StudyStore) -> dict[str, Any] | None:
    """Return the verdict of the last confirmation of a study, as `rankray confirm NAME --json` prints it, or None."""
    found = study.storage.get_study_user_attrs(study.study_id).get(VERDICT)
    return None if found is None else dict(found)


def record_verdict(search: StudyStore, confirmation: StudyStore, verdict: dict[str, Any]) -> None:
    """Write a verdict to the search's study, as the last one; one that is there already is not written again.

    So reading an earlier confirmation again does not make it the last one. The confirmation's study then has all the
    trials it is to have, also where an early look ended it.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    finished = confirmation.finished
    if confirmation.storage.get_study_user_attrs(confirmation.study_id).get(TRIALS) != finished:
        confirmation.storage.set_study_user_attr(confirmation.study_id, TRIALS, finished)
    own = f"{VERDICT}:{confirmation.name}"
    there = search.storage.get_study_user_attrs(search.study_id)
    if there.get(own) != verdict or VERDICT not in there:
        for key in (VERDICT, own):  # its own is the last, so that after a kill in between both are written again
            search.storage.set_study_user_attr(search.study_id, key, verdict)


def verdicts(study: StudyStore) -> list[dict[str, Any]]:
    """Return what the confirmations of a study found, the one that counts first; what is malformed is left out.

    Those on the study's own metric come before those on another of its metrics, the last confirmation before earlier
    ones. Each has the keys `confirmation`, `metric`, `seeds`, `finalists` (the chosen setting first), `baseline`,
    `search_finished` (how many trials of the search had finished when it began) and `verdict` of
    `rankray confirm NAME --json`.
    """
    there = study.storage.get_study_user_attrs(study.study_id)
    last = _shown(there.get(VERDICT))
    found = [_shown(there[key]) for key in sorted(there) if key.startswith(f"{VERDICT}:")]
    kept = [each for each in found if each and (last is None or each["confirmation"] != last["confirmation"])]
    own = study.config.study.metric
    return sorted([*([last] if last else []), *kept], key=lambda each: each["metric"] not in (own, ""))


def _shown(stored: Any) -> dict[str, Any] | None:
    found = mapping(stored)
    verdict = mapping(found.get("verdict"))
    if not text(verdict.get("word")):
        return None
    said = {key: text(verdict.get(key)) for key in ("word", "text")}
    return {
        "confirmation": text(found.get("confirmation")),
        "metric": text(found.get("metric")),
        "seeds": number(found.get("seeds")),
        "finalists": [_side(each) for each in mappings(found.get("finalists"))],
        "baseline": _side(mapping(found.get("baseline"))),
        "search_finished": whole(found.get("search_finished")),
        "verdict": {**said, "difference": number(verdict.get("difference")), "interval": pair(verdict.get("interval"))},
    }


def _side(stored: dict[str, Any]) -> dict[str, Any]:
    params = {path: value for path, value in mapping(stored.get("params")).items() if _is_plain(value)}
    at = stored.get("number")
    return {
        "number": at if isinstance(at, int) and not isinstance(at, bool) else None,
        "params": params,
        "mean": number(stored.get("mean")),
        "interval": pair(stored.get("interval")),
    }


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float, bool))


def _run(trial: FrozenTrial, metric: str) -> Run:
    state = {TrialState.COMPLETE: "complete", TrialState.FAIL: "failed", TrialState.PRUNED: "failed"}
    metrics: dict[str, float] = {}
    for record in steps_of(trial).values():
        metrics.update(record.metrics)
    metrics.update(end_of(trial).get("metrics", {}))
    return Run(
        number=trial.number,
        origin=str(trial.user_attrs.get(ORIGIN, "")),
        state=state.get(trial.state, "open"),
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        stderr=metrics.get(f"{metric}_stderr"),
        seed=int(trial.params.get("train.seed", -1)),
    )


def decisions(url: str, config: Config, *, create: bool = True) -> Claims | None:
    """Return the claims of a confirmation's study: what is decided there is decided for good.

    Args:
        url: where the store is.
        config: the configuration of the confirmation's study.
        create: make them if need be; otherwise None where there are none.

    Raises:
        StoreError: the URL is wrong.
        StoreUnavailable: the store does not answer.
    """
    storage = connect(url, create=False)
    if not create and not _is_there(storage, config.name + SUFFIX):
        return None
    claims = Claims(storage, find_or_create(storage, config.name + SUFFIX, direction(config)))
    claims.refresh()
    return claims


def _is_there(storage: BaseStorage, name: str) -> bool:
    try:
        storage.get_study_id_from_name(name)
    except KeyError:
        logger.debug("study %s: not in this store", name)
        return False
    return True
