"""What several verbs do: load a configuration, check it, print."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from rankray.config import LoadedConfig
    from rankray.finetune.preflight import Findings
    from rankray.report.board import Board
    from rankray.store import StudyStore


logger = logging.getLogger(__name__)


def load(file: Path, sets: list[str], store: str = "", name: str = "") -> LoadedConfig:
    """Read a configuration with the command line's overrides.

    Raises:
        ConfigError: see `load_config`.
    """
    from rankray.config import load_config

    overrides = [*sets, *([f"store={json.dumps(from_environment(store))}"] if store else [])]
    loaded = load_config(file, overrides, name or None)
    if store:  # how it was given, not how it is passed on
        loaded.places[("store",)] = "--store"
    return _counted(loaded)


def _counted(loaded: LoadedConfig) -> LoadedConfig:
    """Return the configuration with the steps of `train.epochs`, where they can be counted without a download."""
    if loaded.config.train.epochs is None:
        return loaded
    from rankray.finetune.epochs import with_steps

    return with_steps(loaded)


def preflight(
    loaded: LoadedConfig, offline: bool = False, again: bool = True, alone: bool = False, starts: bool = True
) -> Findings:
    """Find what is wrong with store, resources, data and model before anything expensive starts.

    Args:
        loaded: the configuration.
        offline: import none of the libraries of training, and look nothing up on the hub; what is not looked at is
            among the findings.
        again: check what passed before, too: see `check_training`.
        alone: one process of this machine trains, whatever the configuration says of workers.
        starts: whether trials start now, and not perhaps elsewhere: see `check_machine`.

    Raises:
        UserError: something in it cannot work.
    """
    from rankray.cluster.environment import starts_ray
    from rankray.cluster.machine import check_machine
    from rankray.errors import StoreError
    from rankray.finetune.preflight import preflight as check_data_and_model
    from rankray.store import strategies
    from rankray.store.urls import validate_url

    try:
        validate_url(loaded.config.store)
    except StoreError as error:
        raise StoreError(f"{loaded.where('store')}: {error}") from None
    _check_storage(loaded, alone)
    strategies.check(loaded.config, loaded.where)
    _check_workers(loaded)
    elsewhere = alone or not starts_ray()
    warnings = [] if elsewhere else check_machine(loaded, starts)
    findings = check_data_and_model(loaded)
    findings.warnings += warnings
    if not (offline or alone):
        _check_earlier(loaded, findings)
    if offline:
        findings.unseen.append("--offline: the hub, the sampler at work, train.sft's values, adapters, functions")
    else:
        check_training(loaded, findings, again)
    return findings


def _check_earlier(loaded: LoadedConfig, findings: Findings) -> None:
    from rankray.errors import StoreError, StoreUnavailable
    from rankray.store.warm import check_before

    try:
        check_before(loaded.config)
    except StoreUnavailable as error:
        findings.unseen.append(f"study.warm_start: the store does not answer: {error}")
    except StoreError as error:
        raise StoreError(f"{loaded.where('study.warm_start')}: {error}") from error


def fitted(loaded: LoadedConfig, findings: Findings, alone: bool = False) -> LoadedConfig:
    """Estimate the memory of a trial, and return the configuration with a micro batch that fits.

    Args:
        loaded: the configuration.
        findings: what `preflight` found; the estimate, notes and warnings are added.
        alone: one process of this machine trains, whatever the configuration says of workers.

    Raises:
        ConfigError: a trial cannot fit.
    """
    from rankray.cluster.environment import starts_ray
    from rankray.finetune.memory_check import check_memory, split_to_fit

    check_memory(loaded, findings, trains_here=alone or starts_ray(), alone=alone)
    return split_to_fit(loaded, findings)


def check_training(loaded: LoadedConfig, findings: Findings, again: bool = True) -> None:
    """Check what needs the libraries of training, with the code that trials run.

    Args:
        loaded: the configuration.
        findings: those of its data and model; what is found is added.
        again: check what passed before, too. Else a configuration that passed on this node is not checked again, as
            long as neither it nor its files nor what is installed has changed (`finetune.passed`).

    Raises:
        UserError: a trial would be refused.
    """
    from rankray.finetune import passed
    from rankray.finetune.preflight import UNREAD, Findings, check_functions
    from rankray.store import strategies

    strategies.try_out(loaded.config, loaded.where)
    check_functions(loaded)
    key = passed.key_of(loaded.config, findings.fingerprints)
    found = passed.recall(key) if key and not again else None
    if found is None:
        from rankray.finetune.trial_check import check_trial

        found = Findings(data=dict(findings.data))
        check_trial(loaded, found)
        if key:
            passed.remember(key, found)
    read = {UNREAD.format(split) for split in ("train", "eval")}
    findings.data.update(found.data)
    findings.left_out.update(found.left_out)
    findings.notes += found.notes
    findings.warnings += found.warnings
    findings.unseen = [line for line in findings.unseen if line not in read] + found.unseen


def _check_storage(loaded: LoadedConfig, alone: bool) -> None:
    """Refuse a storage on this machine in which nothing can be made; every node is tried when a search starts."""
    from rankray.checkpoints import places
    from rankray.checkpoints.retention import refuse_links
    from rankray.errors import StorageError

    storage = loaded.config.storage
    if places.is_remote(storage):
        places.patience_seconds()  # of no number, the first upload would say so
        return
    place = places.join(storage, loaded.config.name, *(["train"] if alone else []))
    if why := places.obstacle(place):
        raise StorageError(
            f"{loaded.where('storage')}: storage: {storage}: {why}; allowed: a directory that you may write, or one "
            "that can be made; choose another"
        )
    try:
        refuse_links(storage, place)
    except StorageError as error:
        raise StorageError(f"{loaded.where('storage')}: {error}") from None


def _check_workers(loaded: LoadedConfig) -> None:
    """Refuse numbers of workers over which a batch does not divide."""
    from rankray.errors import ConfigError

    resources, train = loaded.config.resources, loaded.config.train
    least, most = resources.worker_range
    if most > 1 and train.parallelism == "fsdp" and not resources.gpus_per_worker:
        raise ConfigError(
            f"{loaded.where('train.parallelism')}: train.parallelism: fsdp without GPUs; allowed without is ddp; set "
            "it, or resources.gpus_per_worker"
        )
    batch = train.batch_size
    uneven = [workers for workers in range(least, most + 1) if batch % workers]
    if uneven and "train.batch_size" not in loaded.config.space:
        raise ConfigError(
            f"{loaded.where('resources.workers')}: resources.workers: {batch} examples of train.batch_size do not "
            f"divide over {uneven[0]} workers; allowed are numbers that divide it, all from the least to the most; "
            "change one of the two"
        )


def store_url(given: str) -> str:
    """Return the store that a verb without a configuration looks at: the one given, RANKRAY_STORE or the default.

    The path of a file is absolute: a command that is printed with it works in any directory.
    """
    from rankray.config import default_store
    from rankray.paths import resolved_url

    url = from_environment(given) or default_store()
    try:
        return resolved_url(url)
    except ValueError:  # it is refused, and said why, where it is opened
        logger.debug("store: a path that cannot be resolved", exc_info=True)
        return url


def attached(store: str, study: str) -> StudyStore:
    """Return a study to look at; what is missing because it is malformed is said on standard error."""
    from rankray.config.lenient import unfit
    from rankray.store import attach

    held = attach(store_url(store), study)
    for line in filter(None, [held.storage.left_out, unfit(held.name, held.refused)]):
        say(line, to_stderr=True)
    return held


def from_environment(given: str) -> str:
    """Return a store URL; `env:NAME` stands for the value of that variable, which no list of processes shows.

    Raises:
        StoreError: the variable is not set.
    """
    from rankray.errors import StoreError

    if not given.startswith("env:"):
        return given
    found = os.environ.get(given.removeprefix("env:"))
    if not found:
        raise StoreError(f"store: {given}: there is no such variable, or it is empty; set it, or give a URL")
    return found


def require_result(study: StudyStore) -> None:
    """Refuse to call a search done that has ended without one complete trial.

    Raises:
        SearchFailed: there is none; says what to do.
    """
    from rankray.errors import SearchFailed

    counts, end = study.counts(), study.ended
    if counts.complete:
        return
    by = "" if end is None else end.by
    limit = "study.trials" if by in ("", "trials") else f"study.budget.{by}"
    todo = f"raise {limit} and run the same command again to continue"
    if by == "space":
        todo = "widen the space under another name"
    shorter = "set study.pruner: none" if counts.pruned else "make a trial shorter with train.max_steps"
    raise SearchFailed(
        f"study {study.name}: no trial is complete, so there is no result ({counts.pruned} pruned, {counts.failed} "
        f"failed): it was ended by {limit if by != 'space' else 'its space'}: {end.reason if end else 'it is done'}; "
        f"{todo}, or {shorter}"
    )


def print_summary(study: StudyStore, file: str = "") -> None:
    """Print what a study has found, and how to train the best again: from a file that is named here, or the stored."""
    from rankray.report.tables import summary
    from rankray.store import views
    from rankray.store.origin import origin

    made, best, confirmed = origin(study), views.best(study), views.confirmed(study)
    summary(
        console(),
        origin={**made, "file": file or made["file"]},
        metric=study.config.study.metric,
        best=best,
        objectives=views.objectives(study),
        status=views.status(study),
        confirmed=confirmed,
        recommended=views.to_use(best, confirmed),
        alike=views.alike(study),
        untried=views.untried(study),
    )


def board_of(study: StudyStore) -> Board:
    """Return a board that says how far a study is, to be watched while it goes on."""
    from rankray.report.board import Board
    from rankray.store import views

    config, counts = study.config, study.counts()
    board = Board(
        config.name,
        config.study.metric,
        maximize=config.direction == "maximize",
        budget=config.study.trials,
        max_steps=config.full_steps,
        finished=study.finished,
        also=config.study.metrics[1:],
        seeds=config.study.seeds,
    )
    board.counts = {"complete": counts.complete, "pruned": counts.pruned, "failed": counts.failed}
    if found := views.best(study):
        board.best = (found["number"], found["value"], found["params"])
    board.directions = {name: config.direction_of(name) for name in config.study.metrics}
    board.seen, board.points_left = study.seen, study.points_left
    board.alike = views.alike(study)
    board.untrained = (views.untrained(study) or {}).get("value")
    return board


def console() -> Console:
    """Return a console on standard output; 120 columns wide where that is no terminal."""
    from rich.console import Console

    return Console(emoji=False, soft_wrap=False, width=None if sys.stdout.isatty() else 120)


def check_output(path: Path | None, option: str, *endings: str) -> None:
    """Refuse a file to write that cannot be written, or is something else, before anything is worked out.

    Args:
        path: the file; None where none was asked for.
        option: what names it, as `store export: --csv`.
        endings: how the name of a file ends that may be overwritten; what is no plain file (`/dev/stdout`) always may.

    Raises:
        UserError: its directory is not there or may not be written to, or another file is there.
    """
    from rankray.errors import UserError

    if path is None or path.is_relative_to("/dev") or (path.exists() and not (path.is_file() or path.is_dir())):
        return
    where = f"{option} {path}"
    if path.is_dir():
        raise UserError(f"{where}: is a directory; allowed: a file; give one in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        there = "may not be written to" if path.parent.is_dir() else f"there is no directory {path.parent}"
        raise UserError(f"{where}: {there}; allowed: a file in a directory that you may write; choose another")
    if path.exists() and path.suffix.lower() not in endings:
        may = f"a new file, or one that ends with {' or '.join(endings)}" if endings else "a new file"
        raise UserError(f"{where}: another file is there, and would be overwritten; allowed: {may}; choose another")


def check_directory(path: Path, option: str) -> None:
    """Refuse a directory that cannot be made or written to, before anything is worked out.

    Raises:
        UserError: it cannot, or a file is there.
    """
    from rankray.errors import UserError

    there = next((each for each in (path, *path.absolute().parents) if each.exists()), Path("/"))
    try:
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is no directory")
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(f"{path} may not be written to")
    except OSError as error:
        why = error.strerror or str(error)
        raise UserError(
            f"{option} {path}: cannot be made or written to ({why}); allowed: a directory that you may write; choose "
            "another"
        ) from error


def refuse_both(verb: str, given: Mapping[str, bool]) -> None:
    """Refuse options that ask for different things, of which one would be passed over.

    Raises:
        UserError: more than one is given.
    """
    from rankray.errors import UserError

    if sum(given.values()) > 1:
        names = " and ".join(name for name, is_given in given.items() if is_given)
        raise UserError(f"{verb}: {names} ask for different outputs; allowed: one of them; leave the other out")


def say(line: str, to_stderr: bool = False) -> None:
    """Print a line at once."""
    print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)


def print_json(value: Any) -> None:
    """Print plain types as one line of JSON, which knows no NaN and no infinity: null stands for both."""
    print(json.dumps(_finite(value), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
