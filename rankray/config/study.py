"""The section of a configuration that says how trials are searched: the study, and its baselines."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rankray.config.sections import PositiveInt, Section
from rankray.loss.knobs import KeyOf

BASELINES: dict[str, dict[str, Any]] = {
    "sft": {"loss.objective": "sft"},
    "paper": {
        "loss.objective": "rri",
        "loss.form": "bound",
        "loss.temperature": 1.0,
        "loss.entropy_weight": 1.0,
        "loss.low_entropy": "max_prob",
        "loss.min_competence": 1e-6,
        "loss.max_scale": None,
    },
}
"""Settings to compare every search with: plain SFT, and the paper's (its base weight is the file's own)."""


class StudySection(Section):
    """The search: what it optimises, how, and for how long."""

    metric: str = "eval/nll"
    """Metric that trials are compared on; it must not depend on the weights that are searched."""
    direction: Literal["minimize", "maximize"] | None = None
    """`minimize` or `maximize`; null takes the direction of a built-in metric."""
    sampler: str | dict[str, Any] = "tpe"
    """Sampler that proposes settings: a name such as `tpe` or `random`, or `{name: tpe, ...}` with its own options. The
    error of an unknown name lists them all."""
    pruner: str | dict[str, Any] = "successive_halving"
    """Pruner that stops hopeless trials: a name such as `successive_halving` or `none`, or `{name: ..., ...}` with its
    own options. The error of an unknown name lists them all."""
    trials: PositiveInt = 64
    """Finished trials (complete and pruned) that the study should hold; raise it to extend a finished search."""
    seeds: PositiveInt = 1
    """Training runs per trial, each with its own seed; the metrics are their running mean."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler."""
    max_failures_per_trial: Annotated[int, Field(ge=0)] = 0
    """How often a trial that failed is retried from its last checkpoint before it is FAILED."""
    keep_best: PositiveInt = 3
    """How many of the best complete trials keep their checkpoints; those of all others are deleted when their trial
    ends."""
    baselines: list[Annotated[str, KeyOf(lambda: BASELINES)]] = Field(default_factory=lambda: list(BASELINES))
    """Settings tried first where the space contains them: plain SFT, and the paper's fixed setting."""
    warm_start: list[dict[str, Any]] = Field(default_factory=list)
    """Points of the space to try first, each a mapping of dotted paths to values; enqueued once."""
