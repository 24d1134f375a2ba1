"""rankray for Python: what the command line does, with values in and out. Everything heavy is imported on use.

    config = rankray.load("search.yaml", {"study.trials": 12})
    rankray.check(config)
    study = rankray.search(config)
    study.best["params"]

A configuration is what `load` returns; each function also takes a path or a mapping. What a user can fix is raised as a
`rankray.errors.UserError` with the text the command line prints.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.config import Config, LoadedConfig, default_store, load_config
from rankray.config.load import load_mapping
from rankray.contracts import Outcome, TrialSpec
from rankray.errors import UserError

if TYPE_CHECKING:
    from rankray.contracts import Observer
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)

Given = Config | LoadedConfig | str | Path | Mapping[str, Any]
"""A configuration: what `load` returns, the path of a YAML file, or a mapping with its content."""


def load(path: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a YAML file, with `overrides` at their dotted paths.

    >>> import rankray
    >>> config = rankray.load(file, {"study.trials": 12, "train.learning_rate": 1e-4})
    >>> config.study.trials, config.train.learning_rate
    (12, 0.0001)

    Args:
        path: of the file, or a mapping with the content of one.
        overrides: dotted path -> value, as with `--set`.

    Raises:
        ConfigError: the file is missing or anything in it is wrong; lists every problem with `file:line`.
    """
    return _loaded(path, overrides).config


def check(config: Given) -> dict[str, Any]:
    """Find what is wrong with a configuration and its data, without starting anything.

    >>> import rankray
    >>> rankray.check(file)["ok"]
    True
    >>> rankray.check(rankray.load(file, {"data.train": "nowhere.jsonl"}))["errors"][0][:17]
    'demo: data.train:'

    Returns:
        `{"ok", "errors", "warnings", "data"}`, as `rankray check --json`: the errors are lines of `where: what was
        given; what is allowed; what to do`, the data the size of each split by its name.
    """
    from rankray.cli.common import fitted, preflight
    from rankray.cli.tracking import check_trackers
    from rankray.finetune.epochs import with_steps
    from rankray.finetune.preflight import leak_warnings

    try:
        loaded = _loaded(config)
        check_trackers(loaded)
        loaded = with_steps(loaded, download=True)
        findings = preflight(loaded, starts=False)
        fitted(loaded, findings)
    except UserError as error:
        return {"ok": False, "errors": str(error).splitlines(), "warnings": [], "data": {}}
    data = findings.sizes()
    warnings = [*findings.all_warnings, *leak_warnings(loaded)]
    return {"ok": True, "errors": [], "warnings": warnings, "data": data, "memory": findings.memory}


def search(config: Given, *, verbose: bool = False, show: bool = True) -> Study:
    """Search until the study holds its number of finished trials, and return it. Call it again to resume or extend.

    While it runs, a notebook shows a table that is updated; elsewhere, lines are printed to standard error.

    >>> import rankray
    >>> study = rankray.search(rankray.load(file, {"study.trials": 2}))
    >>> study.status["state"], len(study.trials)
    ('complete', 2)

    Args:
        config: what to search.
        verbose: show what Ray and the libraries print.
        show: show how far it is.

    Raises:
        UserError: something in it cannot work; nothing was started.
        SearchFailed: the search ran, and ended without doing what was asked.
    """
    from rankray.cli.common import board_of, fitted, preflight, require_result
    from rankray.cli.lineage import lineage
    from rankray.cli.pins import pin
    from rankray.cli.tracking import check_trackers, tracking
    from rankray.finetune.epochs import with_steps
    from rankray.report.notebook import watching_python
    from rankray.search import run_search
    from rankray.search.news import News
    from rankray.store import open_study

    loaded, asked = pin(_loaded(config))
    loaded = with_steps(loaded, download=True)
    check_trackers(loaded)
    findings = preflight(loaded, again=False)
    loaded = fitted(loaded, findings)
    made = lineage(loaded) if Path(loaded.file).is_file() else {}
    opened = open_study(loaded.config.store, loaded.config, provenance=findings.fingerprints | asked | made)
    shown: AbstractContextManager[Observer] = watching_python(board_of(opened)) if show else nullcontext(News())
    with shown as view, tracking(opened, loaded.config) as trackers:
        done = run_search(opened, News(view, *trackers), verbose=verbose)
    if not done:
        raise KeyboardInterrupt(f"interrupted at {opened.finished} of {opened.budget}; search again to resume")
    require_result(opened)
    return Study(opened.name, loaded.config.store)


