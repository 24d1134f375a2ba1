"""The section of a configuration that says how a model is judged: `evaluate:`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rankray.config.sections import PositiveInt, Section, once
from rankray.errors import shown
from rankray.loss.knobs import Positive

METRICS = ("nll", "bits_per_byte", "token_accuracy", "accuracy")
"""Metrics of one name; `pass@k` and `avg@k` exist for every k."""
MOST_ANSWERS = 10_000
"""The largest k of `pass@k`, and the most answers sampled for each example: every one of them is generated."""
SAMPLED = r"(pass|avg)@([1-9]\d*)"
ALSO_METRICS = ("nll", "bits_per_byte", "token_accuracy", "accuracy", "accuracy_norm")


def is_sampled(metric: str) -> bool:
    """Whether a metric, with or without `eval/` and the name of a set before it, needs sampled answers."""
    return bool(re.fullmatch(SAMPLED, metric.rsplit("/", 1)[-1]))


def is_over_tokens(metric: str) -> bool:
    """Whether a metric is a mean over the tokens of given texts, so that two models differ by less than its error."""
    return metric.rsplit("/", 1)[-1] in ("nll", "bits_per_byte", "token_accuracy")


def natural_direction(metric: str) -> Literal["minimize", "maximize"] | None:
    """Return the direction in which a built-in metric is better, or None for one that is not built in."""
    name = metric.rsplit("/", 1)[-1]
    if not metric.startswith("eval/"):
        return None
    if name in ("nll", "bits_per_byte"):
        return "minimize"
    return "maximize" if name in (*METRICS, *ALSO_METRICS) or is_sampled(name) else None


class RungsSection(Section):
    """What is measured before the last step of a run, at the evaluations that only prune."""

    answers: Annotated[int, Field(ge=0)] | None = None
    """Examples that get greedy answers before the last step, always the same first ones; null takes all, 0 none."""
    sampled: bool = True
    """Whether `pass@k` and `avg@k` are measured before the last step too."""


class AlsoSection(Section):
    """A further set to evaluate on, reported as `eval/<its name>/<metric>`."""

    data: str = Field(min_length=1)
    """Its examples: `hub-id:config:split`, or the path of a .jsonl, .json, .parquet or .csv file."""
    prompt: str = "{prompt}"
    """Template over its columns for the model's input."""
    completion: str = "{completion}"
    """Template over its columns for the reference; not used with `choices`."""
    messages: str | None = None
    """Column of chat messages, as `data.messages`. Replaces the templates; not with `choices`."""
    chat: bool = False
    """Render prompt and completion with the model's chat template, as turns of the user and the assistant, as
    `data.chat` does; a choice is then what the assistant says."""
    choices: str | None = None
    """Column that lists the choices: texts, or `{text: [...], label: [...]}`. The most likely one is the answer, and
    nothing is generated."""
    label: str = "answerKey"
    """Column that says which choice is right: its index from 0, its label, or its text."""
    metrics: list[str] = Field(default_factory=lambda: ["accuracy"])
    """With `choices`: `accuracy` and `accuracy_norm` (by likelihood per byte). Else any of `nll`, `bits_per_byte`,
    `token_accuracy` and `accuracy`."""
    answer: str = "auto"
    """As `evaluate.answer`."""
    max_examples: PositiveInt | None = 200
    """Examples used, the first ones; null takes all."""

    @model_validator(mode="after")
    def _metrics_fit(self) -> AlsoSection:
        if self.choices and self.messages:
            raise ValueError(
                f"got messages {self.messages!r} beside choices; allowed: one of them; name the columns of the "
                "question in prompt, with chat: true for the model's chat template"
            )
        allowed = ("accuracy", "accuracy_norm") if self.choices else METRICS
        for name in self.metrics:
            if name not in allowed:
                raise ValueError(f"unknown metric {name!r}; allowed here: {', '.join(allowed)}; choose from these")
        once(self.metrics)
        return self


