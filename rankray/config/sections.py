"""The sections of a configuration that say what a trial is and what it occupies: model, data, training, resources."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from rankray.errors import describe_invalid, nearest, shown
from rankray.loss.knobs import Fields, NonNegative, Positive

MOST_THREADS = 4096
"""More CPU threads than any machine has; a process cannot start millions of them."""
MOST = 2**31 - 1
"""The largest count: the libraries of training hold some of them in 32 bits."""


def _countable(given: int) -> int:
    if given > MOST:
        raise ValueError(f"got {shown(given)}; allowed: at most {MOST}; correct the value")
    return given


PositiveInt = Annotated[int, Field(ge=1), AfterValidator(_countable)]


class Section(Fields):
    """What all sections share: see `Fields`."""

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        """Take a single name for a list of one, as in `logging: wandb`."""
        if not isinstance(given, dict):
            return given
        lists = {name for name, field in cls.model_fields.items() if typing.get_origin(field.annotation) is list}
        return {key: [value] if key in lists and isinstance(value, str) else value for key, value in given.items()}


def once(names: list[str]) -> list[str]:
    """Return the names of a list of which each may be there once.

    Raises:
        ValueError: one is there twice.
    """
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise ValueError(f"got {shown(twice)} twice; allowed: each name once; leave one out")
    return names


def unstorable(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted path of every value that JSON does not have, and the value: infinity, NaN, bytes, a date."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from unstorable(f"{path}.{key}", each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from unstorable(path, each)
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        yield path, value


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
    dora: bool = False
    """Train DoRA: the adapters change direction and length of the weights separately."""

    @field_validator("target_modules")
    @classmethod
    def _each_module_once(cls, given: str | list[str]) -> str | list[str]:
        return given if isinstance(given, str) else once(given)


class ModelSection(Section):
    """The model to fine-tune."""

    path: str = Field(min_length=1)
    """Hub id or local directory of a causal language model with its tokenizer."""
    revision: str | None = None
    """Branch, tag or commit of a model on the hub; null is its main branch. A study resolves it to a commit when it is
    opened, and all its trials and drivers take that one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` takes the type they were saved in. Where all weights of a 16-bit model are trained,
    `auto` keeps them in float32 and computes in 16 bits; `bfloat16` trains the bfloat16 weights themselves."""
    lora: LoraSection | None = None
    """Train low-rank adapters instead of all weights; null trains everything."""
    attn_implementation: str | None = None
    """How attention is computed: `sdpa`, `eager`, `flash_attention_2` or another name that transformers knows; null
    leaves the choice to transformers."""
    quantization: Literal["4bit", "8bit"] | None = None
    """Hold the base model's linear layers in 4 bits (NF4, its scales quantized too) or 8 bits, below trained adapters;
    `dtype` is what is computed in. Needs a CUDA GPU, `model.lora` and `pip install rankray[quantization]`. Null keeps
    the weights as they are."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Leave it off unless you have read that code."""

    @model_validator(mode="after")
    def _quantized_weights_are_not_trained(self) -> ModelSection:
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                f"quantization: got {self.quantization} where all weights are trained, which needs them whole; allowed "
                "with model.lora, which trains adapters on them; set model.lora: {}, or leave quantization out"
            )
        return self


Format = Literal["auto", "columns", "prompt_completion", "messages", "sharegpt", "alpaca", "text"]


class SourceSection(Section):
    """One of several sources of examples."""

    path: str = Field(min_length=1)
    """As `data.train`: a hub dataset, file, directory or pattern."""
    weight: Positive | None = None
    """Share of the mixture, relative to the other weights. No example is repeated: the mixture is the largest that has
    these shares. Null everywhere takes all examples of all sources."""
    max_examples: PositiveInt | None = None
    """Only the first examples of this source."""
    where: dict[str, Any] | None = None
    """As `data.where`, for this source alone."""
    format: Format | None = None
    """As `data.format`; null takes that."""
    prompt: str | None = None
    """As `data.prompt`; null takes that."""
    completion: str | None = None
    """As `data.completion`; null takes that."""
    messages: str | None = None
    """As `data.messages`; null takes that."""
    chat: bool | None = None
    """As `data.chat`; null takes that."""
    weight_column: str | None = None
    """As `data.weight_column`; null takes that."""
    token_weights: str | None = None
    """As `data.token_weights`; null takes that."""
    revision: str | None = None
    """Branch, tag or commit of this source, a dataset on the hub; null takes `data.revision`."""


Sources = Annotated[str, Field(min_length=1)] | Annotated[list[SourceSection], Field(min_length=1)]
"""One source, or several."""


PLAIN_TEMPLATE = "plain"
"""The chat template that rankray brings along, by its name."""


def is_jinja(text: str) -> bool:
    """Return whether a text is a Jinja template, and not the name or the path of one."""
    return "{{" in text or "{%" in text


class DataSection(Section):
    """What the model learns from, and what it is measured on."""

    train: Sources
    """Training examples: `hub-id:config:split`, or the path of a .jsonl, .json, .parquet, .arrow, .csv, .tsv or .txt
    file (text also as .gz or .zst), of a directory of such files, or a pattern such as `data/*.jsonl`. Or a list of
    several: `[{path: ..., weight: 2}, {path: ..., weight: 1, max_examples: 1000}]`; an entry may also have its own
    `where`, `format`, `prompt`, `completion`, `messages`, `chat`, `weight_column`, `token_weights` and `revision`."""
    eval: Sources
    """Held-out examples, in the same form."""
    test: Sources | None = None
    """Examples for the last word, in the same form: neither training nor the search reads them, only `confirm` and
    `evaluate --split test`."""
    revision: str | dict[str, str] | None = None
    """Branch, tag or commit of the hub datasets, or of each by its hub id: `{openai/gsm8k: main}`; null is the main
    branch. A study resolves them to commits when it is opened, and all its trials and drivers take those."""
    where: dict[str, Any] | None = None
    """Only rows whose columns fulfil all of these: `{lang: en}`, `{source: [a, b]}` or `{score: ">= 0.5"}`."""
    max_examples: PositiveInt | None = None
    """Training examples used, the first ones; null takes all. `evaluate.max_examples` is for the held-out ones."""
    format: Format = "auto"
    """What a row looks like; `auto` recognises it by its columns, and `check` and `preview` say which it is. `columns`
    fills in the templates `prompt` and `completion`, `prompt_completion` takes the two columns (texts or turns),
    `messages` and `sharegpt` are conversations, `alpaca` is instruction, input and output, `text` is trained on as it
    is."""
    prompt: str = "{prompt}"
    """Template over columns for the model's input; not trained on. `{column?}` may be empty; new lines
    before its name (`{\\ncolumn?}`) are written only where it is not."""
    completion: str = "{completion}"
    """Template over columns for the answer the model should give; the only tokens that are trained on."""
    messages: str | None = None
    """Column of chat messages (`role`, `content`, or `from`, `value`). Replaces the templates."""
    chat: bool = False
    """Make turns of prompts and completions that are texts, and render them with the model's chat template: for the
    templates above, `prompt_completion` and `alpaca`. Conversations are rendered with it anyway."""
    chat_template: str | None = None
    """Chat template of conversations in place of the model's, and of a model that has none: the path of a Jinja file,
    whose text is then kept with the study, or `plain` (each turn below its role, answers ended by the EOS token). It is
    saved with the model."""
    streaming: bool = False
    """Read and tokenise part by part, for data that do not fit in memory; hub datasets are not downloaded as a whole.
    Training is the same. The form of a file's rows is that of its first rows, and `check --offline` and `preview` look
    at the first rows alone."""
    train_on: Literal["last", "all"] = "last"
    """Which turns of a conversation are trained on: the `last` of the assistant, or `all` of them (those marked with
    weight 0 excepted)."""
    prompt_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the prompt's tokens in training, next to 1 for the completion's; 0 does not train on the prompt."""
    weight_column: str | None = None
    """Column of the training data with the weight of each example, a number from 0 on; it multiplies the weight that
    the objective gives to each of its tokens. Examples of weight 0 are left out. Evaluation is never weighted."""
    token_weights: str | None = None
    """Column of the training data with weights within each completion: a list of numbers, one for each of its tokens,
    or of `{start, end, weight}`, characters of the completion (from 0, end excluded; what no entry covers has
    weight 1)."""
    max_length: Annotated[int, Field(ge=2)] = 2048
    """Tokens per example; longer examples are cut at the end."""

    @field_validator("chat_template")
    @classmethod
    def _is_template(cls, given: str | None) -> str | None:
        if given is None or given == PLAIN_TEMPLATE or is_jinja(given):
            return given
        raise ValueError(
            f"got {shown(given)}{nearest(given, [PLAIN_TEMPLATE])}; allowed: the path of a Jinja file, its text, or "
            f"{PLAIN_TEMPLATE}; correct the value"
        )

    @field_validator("train", "eval", "test", mode="before")
    @classmethod
    def _sources(cls, given: Any) -> Any:
        """Read each entry of a list by itself, so that an error names the entry and not all that a source may be."""
        if isinstance(given, str) and given.startswith("["):  # what `source_text` makes of a list
            given = json.loads(given)
        if not isinstance(given, list):
            return given
        entries = [_entry(item, number) for number, item in enumerate(given, start=1)]
        if len({entry.weight is None for entry in entries}) > 1:
            raise ValueError("some sources have a weight; allowed: all of them or none; give the others one")
        return entries


def source_text(given: str | Sequence[SourceSection]) -> str:
    """Return one or several sources as a text, which stands for the same where a source is asked for."""
    if isinstance(given, str):
        return given
    return json.dumps([entry.model_dump(mode="json", exclude_none=True) for entry in given])


def _entry(given: Any, number: int) -> SourceSection:
    if isinstance(given, str | SourceSection):
        return SourceSection(path=given) if isinstance(given, str) else given
    try:
        return SourceSection.model_validate(given)
    except ValidationError as error:
        items: list[Any] = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")[:1]
        name = ".".join(map(str, items[0]["loc"])) or "the entry"
        raise ValueError(f"source {number}: {name}: {describe_invalid(items, SourceSection.model_fields)}") from None


class TrainSection(Section):
    """The optimizer's run."""

    max_steps: PositiveInt = 200
    """Optimizer steps of a whole trial."""
    epochs: Positive | None = None
    """Passes over the training examples; counts them and sets max_steps. Null leaves max_steps as it is given."""
    batch_size: PositiveInt = 64
    """Examples per optimizer step, over all workers and accumulation steps."""
    micro_batch_size: PositiveInt | None = None
    """Examples per forward pass; must divide batch_size. Null takes the whole batch at once, or as much of it as fits
    where it cannot fit by the estimate of `check`."""
    learning_rate: Positive = 5.0e-5
    """Peak learning rate of AdamW."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the steps over which the learning rate rises from zero. `schedule: constant` has no warm-up and ignores
    it."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay of AdamW."""
    schedule: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    """How the learning rate changes after the warm-up, which `constant` does not have (`constant_with_warmup` does)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of data order, dropout and adapters."""
    checkpoint_every_steps: PositiveInt | None = None
    """Steps between checkpoints; null makes one at every evaluation."""
    parallelism: Literal["ddp", "fsdp"] = "ddp"
    """How several workers share a trial: `ddp` gives each the whole model, `fsdp` (FSDP2) each a shard of it."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
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
    cpus_per_worker: Positive = 1
    """CPUs reserved for a worker."""
    gpus_per_worker: NonNegative = 0
    """GPUs reserved for a worker; a fraction shares one."""
    memory_gb: Positive | None = None
    """Memory that a worker may use, in units of 10^9 bytes: of its GPU, or of its machine where it has none. `check`
    refuses what cannot fit; null looks at this machine, where that is the one that trains."""
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
