"""The sections of a configuration that say what a trial is and what it occupies: model, data, training, resources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rankray.loss.knobs import Fields, NonNegative, Positive

PositiveInt = Annotated[int, Field(ge=1)]


class Section(Fields):
    """What all sections share: see `Fields`."""


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
    test: str | None = None
    """Examples for the last word, in the same form: neither training nor the search reads them, only `confirm` and
    `evaluate --split test`."""
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