class EvaluateSection(Section):
    """What is measured on the held-out examples, and how often."""

    every_steps: PositiveInt = 25
    """Steps between evaluations: each is a report, and a chance to prune."""
    metrics: list[str] = Field(default_factory=lambda: ["nll"])
    """Any of `nll`, `bits_per_byte`, `token_accuracy`, `accuracy` (greedy answer), `pass@k` (the chance that one of k
    sampled answers is right, estimated from `samples`) and `avg@k` (the mean over k sampled answers). Beside each stand
    its `_stderr`, clustered by example, and its `_n`, the number of examples."""
    max_examples: PositiveInt | None = 200
    """Held-out examples used, the first ones; null takes all."""
    batch_size: PositiveInt = 32
    """Examples per evaluation batch."""
    max_new_tokens: PositiveInt = 128
    """Longest answer that is generated, in tokens."""
    answer: str = "auto"
    """When two answers are the same. `auto`: what follows `####`, the content of `\\boxed{}` or `<answer>`, else the
    last number, else all of it; refuses references with LaTeX that it would misread. `math`: LaTeX, fractions, sets,
    intervals, units, by math-verify. What stands before `</think>` counts for neither. `text`: all of it, stripped.
    A regular expression with one group, of which the last that is not empty counts. `module:function`: your own, called
    with (text, reference). `code`: the answer is a program that passes the tests in `program`."""
    samples: Annotated[PositiveInt, Field(le=MOST_ANSWERS)] | None = None
    """Answers sampled per example for `pass@k` and `avg@k`, 10,000 at most; null takes the largest k. More than k make
    `pass@k` more precise."""
    sampling_temperature: Positive = 1.0
    """Logit temperature of the sampled answers."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the sampled answers: all trials and steps draw with the same random numbers."""
    rungs: RungsSection = RungsSection()
    engine: str | None = None
    """Who generates the answers; null generates in this process. `module:function` is called with (model, tokenizer,
    prompts, options) and returns a list of texts for each prompt. The URL of an OpenAI-compatible server
    (`http://host:8000/v1`) is for `rankray evaluate` of a checkpoint that it serves."""
    also: dict[str, AlsoSection] = Field(default_factory=dict)
    """Further sets by name, each with its own data, prompt and metrics, reported as `eval/<name>/<metric>`."""
    functions: list[str] = Field(default_factory=list)
    """Evaluations of your own, `module:function`: called with (model, tokenizer, rows), returning a dict of floats that
    appear as `eval/<key>`. Rows have the columns of the data; `prompt` and `completion` are the texts where the data
    have no such columns."""
    program: str = "{answer}\n{test}"
    """With `answer: code`: template of the program that is run, over the columns of the data and `answer`, the code in
    the model's answer. It is right where the program ends with exit code 0."""
    allow_code_execution: bool = False
    """Run programs that the model wrote, in a sandbox. Leave it off unless you know what that means."""
    code_seconds: Positive = 10.0
    """With `answer: code`: seconds of wall time and CPU time that a program may take."""

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in METRICS and not is_sampled(name):
                raise ValueError(
                    f"unknown metric {name!r}; allowed: {', '.join(METRICS)}, pass@k and avg@k (as in pass@4); choose "
                    "from these"
                )
            if is_sampled(name) and cls.k_of(name) > MOST_ANSWERS:
                raise ValueError(
                    f"got {shown(name)}, for which k answers would be sampled for every example; allowed: a k of at "
                    f"most {MOST_ANSWERS}; lower it"
                )
        return once(names)

    @field_validator("functions")
    @classmethod
    def _function_form(cls, names: list[str]) -> list[str]:
        for name in names:
            if not re.fullmatch(r"[\w.]+:\w+", name):
                raise ValueError(f"got {name!r}; allowed: module:function; as in my_package.my_module:name")
        return once(names)

    @field_validator("engine")
    @classmethod
    def _engine_form(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[\w.]+:\w+|https?://\S+", name):
            raise ValueError(f"got {name!r}; allowed: module:function, or http(s)://host:port/v1; correct the name")
        return name

    @field_validator("also")
    @classmethod
    def _names_of_sets(cls, sets: dict[str, AlsoSection]) -> dict[str, AlsoSection]:
        for name in sets:
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ValueError(f"a set named {name!r}; allowed: letters, digits, _ and -; rename it")
        return sets

    @model_validator(mode="after")
    def _samples_suffice(self) -> EvaluateSection:
        largest = max([self.k_of(name) for name in self.metrics if is_sampled(name)], default=0)
        if self.samples is not None and self.samples < largest:
            raise ValueError(
                f"got samples {self.samples}; allowed: at least {largest}, the largest k of the metrics; raise it"
            )
        codes = [self.answer, *(each.answer for each in self.also.values())]
        if "code" in codes and not self.allow_code_execution:
            raise ValueError(
                "answer: code runs programs that the model writes; allowed only with allow_code_execution: true; set "
                "it if you accept that"
            )
        return self

    @staticmethod
    def k_of(metric: str) -> int:
        """Return the k of `pass@k` or `avg@k`."""
        return int(metric.rsplit("@", 1)[1])

    @property
    def measured(self) -> list[str]:
        """The names of all built-in metrics that are reported, errors and counts left out."""
        also = [f"eval/{name}/{metric}" for name, each in self.also.items() for metric in each.metrics]
        return list(dict.fromkeys(["eval/nll", *(f"eval/{name}" for name in self.metrics), *also]))
