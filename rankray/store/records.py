"""What is written into a trial, and how it is read back.

Attributes of a trial, all under one prefix. A key keeps its meaning in all versions; see `migrate`.

    rankray:driver       the driver that created it (written with the trial itself); claims say who owns it since
    rankray:origin       why it was made (with the trial itself): `sampler`, `baseline:sft`, `baseline:paper`, `known`,
                         `known:rates`, `warm_start`, `warm_start:<earlier study>`; `confirm:...` in a confirmation
    rankray:created      when (with the trial itself): Optuna's own start is that of the last resumption. Times are
                         local, with their distance from UTC, which those of earlier versions lack
    rankray:point        identity of the given point it tries (with the trial itself)
    rankray:ready        its parameters and its place are final: an orphan with it is adopted, one without is discarded
    rankray:step:<n>     what was reported at step n and the verdict on it: the commit point of a report. An owner of
                         fence f above 0 writes `rankray:step:<n>:<f>`; of several the highest fence counts
    rankray:attempts     the failures after which it was tried again: reason and traceback of each
    rankray:lost         the work that was lost with its processes, the latest times: reason, steps, wall_seconds,
                         preempted, at
    rankray:nodes        where its processes ran, the latest ones: node, at (when it first reported from there)
    rankray:damaged      committed checkpoints that cannot be resumed from: checkpoint and reason of each
    rankray:ran          of a copied trial: who ran it before the copy, and when: driver, from and to of each
    rankray:end          how it ended, when no step record says so: the commit point of `complete` and `fail`
    rankray:void         `surplus` or `abandoned`: never a trial of the study, counted nowhere
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rankray.store.stored import figures, mapping, mappings, number, text, whole

logger = logging.getLogger(__name__)

PREFIX = "rankray:"
DRIVER = "rankray:driver"
ORIGIN = "rankray:origin"
CREATED = "rankray:created"
POINT = "rankray:point"
READY = "rankray:ready"
STEP = "rankray:step:"
ATTEMPTS = "rankray:attempts"
LOST = "rankray:lost"
NODES = "rankray:nodes"
DAMAGED = "rankray:damaged"
RAN = "rankray:ran"
END = "rankray:end"
VOID = "rankray:void"
TRIALS = "rankray:trials"
"""How many finished trials a study is to have (`TrialOwnership.note_budget`)."""
PROVENANCE = "rankray:provenance"
UNTRAINED = "rankray:untrained"
"""Attribute of a study: the metrics of the untrained model, evaluated by one of its trials at step 0."""
BASELINE = "baseline:"
"""How the origin of a baseline starts."""
LONGEST_TEXT = 12_000
"""Characters of a traceback that are kept, as JSON: a column of MySQL holds 65,535 bytes, all attempts together."""
KEPT_LOSSES = 100
"""How many of the times that work was lost are kept per trial."""


@dataclass(frozen=True)
class Ticket:
    """A trial to run: its driver owns it until it is ended, released or lost.

    Attributes:
        number: the trial's number in its study.
        params: dotted path to value, each parameter after those that its `when` names.
        checkpoint: the last committed checkpoint to resume from, or None to start from the beginning.
        earlier: the committed checkpoints before it, the latest first.
        history: metrics of every committed step, in step order, each with its `step`; as `TrialSpec.history`.
        adopted: whether it was started before, by another driver or by this one.
        origin: why it was made, as in `rankray:origin`.
        untrained: whether the trial is to evaluate the untrained model too, because no other has done so.
    """

    number: int
    params: dict[str, Any]
    checkpoint: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    adopted: bool = False
    origin: str = "sampler"
    untrained: bool = False
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True)
class Counts:
    """Trials of a study by state; surplus and abandoned ones are in none of them.

    Attributes:
        complete: trained to the end.
        pruned: stopped by the pruner.
        failed: ended by an error or a metric that is not a finite number.
        running: owned by a driver that is not known to be dead.
        waiting: started, but owned by nobody: to be adopted.
    """

    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    waiting: int = 0

    @property
    def finished(self) -> int:
        """Trials that count against the budget: complete and pruned."""
        return self.complete + self.pruned


@dataclass(frozen=True)
class StepRecord:
    """One report and the verdict on it.

    Attributes:
        step: the step reported.
        metrics: the metrics reported.
        checkpoint: a checkpoint that holds this step, if one was reported.
        stop: the verdict.
        reason: why it is to stop; empty otherwise.
        failed: whether the stop is a failure (a metric that is not a finite number) rather than pruning.
        marks: what the pruner wants to remember of this step, as Optuna system attributes; see `with_marks`.
        spread: a histogram of S, as `contracts.Report` has it; empty where there is none.
    """

    step: int
    metrics: dict[str, float]
    checkpoint: str | None = None
    stop: bool = False
    reason: str = ""
    failed: bool = False
    marks: dict[str, Any] = field(default_factory=dict)
    spread: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what is stored; `failed`, `marks` and `spread` only where they are set."""
        record = {"metrics": self.metrics, "checkpoint": self.checkpoint, "stop": self.stop, "reason": self.reason}
        optional = {"failed": self.failed, "marks": self.marks, "spread": self.spread}
        return record | {key: value for key, value in optional.items() if value}

    @classmethod
    def from_json(cls, step: int, stored: Mapping[str, Any]) -> StepRecord:
        """Return the record of what is stored, without what is malformed or from a newer version."""
        return cls(
            step=step,
            metrics=figures(stored.get("metrics")),
            checkpoint=text(stored.get("checkpoint")) or None,
            stop=stored.get("stop") is True,
            reason=text(stored.get("reason")) or ("no reason is stored" if stored.get("stop") is True else ""),
            failed=stored.get("failed") is True,
            marks=mapping(stored.get("marks")),
            spread=mapping(stored.get("spread")),
        )