def train(config: Given, *, checkpoint: str | None = None) -> Outcome:
    """Train one trial with the configuration's fixed values, in this process, without Ray.

    >>> import rankray
    >>> outcome = rankray.train(rankray.load(file, {"loss.temperature": 0.7}))
    >>> outcome.steps, sorted(outcome.metrics)[:1]
    (4, ['eval/nll'])

    Args:
        config: what to train.
        checkpoint: of an earlier call, to resume from.

    Returns:
        the last metrics, the steps done, and the directory of the last checkpoint.

    Raises:
        UserError: something in it cannot work; nothing was started.
    """
    from rankray.checkpoints import places, staging
    from rankray.checkpoints.retention import CheckpointRetention
    from rankray.cli.common import fitted, preflight
    from rankray.cli.pins import pin_run
    from rankray.cli.tracking import check_trackers, tracking_train
    from rankray.finetune import run
    from rankray.finetune.epochs import with_steps
    from rankray.report.training import LineReporter

    loaded = with_steps(pin_run(_loaded(config), checkpoint or ""), download=True)
    check_trackers(loaded)
    checked = fitted(loaded, preflight(loaded, alone=True), alone=True).config
    places.probe(checked.storage)
    with CheckpointRetention(checked.storage, f"{checked.name}/train") as retention:
        tree = checked.model_dump(mode="json") | {"space": {}}
        spec = TrialSpec(config=tree, directory=retention.directory(0), checkpoint=checkpoint)
        with tracking_train(checked, spec.directory, checkpoint) as reported:
            reporter = LineReporter(
                say=lambda line: None,
                max_steps=checked.full_steps,
                committed=lambda path: retention.committed(0, path),
                reported=reported,
            )
            return staging.train(run, spec, reporter)


def rehearse(
    config: Given,
    *,
    table: str | Path | None = None,
    strategies: Sequence[str] = ("file", "random"),
    slots: int = 1,
    seeds: int = 5,
    trials: int | None = None,
) -> list[dict[str, Any]]:
    """Run whole searches in virtual time, to see what a budget buys: on recorded runs, or on made-up curves.

    >>> import rankray
    >>> found = rankray.rehearse(file, seeds=1, trials=4)
    >>> [strategy["name"] for strategy in found]
    ['file', 'random']

    Args:
        config: what would be searched.
        table: csv or parquet with one row per setting, seed and step; None makes curves up.
        strategies: samplers, or sampler+pruner; `file` is the configuration's own.
        slots: trials at a time.
        seeds: searches per strategy and world.
        trials: finished trials per search; None takes the configuration's.

    Returns:
        for each strategy, as `rankray rehearse --json`, when it found the target, in full runs.

    Raises:
        UserError: the table cannot be read, or a strategy is unknown.
    """
    names = [strategies] if isinstance(strategies, str) else strategies
    for what, number in (("slots", slots), ("seeds", seeds), ("trials", trials)):
        if number is not None and number < 1:
            raise UserError(f"rehearse: {what} {number}; allowed: 1 or more; raise it")
    from rankray.cli.rehearse import SYNTHETIC_WORLDS
    from rankray.rehearse.summary import compare
    from rankray.rehearse.table import read_table
    from rankray.rehearse.worlds import synthetic_world, worlds_of
    from rankray.store.warm import rehearsed

    checked, left_out = rehearsed(_loaded(config).config)
    for line in left_out:
        logger.warning(line)
    worlds = (
        [synthetic_world(checked, seed) for seed in range(SYNTHETIC_WORLDS)]
        if table is None
        else worlds_of(read_table(Path(table), checked), checked)
    )
    done = compare(checked, worlds, names, slots=slots, seeds=seeds, trials=trials or checked.study.trials)
    return [each.to_json() for each in done]


def best(name: str, store: str | None = None) -> dict[str, Any] | None:
    """Return the best trial of a study, `{"number", "value", "params", ...}`; None where none is complete.

    >>> import rankray
    >>> rankray.best("demo", store=url)["number"] >= 0
    True

    Args:
        name: of the study.
        store: its URL; None takes RANKRAY_STORE, or the SQLite file in the current directory.

    Raises:
        StoreError: there is no such study.
    """
    return Study(name, store or default_store()).best


