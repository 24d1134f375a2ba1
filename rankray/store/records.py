"""What is written into a trial, and how it is read back.

Attributes of a trial, all under one prefix. A key keeps its meaning in all versions; see `migrate`.

    rankray:driver       the driver that created it (written with the trial itself); claims say who owns it since
    rankray:origin       why it was made (with the trial itself): `sampler`, `baseline:sft`, `baseline:paper`, `known`,
                         `known:rates`, `warm_start`, `warm_start:<earlier study>`; `confirm:...` in a confirmation
    rankray:point        identity of the given point it tries (with the trial itself)
    rankray:ready        its parameters and its place are final: an orphan with it is adopted, one without is discarded
    rankray:step:<n>     what was reported at step n and the verdict on it: the commit point of a report. An owner of
                         fence f above 0 writes `rankray:step:<n>:<f>`; of several the highest fence counts
    rankray:attempts     the failures after which it was tried again: reason and traceback of each
    rankray:lost         the work that was lost with its processes, the latest times: reason, steps, wall_seconds
    rankray:end          how it ended, when no step record says so: the commit point of `complete` and `fail`
    rankray:void         `surplus` or `abandoned`: never a trial of the study, counted nowhere
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

PREFIX = "rankray:"
DRIVER = "rankray:driver"
ORIGIN = "rankray:origin"
POINT = "rankray:point"
READY = "rankray:ready"
STEP = "rankray:step:"
ATTEMPTS = "rankray:attempts"
LOST = "rankray:lost"
END = "rankray:end"
VOID = "rankray:void"
PROVENANCE = "rankray:provenance"
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
        history: metrics of every committed step, in step order, each with its `step`; as `TrialSpec.history`.
        adopted: whether it was started before, by another driver or by this one.
        origin: why it was made, as in `rankray:origin`.
    """

    number: int
    params: dict[str, Any]
    checkpoint: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    adopted: bool = False
    origin: str = "sampler"


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
    """

    step: int
    metrics: dict[str, float]
    checkpoint: str | None = None
    stop: bool = False
    reason: str = ""
    failed: bool = False
    marks: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what is stored; `failed` and `marks` only where they are set."""
        record = {"metrics": self.metrics, "checkpoint": self.checkpoint, "stop": self.stop, "reason": self.reason}
        optional = {"failed": self.failed, "marks": self.marks}
        return record | {key: value for key, value in optional.items() if value}


def step_key(step: int, fence: int) -> str:
    """Return the attribute in which an owner commits a step: its own one, which overwrites no other owner's."""
    return f"{STEP}{step}" + (f":{fence}" if fence else "")


def _committed(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """Return what is stored of a trial's steps, in any order; of each step, what its last owner stored."""
    found: dict[int, tuple[int, dict[str, Any]]] = {}
    for key, value in trial.user_attrs.items():
        if key.startswith(STEP):
            step, _, fence = key.removeprefix(STEP).partition(":")
            found[int(step)] = max(found.get(int(step), (-1, {})), (int(fence or 0), value), key=lambda each: each[0])
    return {step: value for step, (_, value) in found.items()}


def steps_of(trial: FrozenTrial) -> dict[int, StepRecord]:
    """Return a trial's committed steps, in step order."""
    found = _committed(trial)
    return {step: StepRecord(step=step, **found[step]) for step in sorted(found)}


def with_marks(trial: FrozenTrial) -> FrozenTrial:
    """Return a trial whose system attributes hold the pruner's marks, which its step records hold in the store.

    Optuna's pruners look for them there. Stores of earlier versions have them in both places.
    """
    marks = {key: mark for record in _committed(trial).values() for key, mark in record.get("marks", {}).items()}
    if not marks:
        return trial
    marked = copy.copy(trial)
    marked.system_attrs = {**trial.system_attrs, **marks}
    return marked


def with_values(trial: FrozenTrial, metric: str) -> FrozenTrial:
    """Return a trial whose intermediate values are those of one metric, which its step records hold."""
    found = {step: record["metrics"].get(metric) for step, record in _committed(trial).items()}
    changed = copy.copy(trial)
    changed.intermediate_values = {step: found[step] for step in sorted(found) if found[step] is not None}
    return changed


def ticket_of(trial: FrozenTrial, *, adopted: bool, order: Sequence[str] = ()) -> Ticket:
    """Return the ticket for a trial as it is in the store.

    `order` is the order of the space's parameters, which a store may lose (protocol buffers do).
    """
    steps = list(steps_of(trial).values())
    checkpoints = [record.checkpoint for record in steps if record.checkpoint]
    return Ticket(
        number=trial.number,
        params={path: trial.params[path] for path in dict.fromkeys([*order, *trial.params]) if path in trial.params},
        checkpoint=checkpoints[-1] if checkpoints else None,
        history=[{"step": record.step, **record.metrics} for record in steps],
        adopted=adopted,
        origin=str(trial.user_attrs.get(ORIGIN, "sampler")),
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
