"""Every field of the configuration, once.

The models are frozen and refuse unknown keys. The string under each field is its documentation: it feeds
`rankray explain`, the JSON schema and the errors. A field's dotted path (`loss.temperature`) is its name everywhere:
in YAML, with `--set`, in the search space, in the store and in logs.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rankray.loss.knobs import KeyOf, Knobs, NonNegative, Positive

if TYPE_CHECKING:
    from rankray.config.space import SearchSpace

PositiveInt = Annotated[int, Field(ge=1)]


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


class Section(BaseModel):
    """What all sections share: frozen, closed, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LoraSection(Section):
    """Low-rank adapters on a frozen base model."""

    rank: PositiveInt = 16
    """Rank of the adapters."""
    alpha: Positive = 32.0
    """Scale of the adapters; the update is multiplied by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    target_modules: str | list[str] = "all-linear"
    """Which linear layers get adapters: `all-linear` or a list of module names."""


class ModelSection(Section):
    """The model to fine-tune."""

    path: str = Field(min_length=1)
    """Hub id or local directory of a causal language model with its tokenizer."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` takes the type they were saved in."""
    lora: LoraSection | None = None
    """Train low-rank adapters instead of all weights; null trains everything."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""


class DataSection(Section):
    """What the model learns from, and what it is measured on."""

    train: str = Field(min_length=1)
    """Training examples: `hub-id:config:split`, or the path of a .jsonl, .json, .parquet or .csv file."""
    eval: str = Field(min_length=1)
    """Held-out examples, in the same form."""
    prompt: str = "{prompt}"
    """Template over columns for the model's input; not trained on."""
    completion: str = "{completion}"
    """Template over columns for the answer the model should give; the only tokens that are trained on."""
    messages: str | None = None
    """Column of chat messages (`role`, `content`); the last assistant turn is trained on. Replaces the templates."""
    max_length: Annotated[int, Field(ge=2)] = 2048
    """Tokens per example; longer examples are cut at the end."""


class TrainSection(Section):
    """The optimizer's run."""

    max_steps: PositiveInt = 200
    """Optimizer steps of a whole trial."""
    batch_size: PositiveInt = 64
    """Examples per optimizer step, over all workers and accumulation steps."""
    micro_batch_size: PositiveInt | None = None
    """Examples per forward pass; must divide batch_size. Null takes the whole batch at once."""
    learning_rate: Positive = 5.0e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate changes after the warm-up."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of data order, dropout and adapters."""
    checkpoint_every_steps: PositiveInt | None = None
    """Steps between checkpoints; null makes one at every evaluation."""
    parallelism: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share a trial: `ddp` gives each the whole model, `fsdp` (FSDP2) each a shard of it."""
    threads: PositiveInt | None = None
    """CPU threads a trial computes with; null takes `resources.cpus_per_worker` in a search, all cores in `train`."""
    sft: dict[str, Any] = Field(default_factory=dict)
    """Any other field of TRL's SFTConfig, passed through as it is."""

    @model_validator(mode="after")
    def _micro_batch_divides(self) -> TrainSection:
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"got micro_batch_size {self.micro_batch_size}; allowed: a divisor of batch_size {self.batch_size}; "
                "change one of the two"
            )
        return self


class EvaluateSection(Section):
    """What is measured on the held-out examples, and how often."""

    every_steps: PositiveInt = 25
    """Steps between evaluations: each is a report, and a chance to prune."""
    metrics: list[str] = Field(default_factory=lambda: ["nll"])
    """Any of `nll`, `token_accuracy`, `accuracy` (greedy answer, exact match) and `pass@k` (k sampled answers)."""
    max_examples: PositiveInt | None = 200
    """Held-out examples used, the first ones; null takes all."""
    batch_size: PositiveInt = 32
    """Examples per evaluation batch."""
    max_new_tokens: PositiveInt = 128
    """Longest answer that `accuracy` and `pass@k` generate, in tokens."""
    answer: str = "auto"
    """Which part of a text is the answer: `auto` (after the last `####`, else the last number, else all of it), `text`
    (all of it, stripped), or a regular expression with one group, whose last match counts."""
    sampling_temperature: Positive = 1.0
    """Logit temperature of the answers sampled for `pass@k`."""
    functions: list[str] = Field(default_factory=list)
    """Evaluations of your own, `module:function`: called with (model, tokenizer, rows), returning a dict of floats that
    appear as `eval/<key>`."""

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in ("nll", "token_accuracy", "accuracy") and not re.fullmatch(r"pass@[1-9]\d*", name):
                raise ValueError(
                    f"unknown metric {name!r}; allowed: nll, token_accuracy, accuracy, pass@k (as in pass@4); choose "
                    "from these"
                )
        return names

    @field_validator("functions")
    @classmethod
    def _function_form(cls, names: list[str]) -> list[str]:
        for name in names:
            if not re.fullmatch(r"[\w.]+:\w+", name):
                raise ValueError(f"got {name!r}; allowed: module:function; as in my_package.my_module:name")
        return names


def default_store() -> str:
    """Return the store to use where none is given: RANKRAY_STORE, or a SQLite file in the current directory."""
    return os.environ.get("RANKRAY_STORE") or "sqlite:///rankray.db"


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


