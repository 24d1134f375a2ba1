"""The trackers of a search, from its `logging:`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rankray.cli.common import say

if TYPE_CHECKING:
    from rankray.config import LoadedConfig
    from rankray.contracts import Observer
    from rankray.store import StudyStore


def check_trackers(loaded: LoadedConfig) -> None:
    """Refuse trackers that are not installed, before anything starts.

    Raises:
        ConfigError: names the first one, and what to install.
    """
    from rankray.report.tracking import check

    check(loaded.config.logging, loaded.where("logging"))


@contextmanager
def tracking(study: StudyStore, loaded: LoadedConfig) -> Iterator[list[Observer]]:
    """Yield the observers that log a search; files are written beside its checkpoints, if these are on a disk."""
    names = loaded.config.logging
    if not names:
        yield []
        return
    from rankray.checkpoints.places import is_remote
    from rankray.report.tracking import TrackingObserver, make_trackers

    storage = loaded.config.storage
    directory = Path() if is_remote(storage) else Path(storage)
    observer = TrackingObserver(study.name, study.identity, make_trackers(names, directory.absolute(), say))
    try:
        yield [observer]
    finally:
        observer.close()
