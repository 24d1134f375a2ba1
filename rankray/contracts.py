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
        checkpoint: the last committed checkpoint to resume from, or None to start from the beginning.
        history: metrics of every step committed so far, in step order: `[{"step": 10, "eval/nll": 3.2}, ...]`.
        untrained: whether a trial that starts from the beginning also reports step 0, the model before training.
    """

    config: dict[str, Any]
    directory: str
    number: int = 0
    checkpoint: str | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    untrained: bool = False

    def to_json(self) -> str:
        """Return the spec as one JSON string, the form in which it is sent to a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TrialSpec:
        """Rebuild a spec from `to_json`."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Report:
    """What a trial reports at one step.

    Attributes:
        step: optimizer steps done, from 1; with several seeds, counted through all of them. Step 0 is the untrained
            model: it says something about the study, not about the trial, and its verdict is always to continue.
        metrics: metric name to value, names as in the design (`eval/nll`, `train/loss`, ...).
        checkpoint: a completely written checkpoint of exactly this step, if one was made.
        spread: how the relative scale S was spread over the tokens since the previous report, where the loss has one:
            `{"first", "shares"}`, as `LossStats.scale_spread` returns it.
        node: where the trial is trained, for people; given with the first report of a process, else empty.
    """

    step: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None
    spread: Mapping[str, Any] | None = None
    node: str = ""


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
        preempted: why the run was preempted before its end; another process resumes it from `checkpoint`. Else empty.
    """

    metrics: dict[str, float]
    steps: int
    checkpoint: str | None = None
    stopped: str = ""
    preempted: str = ""


@dataclass(frozen=True)
class WorkLost:
    """Work that has to be done again because a trial's process died before the trial ended.

    Attributes:
        reason: why the process died.
        steps: steps reported after the last checkpoint; steps after the last report are unknown and not counted.
        wall_seconds: time from the last checkpoint, or from the start, to the death.
        preempted: whether the trial left with a checkpoint, because its node is taken away or its search interrupted.
    """

    reason: str
    steps: int
    wall_seconds: float
    preempted: bool = False


class Reporter(Protocol):
    """Where a trial sends its reports. A call may block until the verdict is known."""

    def report(self, report: Report) -> Verdict:
        """Deliver one report and return the verdict on the trial.

        A reporter accepts the same step twice, and gives the same verdict both times.
        """
        ...


class Observer(Protocol):
    """Watches a search: the live view, plain lines. Calls come from the driver's thread and must be quick."""

    def phase(self, text: str) -> None:
        """What the search is busy with before and between trials (`starting Ray`, ...)."""
        ...

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """A trial was placed; `step` is above 0 for one that resumes from `checkpoint`."""
        ...

    def reported(self, number: int, report: Report) -> None:
        """A trial's report is in the store."""
        ...

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """A trial ended `complete`, `pruned` or `failed`, or is `lost`: its process died, and it will be resumed."""
        ...