class ResourcesSection(Section):
    """What one trial occupies, and how many trials run at a time."""

    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = 1
    """Worker processes per trial; `[least, most]` takes what is free, and grows or shrinks while the trial runs."""
    cpus_per_worker: Annotated[float, Field(gt=0)] = 1
    """CPUs reserved for a worker."""
    gpus_per_worker: NonNegative = 0
    """GPUs reserved for a worker; a fraction shares one."""
    concurrency: PositiveInt | Literal["auto"] = "auto"
    """Trials at a time; `auto` fills the cluster, and on one machine first measures whether fewer trials at a time get
    more done."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """Least and most workers of a trial."""
        return (self.workers, self.workers) if isinstance(self.workers, int) else self.workers

    @field_validator("workers")
    @classmethod
    def _least_before_most(cls, given: int | tuple[int, int]) -> int | tuple[int, int]:
        if not isinstance(given, int) and given[0] >= given[1]:
            raise ValueError(f"got {list(given)}; allowed: a number, or [least, most] with least below most")
        return given


class Config(Section):
    """One file: fixed values, a `space:` that maps dotted paths to distributions, and a `study:`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The study's name: letters, digits, dot, dash and underscore; the file's own name where it is left out."""
    model: ModelSection
    data: DataSection
    loss: Knobs = Knobs()
    train: TrainSection = TrainSection()
    evaluate: EvaluateSection = EvaluateSection()
    space: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Dotted path to distribution: `{float: [low, high], log: true}`, `{int: [low, high], step: 1}`, `{choice: [...]}`,
    each with an optional `when: {path: value}`; or the path of a file that contains such a mapping."""
    study: StudySection = StudySection()
    resources: ResourcesSection = ResourcesSection()
    store: str = Field(default_factory=lambda: default_store())
    """Where the study is kept: a sqlite, postgresql, mysql, journal or grpc URL; RANKRAY_STORE is the default."""
    storage: str = "./rankray-runs"
    """Where checkpoints are kept: a directory that all nodes can reach, or `s3://bucket/prefix` or `gs://bucket/prefix`,
    with options such as `?region=eu-west-1`. Credentials come from each node's environment, profile or role, never from
    here."""

    @field_validator("storage")
    @classmethod
    def _storage_place(cls, given: str) -> str:
        if "://" not in given:
            return given
        url = urlsplit(given)
        if url.scheme not in STORAGE_SCHEMES:
            allowed = ", ".join(f"{scheme}://" for scheme in STORAGE_SCHEMES)
            raise ValueError(f"got {url.scheme}://; allowed: a directory, {allowed}")
        named, _, host = url.netloc.rpartition("@")
        if not host or url.password is not None or (named and not url.scheme.startswith("abfs")):
            raise ValueError(
                "allowed is scheme://bucket/prefix, without credentials, which would be kept with the study; "
                "leave them to each node's environment, profile or role"
            )
        unknown = [name for name, _ in parse_qsl(url.query, keep_blank_values=True) if name not in STORAGE_OPTIONS]
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}; allowed: {', '.join(STORAGE_OPTIONS)}")
        return given

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Config:
        """Refuse weighted and unmeasured metrics: a study must select on something its weights cannot change."""
        metric, measured = self.study.metric, ["eval/nll", *(f"eval/{name}" for name in self.evaluate.metrics)]
        if metric in WEIGHTED_METRICS:
            raise ValueError(
                f"study.metric: {metric!r} is weighted by the very settings that are searched, so the search would "
                f"reward whatever shrinks the weights; choose from {', '.join(dict.fromkeys(measured))}"
            )
        if metric not in measured and not (metric.startswith("eval/") and self.evaluate.functions):
            raise ValueError(
                f"study.metric: {metric!r} is not measured; allowed: {', '.join(dict.fromkeys(measured))}; choose "
                "one of these, or add it to evaluate.metrics"
            )
        if self.study.direction is None and metric not in DIRECTIONS and "pass@" not in metric:
            raise ValueError(f"study.direction: missing for {metric!r}; allowed: minimize, maximize; set one")
        return self

    @model_validator(mode="after")
    def _loss_is_finite(self) -> Config:
        """Refuse infinite settings, which `rankray.loss` takes: a study is stored as JSON, which has no infinity."""
        for name, value in self.loss:
            if isinstance(value, float) and math.isinf(value):
                raise ValueError(f"loss.{name}: got {value}; allowed: a finite number; set a very large one instead")
        return self

    @property
    def search_space(self) -> SearchSpace:
        """The parsed and checked `space:`. Made on first use, and kept with this configuration and its copies."""
        kept: SearchSpace | None = self.__dict__.get("_search_space")
        if kept is None or kept.source is not self.space:
            from rankray.config.space import parse_space

            kept = self.__dict__["_search_space"] = parse_space(self)
        return kept

    @property
    def full_steps(self) -> int:
        """Optimizer steps of a whole trial, through all its seeds."""
        return self.train.max_steps * self.study.seeds

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The study's direction, with the built-in metrics' own as the default."""
        return self.study.direction or DIRECTIONS.get(self.study.metric, "maximize")


STORAGE_SCHEMES = ("s3", "gs", "abfs", "abfss")
STORAGE_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path", "project_id", "retry_limit_seconds")
WEIGHTED_METRICS = ("train/loss", "eval/loss", "eval_loss", "loss")
DIRECTIONS: dict[str, Literal["minimize", "maximize"]] = {
    "eval/nll": "minimize",
    "eval/accuracy": "maximize",
    "eval/token_accuracy": "maximize",
}
SEARCHABLE_SECTIONS = ("model", "data", "loss", "train")
"""Sections whose fields a space may vary; the others say how the search itself runs."""
FREE_FIELDS = (
    "study.trials",
    "study.keep_best",
    "study.max_failures_per_trial",
    "resources",
    "store",
    "storage",
    "train.threads",
)
"""Fields that may differ when a study is opened again; all others are part of what the study is."""
