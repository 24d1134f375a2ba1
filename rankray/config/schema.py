"""The whole configuration: its sections together, and the rules that join them.

The models are frozen and refuse unknown keys. The string under each field is its documentation: it feeds
`rankray explain`, the JSON schema and the errors. A field's dotted path (`loss.temperature`) is its name everywhere:
in YAML, with `--set`, in the search space, in the store and in logs.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from rankray.config.evaluation import EvaluateSection, natural_direction
from rankray.config.secrets import ADVICE, secret_paths
from rankray.config.sections import (
    DataSection,
    ModelSection,
    ResourcesSection,
    Section,
    TrainSection,
    once,
    unstorable,
)
from rankray.config.study import PUBLISHED, StudySection
from rankray.errors import shown
from rankray.loss.knobs import Knobs

if TYPE_CHECKING:
    from rankray.config.space import SearchSpace


DEFAULT_STORAGE = "./rankray-runs"


def default_store() -> str:
    """Return the store to use where none is given: RANKRAY_STORE, or a SQLite file in the current directory."""
    return os.environ.get("RANKRAY_STORE") or "sqlite:///rankray.db"


class Config(Section):
    """One file: fixed values, a `space:` that maps dotted paths to distributions, and a `study:`.

    >>> import rankray
    >>> data = {"train": "a/c:train", "eval": "a/c:test"}
    >>> config = rankray.load({"name": "x", "model": {"path": "a/b"}, "data": data})
    >>> isinstance(config, rankray.Config), config.data.train
    (True, 'a/c:train')
    """

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
    logging: list[Literal["wandb", "mlflow", "tensorboard", "trackio"]] = Field(default_factory=list)
    """Trackers that get a run per trial: any of `wandb`, `mlflow`, `tensorboard` and `trackio`. Their own settings and
    environment variables hold (WANDB_MODE, MLFLOW_TRACKING_URI, ...)."""
    storage: str = DEFAULT_STORAGE
    """Where checkpoints are kept: a directory that all nodes can reach, or `s3://bucket/prefix` or `gs://bucket/prefix`,
    with options such as `?region=eu-west-1`. Credentials come from each node's environment, profile or role, never from
    here."""

    _each_tracker_once = field_validator("logging")(once)

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
        endpoint = dict(parse_qsl(url.query)).get("endpoint_override", "")
        if not re.fullmatch(r"(https?://)?[A-Za-z0-9_.\[\]:-]+/?", endpoint or "none"):
            raise ValueError(
                "endpoint_override: got something that is no address, and is not shown here; allowed: HOST:PORT or "
                "http://HOST:PORT, without credentials; leave those to each node's environment, profile or role"
            )
        unknown = [name for name, _ in parse_qsl(url.query, keep_blank_values=True) if name not in STORAGE_OPTIONS]
        if unknown:
            raise ValueError(f"unknown option {shown(unknown[0])}; allowed: {', '.join(STORAGE_OPTIONS)}")
        return given

    @model_validator(mode="after")
    def _is_stored_whole(self) -> Config:
        """Refuse what JSON does not have, as which a study is stored: there, infinity would become null."""
        free = {"train": {"sft"}, "study": {"sampler", "pruner"}, "data": {"where"}}
        sources = [(f"data.{split}", getattr(self.data, split)) for split in ("train", "eval", "test")]
        parts = [(f"{name}.{key}", getattr(getattr(self, name), key)) for name, keys in free.items() for key in keys]
        parts += [
            (f"{path}.where", [each.where for each in given]) for path, given in sources if isinstance(given, list)
        ]
        for path, value in (odd for part in sorted(parts, key=lambda part: part[0]) for odd in unstorable(*part)):
            raise ValueError(
                f"{path}: got {shown(value)}; allowed: text, finite numbers, true, false, null, and lists and mappings "
                "of these; " + ("write a finite one" if isinstance(value, float) else "write it as text, in quotes")
            )
        return self

    @model_validator(mode="after")
    def _holds_no_secret(self) -> Config:
        """Refuse tokens, passwords and keys: the configuration is kept with its study, shown, and sent to workers."""
        found = next(secret_paths(self.model_dump(mode="json", exclude={"store"})), "")
        if found:
            raise ValueError(f"{found}: looks like a secret, which is not shown here; {ADVICE}")
        return self

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Config:
        """Refuse weighted and unmeasured metrics: a study must select on something its weights cannot change."""
        metric, measured = self.study.metric, self.evaluate.measured
        if metric in WEIGHTED_METRICS:
            raise ValueError(
                f"study.metric: {metric!r} is weighted by the very settings that are searched, so the search would "
                f"reward whatever shrinks the weights; choose from {', '.join(measured)}"
            )
        if metric not in measured and not (metric.startswith("eval/") and self.evaluate.functions):
            raise ValueError(
                f"study.metric: {shown(metric)} is not measured; allowed: {', '.join(measured)}; choose "
                "one of these, or add it to evaluate.metrics"
            )
        if self.study.direction is None and natural_direction(metric) is None:
            raise ValueError(f"study.direction: missing for {shown(metric)}; allowed: minimize, maximize; set one")
        return self

    @model_validator(mode="after")
    def _metrics_are_measured(self) -> Config:
        """Refuse several metrics of which one is weighted, not measured, or of no known direction."""
        names, measured = self.study.metrics, self.evaluate.measured
        if names and self.study.metric != names[0]:
            raise ValueError(
                f"study.metric: got {self.study.metric!r} beside study.metrics {names}; allowed: the first of them; "
                "leave study.metric out"
            )
        for name in names[1:]:
            own = name.startswith("eval/") and name not in WEIGHTED_METRICS and self.evaluate.functions
            if name not in measured and not own:
                raise ValueError(
                    f"study.metrics: {name!r} is not measured; allowed: {', '.join(measured)}; choose "
                    "from these, or add it to evaluate.metrics"
                )
            if natural_direction(name) is None:
                raise ValueError(
                    f"study.metrics: {name!r} has no known direction; allowed: one such metric, as the first, with "
                    "study.direction; put it first"
                )
        return self

    @model_validator(mode="after")
    def _prune_on_is_measured(self) -> Config:
        """Refuse to prune on what no report has."""
        metric, measured = self.study.prune_on, self.evaluate.measured
        if metric not in (*measured, self.study.metric) and not (
            metric.startswith("eval/") and metric not in WEIGHTED_METRICS and self.evaluate.functions
        ):
            raise ValueError(
                f"study.prune_on: {shown(metric)} is not measured; allowed: {', '.join(measured)}; "
                "choose one of these, or add it to evaluate.metrics"
            )
        return self

    @model_validator(mode="after")
    def _loss_is_finite(self) -> Config:
        """Refuse infinite settings, which `rankray.loss` takes: a study is stored as JSON, which has no infinity."""
        for name, value in self.loss:
            if isinstance(value, float) and math.isinf(value):
                raise ValueError(f"loss.{name}: got {value}; allowed: a finite number; set a very large one instead")
        return self

    @model_validator(mode="after")
    def _published_rates_are_of_adapters(self) -> Config:
        if PUBLISHED in self.study.warm_start and self.model.lora is None:
            raise ValueError(
                "study.warm_start: published are learning rates of adapters, and model.lora is null; allowed: with "
                "model.lora; set it, or name other points"
            )
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
        """Optimizer steps of a whole trial, through all its seeds; where they are searched, see `steps_with`."""
        return self.train.max_steps * self.study.seeds

    def steps_with(self, params: Mapping[str, Any]) -> int:
        """Return the optimizer steps of a whole trial with these values of the space, through all its seeds."""
        return int(params.get("train.max_steps", self.train.max_steps)) * self.study.seeds

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """The study's direction, with the built-in metrics' own as the default."""
        return self.study.direction or natural_direction(self.study.metric) or "maximize"

    def direction_of(self, metric: str) -> Literal["minimize", "maximize"]:
        """Return the direction of one of the study's metrics."""
        return self.direction if metric == self.study.metric else natural_direction(metric) or "maximize"

    @property
    def prune_direction(self) -> Literal["minimize", "maximize"]:
        """The direction of `study.prune_on`: the study's own where it is the study's metric, else the metric's."""
        metric = self.study.prune_on
        return self.direction if metric == self.study.metric else natural_direction(metric) or "maximize"