def step_key(step: int, fence: int) -> str:
    """Return the attribute in which an owner commits a step: its own one, which overwrites no other owner's."""
    return f"{STEP}{step}" + (f":{fence}" if fence else "")


def _committed(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """Return what is stored of a trial's steps, in any order; of each step, what its last owner stored."""
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    for key, value in trial.user_attrs.items():
        if key.startswith(STEP):
            step_text, _, fence_text = key.removeprefix(STEP).partition(":")
            step, fence = whole(step_text), whole(fence_text or 0)
            if step is None or fence is None or not isinstance(value, dict):
                logger.debug("trial %d: %s is malformed, and is left out", trial.number, key)
                continue
            found[step] = max(found.get(step, (-1, {})), (fence, value), key=lambda each: each[0])
    return {step: value for step, (_, value) in found.items()}


def steps_of(trial: FrozenTrial) -> dict[int, StepRecord]:
    """Return a trial's committed steps, in step order."""
    found = _committed(trial)
    return {step: StepRecord.from_json(step, found[step]) for step in sorted(found)}


def has_steps(trial: FrozenTrial) -> bool:
    """Return whether a step of a trial was reported, without reading the record."""
    return any(key.startswith(STEP) for key in trial.user_attrs)


def end_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return how a trial ended where no step record says so: its `state`, maybe `value`, `metrics` and `reason`."""
    end = mapping(trial.user_attrs.get(END))
    if not end:
        return {}
    kept = {key: text(end[key]) for key in ("state", "reason", "traceback") if key in end}
    return kept | {"metrics": figures(end.get("metrics")), "value": number(end.get("value"))}


def failures_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return the failures after which a trial was tried again: `reason` and `traceback` of each."""
    stored = mappings(trial.user_attrs.get(ATTEMPTS))
    return [{key: text(each.get(key)) for key in ("reason", "traceback")} for each in stored]


def losses_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return the work that was lost with a trial's processes, each time as `WorkLost`, and `at`: when, or empty."""
    return [
        {
            "reason": text(each.get("reason")),
            "steps": whole(each.get("steps")) or 0,
            "wall_seconds": number(each.get("wall_seconds")) or 0.0,
            "preempted": each.get("preempted") is True,
            "at": text(each.get("at")),
        }
        for each in mappings(trial.user_attrs.get(LOST))
    ]


def nodes_of(trial: FrozenTrial) -> list[dict[str, str]]:
    """Return where a trial's processes ran: `node`, and `at`, when it first reported from there, of each."""
    return [{key: text(each.get(key)) for key in ("node", "at")} for each in mappings(trial.user_attrs.get(NODES))]


def damaged_of(trial: FrozenTrial) -> list[dict[str, Any]]:
    """Return a trial's committed checkpoints that cannot be resumed from: `checkpoint` and `reason` of each."""
    stored = mappings(trial.user_attrs.get(DAMAGED))
    return [{key: text(each.get(key)) for key in ("checkpoint", "reason")} for each in stored]


def origin_of(trial: FrozenTrial) -> str:
    """Return where a trial's parameters come from."""
    return text(trial.user_attrs.get(ORIGIN), "sampler")


def with_marks(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial whose system attributes hold the pruner's marks, which its step records hold in the store.

    Optuna's pruners look for them there. Stores of earlier versions have them in both places.
    """
    marks = {key: mark for record in _committed(trial).values() for key, mark in mapping(record.get("marks")).items()}
    if not marks:
        return trial
    marked = copy.copy(trial)
    marked.system_attrs = {**trial.system_attrs, **marks}
    return marked


def with_values(trial: FrozenTrial, metric: str) -> FrozenTrial:
    """Return a trial whose intermediate values are those of one metric, which its step records hold."""
    found = {step: number(mapping(record.get("metrics")).get(metric)) for step, record in _committed(trial).items()}
    changed = copy.copy(trial)
    changed.intermediate_values = {step: value for step in sorted(found) if (value := found[step]) is not None}
    return changed


def ticket_of(trial: FrozenTrial, *, adopted: bool, order: Sequence[str] = ()) -> Ticket:
    """Return the ticket for a trial as it is in the store.

    `order` is the order of the space's parameters, which a store may lose (protocol buffers do).
    """
    steps = list(steps_of(trial).values())
    damaged = {each["checkpoint"] for each in damaged_of(trial)}
    checkpoints = [record.checkpoint for record in steps if record.checkpoint and record.checkpoint not in damaged]
    return Ticket(
        number=trial.number,
        params={path: trial.params[path] for path in dict.fromkeys([*order, *trial.params]) if path in trial.params},
        checkpoint=checkpoints[-1] if checkpoints else None,
        history=[{"step": record.step, **record.metrics} for record in steps],
        adopted=adopted,
        origin=origin_of(trial),
        earlier=tuple(reversed(checkpoints[:-1])),
    )


def shortened(text: str, limit: int = LONGEST_TEXT) -> str:
    """Return `text`, its middle left out where it would take more than `limit` characters as JSON."""
    if len(json.dumps(text)) <= limit:
        return text
    keep = len(text)
    while len(json.dumps(text[:keep])) + len(json.dumps(text[-keep:])) > limit - 60:
        keep = keep * 2 // 3
    return f"{text[:keep]}\n... {len(text) - 2 * keep} characters left out ...\n{text[-keep:]}"


def is_void(trial: FrozenTrial) -> bool:
    """Return whether a trial was discarded: surplus, or abandoned before it was ready."""
    return VOID in trial.user_attrs


def is_baseline(trial: FrozenTrial) -> bool:
    """Return whether a trial is one that the others are compared with; it is never pruned."""
    return str(trial.user_attrs.get(ORIGIN, "")).startswith(BASELINE)


def counts_against_budget(trial: FrozenTrial) -> bool:
    """Return whether a trial takes one place of the budget: anything that has not failed."""
    return trial.state != TrialState.FAIL


def point_key(params: Mapping[str, Any]) -> str:
    """Return the identity of a point to try first: its parameters, whatever their order and origin."""
    text = json.dumps(dict(params), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]
