"""The trackers of a search, of a confirmation and of `rankray train`, from `logging:`.

A `train` run has an id of its own, the name of the directory that it writes to. One that resumes from its checkpoint
writes to a new directory, and leaves a note there of the id that it continues.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.cli.common import say
from rankray.paths import temporary_directory

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.contracts import Observer, Report
    from rankray.report.tracking import TrackerThread
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
NOTE, FILE = "tracking", "run-id"
"""The directory and the file in it, beside the checkpoints of a `train` run that was resumed, with the run's id."""


def check_trackers(loaded: LoadedConfig) -> None:
    """Refuse trackers that are not installed, before anything starts.

    Raises:
        ConfigError: names the first one, and what to install.
    """
    from rankray.report.tracking import check

    check(loaded.config.logging, loaded.where("logging"))


@contextmanager
def tracking(study: StudyStore, config: Config, say: Say = say) -> Iterator[list[Observer]]:
    """Yield the observers that log the trials of a study; files are written beside its checkpoints.

    Args:
        study: the study, of a search or of a confirmation.
        config: names the trackers.
        say: told that a tracker failed.
    """
    if not config.logging:
        yield []
        return
    from rankray.report.tracking import TrackingObserver

    observer = TrackingObserver(
        study.name, study.identity, _trackers(config, say), history=lambda number: _history(study, number)
    )
    try:
        yield [observer]
    finally:
        observer.close()


@contextmanager
def tracking_train(
    config: Config, directory: str, checkpoint: str | None, say: Say = say
) -> Iterator[Callable[[Report], None]]:
    """Yield what logs each report of a `train` run, which ends with the block.

    Args:
        config: what is trained.
        directory: where it writes its checkpoints.
        checkpoint: what it resumes from, or None.
        say: told that a tracker failed.
    """
    if not config.logging:
        yield lambda report: None
        return
    from rankray.checkpoints.retention import step_of
    from rankray.report.tracking import TrackingObserver

    known = _run_id(directory, checkpoint)
    observer = TrackingObserver(f"{config.name}.train", known, _trackers(config, say), lambda number: f"run-{known}")
    before = step_of(checkpoint) - 1 if checkpoint else 0  # the run reports the step of its checkpoint again
    observer.started(0, _settings(config), "train", before, checkpoint)
    try:
        yield lambda report: observer.reported(0, report)
        observer.ended(0, "complete", None, "")
    except Exception as error:
        observer.ended(0, "failed", None, f"{type(error).__name__}: {error}")
        raise
    finally:
        observer.close()


def _history(study: StudyStore, number: int) -> list[Report]:
    """Return what a trial has reported so far; nothing where the store does not answer."""
    from rankray.contracts import Report
    from rankray.errors import RankrayError
    from rankray.store.records import steps_of

    try:
        trial = study.find(number)
    except RankrayError as error:
        logger.debug("the history of trial %d is unknown, and trackers may lack some of it: %s", number, error)
        return []
    return [] if trial is None else [Report(step, record.metrics) for step, record in steps_of(trial).items()]


def _trackers(config: Config, say: Say) -> list[TrackerThread]:
    """Return the trackers; those that write files write beside the checkpoints, if these are on a disk."""
    from rankray.checkpoints.places import is_remote
    from rankray.report.tracking import make_trackers

    directory = Path() if is_remote(config.storage) else Path(config.storage)
    return make_trackers(config.logging, directory.absolute(), say)


def _settings(config: Config) -> dict[str, Any]:
    """Return what is trained, dotted path to value; neither the store nor a place."""
    found: dict[str, Any] = {}

    def walk(path: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                walk(f"{path}.{key}", value)
        elif node is not None:
            found[path] = node if isinstance(node, bool | int | float | str) else json.dumps(node)

    for section, tree in config.model_dump(mode="json", include={"model", "data", "loss", "train"}).items():
        walk(section, tree)
    return found


def _run_id(directory: str, checkpoint: str | None) -> str:
    """Return the id of the run that is begun in a directory, or continued there from a checkpoint of another one."""
    own, before = _launch(directory), _parent(checkpoint or "")
    if not re.fullmatch(r"[0-9a-f]{8}", _launch(before)):  # no checkpoint, or one that was moved elsewhere
        return own
    known = _noted(before) or _launch(before)
    _note(directory, known)
    return known


def _launch(place: str) -> str:
    return place.partition("?")[0].rstrip("/").rpartition("/")[2]


def _parent(place: str) -> str:
    path, mark, options = place.partition("?")
    return path.rstrip("/").rpartition("/")[0] + mark + options


def _noted(place: str) -> str:
    """Return the id in a directory's note, or an empty string."""
    from rankray.checkpoints import places

    if NOTE not in places.names(place):
        return ""
    with temporary_directory("rankray-note-") as scratch:
        note = Path(places.join(place, NOTE))
        if places.is_remote(place):
            note = scratch / NOTE
            places.download(places.join(place, NOTE), note)
        return (note / FILE).read_text(encoding="utf-8").strip()


def _note(place: str, known: str) -> None:
    from rankray.checkpoints import places

    with temporary_directory("rankray-note-") as scratch:
        remote = places.is_remote(place)
        directory = scratch if remote else Path(places.join(place, NOTE))
        directory.mkdir(parents=True, exist_ok=True)
        (directory / FILE).write_text(known, encoding="utf-8")
        if remote:
            places.upload(directory, places.join(place, NOTE))