def unreached(config: Config) -> list[str]:
    """Return a line for each limit of the budget that ends nothing: money without prices, GPU-hours without GPUs."""
    budget, lines = config.study.budget, []
    if budget.money is not None and not budget.price:
        lines.append(
            "study.budget.money: nothing is counted without prices, so this limit ends nothing; give "
            "study.budget.price, as in {default: 1.5}, per node and hour"
        )
    if budget.gpu_hours is not None and not config.resources.gpus_per_worker:
        lines.append(
            "study.budget.gpu_hours: resources.gpus_per_worker is 0, so this limit ends nothing; set that, or use "
            "study.budget.wall_hours"
        )
    return lines


STORAGE_SCHEMES = ("s3", "gs", "abfs", "abfss")
STORAGE_OPTIONS = ("region", "scheme", "endpoint_override", "tls_ca_file_path", "project_id", "retry_limit_seconds")
WEIGHTED_METRICS = ("train/loss", "eval/loss", "eval_loss", "loss")
SEARCHABLE_SECTIONS = ("model", "data", "loss", "train")
"""Sections whose fields a space may vary; the others say how the search itself runs."""
FREE_FIELDS = (
    "study.trials",
    "study.budget",
    "study.keep_best",
    "study.max_failures_per_trial",
    "study.trial_timeout",
    "resources",
    "store",
    "storage",
    "logging",
    "train.threads",
    "train.micro_batch_size",
    "evaluate.batch_size",
    "data.streaming",
)
"""Fields that may differ when a study is opened again; all others are part of what the study is."""
