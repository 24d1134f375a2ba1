"""What crosses layers, in plain standard-library types.

`finetune` trains and reports; `store` remembers and judges; `search` stands between them. They never import each
other: a trainer sees a `Reporter`, a store gives a `Verdict`, and a trial travels as a `TrialSpec`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class TrialSpec:
    """One trial, self-contained: everything a worker needs and no credentials.

    Attributes:
        number: the trial's number in its study; 0 for a trial outside a study.
        config: the resolved configuration with the trial's parameters applied, as plain JSON types.
        directory: where this trial writes its checkpoints.
        checkpoint: the last committed checkpoint to go on from, or None to start afresh.
        history: metrics of every step committed so far, in step order: `[{"step": 10, "eval/nll": 3.2}, ...]`.
    """

    config: dict[str, Any]
    directory: str
    number: int = 0
    checkpoint: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def to_json(self) -> str:
        """Return the spec as one JSON string, the form in which it travels."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """Rebuild a spec from `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Report:
    """What a trial says at one step.

    Attributes:
        step: optimizer steps done, from 1; with several seeds, counted through all of them.
        metrics: metric name to value, names as in the design (`eval/nll`, `train/loss`, ...).
        checkpoint: a checkpoint that is completely written and holds exactly this step, if one was made.
    """

    step: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a trial should stop, and why. Every stop carries a reason.

    Attributes:
        stop: whether the trial ends here.
        reason: why, for people; never empty for a stop.
        failed: whether the stop means that the trial failed (NaN, for one) rather than that it was pruned.
    """

    stop: bool
    reason: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        assert self.reason or not self.stop, "a stop needs a reason"


@dataclass(frozen=True)
class Outcome:
    """How a training run ended.

    Attributes:
        metrics: the metrics of the last report.
        steps: optimizer steps done in all.
        checkpoint: the last checkpoint written, if any.
        stopped: the verdict's reason when the run was stopped before its end, else an empty string.
        preempted: why the run was preempted before its end, to be continued elsewhere from `checkpoint`; else empty.
    """

    metrics: dict[str, float]
    steps: int
    checkpoint: str | None = None
    stopped: str = ""
    preempted: str = ""


@dataclass(frozen=True)
class WorkLost:
    """What was trained and has to be trained again, as a trial's process is gone before its end.

    Attributes:
        reason: why it is gone.
        steps: steps that were reported after the last checkpoint; what came after them nobody knows.
        wall_seconds: time from the last checkpoint, or from the start, to the loss.
    """

    reason: str
    steps: int
    wall_seconds: float


class Reporter(Protocol):
    """Where a trial sends its reports. The call may block until the verdict is known."""

    def report(self, report: Report) -> Verdict:
        """Deliver one report and return the verdict on the trial.

        A reporter must accept the same step twice and answer the second time as it did the first.
        """
        ...


class Observer(Protocol):
    """Who watches a search: the live view, or plain lines. Calls come from the driver's thread and must be quick."""

    def phase(self, text: str) -> None:
        """What the search is busy with before and between trials (`starting Ray`, ...)."""
        ...

    def started(self, number: int, params: Mapping[str, Any], origin: str, step: int) -> None:
        """A trial was placed; `step` is above 0 for one that goes on from a checkpoint."""
        ...

    def reported(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        """A trial's report was delivered."""
        ...

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial ended `complete`, `pruned`, `failed`, or `lost` (its process died; it will be gone on with)."""
        ...
