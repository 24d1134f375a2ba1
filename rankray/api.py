"""rankray for Python: what the command line does, with values in and out. Everything heavy is imported on use.

    config = rankray.load("search.yaml", {"study.trials": 12})
    rankray.check(config)
    study = rankray.search(config)
    study.best["params"]

What a search has found, and what is done with it, is in `rankray.studies`. A configuration is what `load` returns; each
function also takes a path or a mapping. What a user can fix is raised as a `rankray.errors.UserError` with the text the
command line prints.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankray.config import Config, LoadedConfig, load_config
from rankray.config.load import load_mapping
from rankray.contracts import Outcome
from rankray.errors import UserError, as_arguments, in_python, shown
from rankray.studies import Study, url_of, watched

logger = logging.getLogger(__name__)

Given = Config | LoadedConfig | str | Path | Mapping[str, Any]
"""A configuration: what `load` returns, the path of a YAML file, or a mapping with its content."""


@as_arguments()
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
    return _remembered(_loaded(path, overrides))


def check(config: Given) -> dict[str, Any]:
    """Find what is wrong with a configuration and its data, without starting anything.

    >>> import rankray
    >>> rankray.check(file)["ok"]
    True
    >>> rankray.check(rankray.load(file, {"data.train": "nowhere.jsonl"}))["errors"][0][:22]
    'overrides: data.train:'

    Returns:
        `{"ok", "errors", "warnings", "data"}` and more, as `rankray check --json`: the errors are lines of `where: what
        was given; what is allowed; what to do`, the data the size of each split by its name.
    """
    from rankray.cli.plan import accepted, looked_at, refused

    try:
        return accepted(*looked_at(_loaded(config)))
    except UserError as error:
        return refused(UserError(in_python(str(error))))


@as_arguments()
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
    from rankray.cli.common import require_result
    from rankray.cli.search import begun
    from rankray.search import run_search

    loaded, opened = begun(_loaded(config), _tell)
    done = False
    try:
        with watched(opened, loaded.config, show) as observer:
            done = run_search(opened, observer, verbose=verbose)
    except KeyboardInterrupt:
        if not (done or opened.done):
            raise
        logger.debug("interrupted after the last trial: the search is complete")
    else:
        if not done:
            raise KeyboardInterrupt(f"interrupted at {opened.finished} of {opened.budget}; search again to resume")
    require_result(opened)
    return Study(opened.name, loaded.config.store)


@as_arguments()
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
        StorageError: a checkpoint cannot be written; its text says from which one to resume.
        KeyboardInterrupt: it was interrupted; its text says from which checkpoint to resume.
    """
    from rankray.cli.train import trained

    def left(last: str | None) -> str:
        resuming = f"rankray.train(config, checkpoint={last!r}) resumes" if last else "nothing was saved"
        return f"interrupted; {resuming}"

    def interrupted() -> None:
        _tell("warning: stopping: saving a checkpoint after the present step; a second interruption stops at once")

    return trained(_loaded(config), checkpoint or "", _tell, interrupted, left)


@as_arguments()
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
        if (type(number) is not int or number < 1) and (what, number) != ("trials", None):
            raise UserError(f"rehearse: {what} {shown(number)}; allowed: 1 or more, whole; correct it")
    if not isinstance(names, Sequence) or not names or not all(isinstance(each, str) for each in names):
        raise UserError(
            f"rehearse: strategies {shown(strategies)}; allowed: names of samplers, sampler+pruner or file, in a list; "
            "correct it"
        )
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
    return Study(name, url_of(store)).best


@as_arguments()
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

    with looking(url_of(store), name) as study:
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


def _tell(line: str) -> None:
    """Pass on what the command line prints: warnings are shown, everything else with RANKRAY_LOG=debug."""
    warning = line.removeprefix("warning: ")
    logger.log(logging.DEBUG if warning == line else logging.WARNING, "%s", warning)


_READ: dict[int, tuple[str, dict[Any, str], dict[str, str]]] = {}
"""Where the values of each configuration that `load` returned were written, by its id, for as long as it lives."""


def _remembered(loaded: LoadedConfig) -> Config:
    """Return the configuration; what is wrong with it later is said with the file and line that it came from."""
    known = id(loaded.config)
    _READ[known] = loaded.file, loaded.places, loaded.written
    weakref.finalize(loaded.config, _READ.pop, known, None)
    return loaded.config


def _loaded(given: Given, overrides: Mapping[str, Any] | None = None) -> LoadedConfig:
    if isinstance(given, LoadedConfig):
        return given
    if isinstance(given, Config):
        file, places, written = _READ.get(id(given), (given.name, {}, {}))
        return LoadedConfig(given, file, places, written)
    if isinstance(given, Mapping):
        return load_mapping(given, overrides or {})
    return load_config(given, overrides or {})