def trials(name: str, store: str | None = None) -> Any:
    """Return all trials of a study: a pandas DataFrame if pandas is installed, else a list of dicts.

    >>> import rankray
    >>> table = rankray.trials("demo", store=url)
    >>> sorted({"number", "state", "value", "loss.temperature"} - set(table.columns))
    []

    The columns are those of `rankray status`, with one more for each searched field, and one for each metric of the
    last report.

    Args:
        name: of the study.
        store: its URL; None takes RANKRAY_STORE, or the SQLite file in the current directory.
    """
    from rankray.store import looking, views

    with looking(store or default_store(), name) as study:
        rows, last = views.trials(study), views.last_metrics(study)
    flat = [
        {**{k: v for k, v in row.items() if k not in ("params", "metrics")}, **row["params"], **last[row["number"]]}
        for row in rows
    ]
    try:
        import pandas
    except ImportError:
        return flat
    return pandas.DataFrame(flat)


class Study:
    """A study in a store, to look at.

    >>> import rankray
    >>> study = rankray.TrialStore(url)["demo"]
    >>> study.status["trials"]["complete"] + study.status["trials"]["pruned"] == len(study.trials)
    True
    >>> study.confirmed is None  # until `rankray confirm demo` has chosen a trial
    True

    Args:
        name: of the study.
        store: URL of the store; it may hold a password, and is never shown.

    Raises:
        StoreError: there is no such study, or the URL is wrong.
    """

    def __init__(self, name: str, store: str) -> None:
        self.name, self._url = name, store
        with self._study():
            pass  # a name that is none is refused now, and not at the first question

    def __repr__(self) -> str:
        return f"<rankray study {self.name}>"

    @property
    def config(self) -> Config:
        """What the study was begun with."""
        with self._study() as study:
            config: Config = study.config
        return config

    @property
    def status(self) -> dict[str, Any]:
        """How far it is, as `rankray status --json`."""
        from rankray.store import views

        with self._study() as study:
            return views.status(study)

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial, or None where none is complete."""
        from rankray.store import views

        with self._study() as study:
            return views.best(study)

    @property
    def confirmed(self) -> dict[str, Any] | None:
        """The trial that `rankray confirm` chose on new seeds, with its `verdicts`, or None; see `views.confirmed`."""
        from rankray.store import views

        with self._study() as study:
            return views.confirmed(study)

    @property
    def trials(self) -> list[dict[str, Any]]:
        """All trials, in the order of their numbers."""
        from rankray.store import views

        with self._study() as study:
            return views.trials(study)

    def trial(self, number: int) -> dict[str, Any]:
        """Return one trial with every report, as `rankray show --json`."""
        from rankray.store import views

        with self._study() as study:
            return views.trial(study, number)

    def _study(self) -> AbstractContextManager[StudyStore]:
        from rankray.store import looking

        looked: AbstractContextManager[StudyStore] = looking(self._url, self.name)
        return looked


class TrialStore(Mapping[str, "Study"]):
    """A trial store and its studies, to look at: a mapping from name to `Study`.

    >>> import rankray
    >>> list(rankray.TrialStore(url))
    ['demo']

    Args:
        url: `sqlite:///...`, `postgresql://...` and so on; None takes RANKRAY_STORE, or the SQLite file in the current
            directory.

    Raises:
        StoreError: the URL is wrong.
    """

    def __init__(self, url: str | None = None) -> None:
        from rankray.store import validate_url

        self._url = url or default_store()
        validate_url(self._url)

    def __iter__(self) -> Any:
        from rankray.store import list_studies

        return iter(sorted(list_studies(self._url)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in iter(self)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a study, or `default` where there is none of this name."""
        return self[name] if name in iter(self) else default

    def __getitem__(self, name: str) -> Study:
        return Study(name, self._url)


def _loaded(given: Given, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    if isinstance(given, LoadedConfig):
        return given
    if isinstance(given, Config):
        return LoadedConfig(given, given.name)
    if isinstance(given, Mapping):
        return load_mapping(given, overrides or {})
    return load_config(given, overrides or {})
