"""The section of a configuration that says how trials are searched: the study, its baselines, its budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rankray.config.sections import PositiveInt, Section
from rankray.loss.knobs import KeyOf, Positive

BASELINES: dict[str, dict[str, Any]] = {
    "sft": {"loss.objective": "sft", "loss.kl_weight": 0.0},
    "paper": {
        "loss.objective": "rri",
        "loss.form": "bound",
        "loss.temperature": 1.0,
        "loss.entropy_weight": 1.0,
        "loss.low_entropy": "max_prob",
        "loss.min_competence": 1e-6,
        "loss.max_scale": None,
        "loss.signal": "online",
        "loss.kl_weight": 0.0,
    },
}
"""Settings to compare every search with: plain SFT, and the paper's (its base weight is the file's own)."""
LADDER = "rates"
"""The name in `study.known` of the ladder of learning rates."""


PUBLISHED = "published"
"""The name in `study.warm_start` of `PUBLISHED_RATES`."""
PUBLISHED_RATES = (3e-4, 1e-3)
"""Learning rates of LoRA that were best for most models: the first for 14, the second for 10; at 3e-3 they diverged.

Source: the table of LoRA learning rates in the documentation of Tinker.
"""


def known_names() -> list[str | dict[str, Any]]:
    """Return the names that `study.known` allows."""
    return [*BASELINES, LADDER]


class BudgetSection(Section):
    """What a search may cost beside its number of trials; it ends at the first limit that is reached."""

    wall_hours: Positive | None = None
    """Hours during which at least one driver works on the search."""
    gpu_hours: Positive | None = None
    """Hours times GPUs that its trials hold, the work that was lost included."""
    money: Positive | None = None
    """What the nodes of the cluster cost while the search runs, in the unit of `price`, idle ones included."""
    price: dict[str, Positive | dict[Literal["on_demand", "spot"], Positive]] = Field(default_factory=dict)
    """Price of a node for an hour, by its type as the cluster names it; `default` is that of every other node. A
    number, or `{on_demand: 1.2, spot: 0.4}`. A number alone is the price of every node."""
    plateau: PositiveInt | None = None
    """Finished trials in a row after which the search ends, if none was better than the best one before by more than
    its metric's standard error over examples; by anything where the metric is over tokens, as nll is, of which every
    trial sees the same ones, or has no standard error."""

    @field_validator("price", mode="before")
    @classmethod
    def _of_every_node(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        empty = [kind for kind, price in value.items() if price == {}] if isinstance(value, dict) else []
        if empty:
            raise ValueError(f"{empty[0]} has no price; allowed: a number, or {{on_demand: 1.2, spot: 0.4}}; give one")
        return {"default": value} if is_number else value

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in (self.wall_hours, self.gpu_hours, self.money, self.plateau))


class StudySection(Section):
    """The search: what it optimises, how, and for how long."""

    metric: str = "eval/nll"
    """Metric that trials are compared on; it must not depend on the weights that are searched."""
    metrics: list[str] = Field(default_factory=list)
    """Several metrics to improve at once, instead of one: `best` then shows every trial that no other one beats in all
    of them. The first is `study.metric`, by which trials are ranked where one number is needed."""
    direction: Literal["minimize", "maximize"] | None = None
    """`minimize` or `maximize`; null takes the direction of a built-in metric."""
    sampler: str | dict[str, Any] = "auto"
    """Sampler that proposes settings: `auto` (a Gaussian process on whole runs, TPE in a long study), another name such
    as `tpe` or `random`, or `{name: tpe, ...}` with its own options. The error of an unknown name lists them all."""
    pruner: str | dict[str, Any] = "auto"
    """Pruner that stops hopeless trials: `auto` (only what diverges), another name such as `successive_halving` or
    `none`, or `{name: ..., ...}` with its own options. The error of an unknown name lists them all."""
    prune_on: str = "eval/nll"
    """Metric that the pruner compares, whatever the study selects on: early in a run, plain NLL tells more of its end
    than accuracy does."""
    trials: PositiveInt = 64
    """Finished trials (complete and pruned) that the study should hold; raise it to extend a finished search."""
    budget: BudgetSection = BudgetSection()
    """What the search may cost beside; it ends at the first limit that is reached, and a raised limit continues it."""
    trial_timeout: Positive | None = None
    """Seconds without a step or a report after which a trial counts as hanging: it is FAILED, and its process ends. A
    trial of several workers is heard at its reports only. Null waits for ever."""
    seeds: PositiveInt = 1
    """Training runs per trial, each with its own seed; the metrics are their running mean."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampler."""
    max_failures_per_trial: Annotated[int, Field(ge=0)] = 0
    """How often a trial that failed is retried from its last checkpoint before it is FAILED."""
    keep_best: PositiveInt = 3
    """How many of the best complete trials keep their checkpoints; those of all others are deleted when their trial
    ends."""
    known: list[Annotated[str, KeyOf(known_names)] | dict[str, Any]] = Field(default=[*known_names()])
    """Settings that are known to be worth a trial, tried first where the space contains them: `sft`, plain SFT;
    `paper`, the paper's fixed setting; `rates`, those of the two that are listed (or, without them, the file's own
    setting) at three times and a third of the file's learning rate; or a mapping of dotted paths to values. `sft` and
    `paper` are the baselines, which are never pruned."""
    warm_start: list[str | dict[str, Any]] = Field(default_factory=list)
    """More to try first: names of earlier studies in the same store, of each of which the best quarter of the complete
    trials is taken, at most five, as far as this space contains them; `published`, learning rates at which published
    sweeps of adapters (LoRA) were best; or mappings of dotted paths to values. What an earlier study gives is decided
    once, when this study begins."""

    @model_validator(mode="before")
    @classmethod
    def _first_metric(cls, given: Any) -> Any:
        """Take the first of `metrics` as `metric`, where only they are given."""
        if isinstance(given, dict) and "metric" not in given and isinstance(given.get("metrics"), list):
            return {**given, **({"metric": given["metrics"][0]} if given["metrics"] else {})}
        return given

    @field_validator("metrics")
    @classmethod
    def _several_metrics(cls, names: list[str]) -> list[str]:
        if len(names) == 1 or len(set(names)) < len(names):
            raise ValueError(f"got {names}; allowed: two different metrics or more; use study.metric for one")
        return names

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, given: Any) -> Any:
        """Take `baselines`, as `known` was called before; its names are allowed there too."""
        if not isinstance(given, dict) or "baselines" not in given:
            return given
        if "known" in given:
            raise ValueError("got known and baselines; allowed: known, which took the place of baselines; keep known")
        return {"known" if key == "baselines" else key: value for key, value in given.items()}
