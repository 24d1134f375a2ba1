"""Claims: an append-only log in which the first entry for a key wins, on every backend.

The log is a second study, `<study>/claims`, with one finished trial per entry. Optuna numbers the trials of a study
one after the other on all its backends, under a row lock or in one appended line, together with all their attributes.
So of two entries with one key, everybody agrees which came first. No entry is ever changed or removed.

What is decided here:

- `identity`: what the study is. The first entry holds the whole configuration, and an id that no other study has;
  later entries change nothing. A copy of a study has the identity of the original.
- `trial:<number>:<fence>`: who owns a trial. Fence 0 belongs to the driver that created it. A driver that takes it over
  enters the next fence; the first entry of the highest fence is the owner. An entry without a driver releases the
  trial. No second place says who owns a trial, so nothing can disagree or be half done.
- `warm_start:<study>`: the points that an earlier study gives (`warm`).
- `confirm:...`: what a confirmation compares (`confirmation`).
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from rankray.store.backend import RetryingStorage
from rankray.store.optuna_private import trial_id
from rankray.store.records import DRIVER
from rankray.store.stored import whole

logger = logging.getLogger(__name__)

SUFFIX = "/claims"
NOBODY = ""
IDENTITY = "identity"
COPY = "copy"
"""The key of the entry that makes a study the copy of another one; its body is an id of the copy alone."""
_KEY = "rankray:claim"
_BODY = "rankray:body"


def find_or_create(storage: BaseStorage, name: str, direction: StudyDirection) -> int:
    """Return the id of the study of this name, made if need be; safe against others doing the same."""
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        logger.debug("study %s: not there yet; creating it", name)
    try:
        return storage.create_new_study([direction], name)
    except optuna.exceptions.DuplicatedStudyError:
        logger.debug("study %s: another process created it first", name)
        return storage.get_study_id_from_name(name)


class Claims:
    """The claims of one study, read incrementally; safe to share among threads."""

    def __init__(self, storage: BaseStorage, study_id: int) -> None:
        self.study_id = study_id
        self._storage = storage
        self._lock = threading.Lock()
        self._read, self._last = 0, -1
        self._first: dict[str, Any] = {}
        self._latest: dict[int, tuple[str, int]] = {}
        self._changes: dict[int, list[tuple[datetime | None, str]]] = {}

    def refresh(self) -> None:
        """Read what others have entered since."""
        with self._lock:
            if self._read and not self._may_have_newer():
                return
            entries = self._storage.get_all_trials(self.study_id, deepcopy=False)
            for entry in entries[self._read :]:
                self._note(entry)
            self._read = len(entries)
            self._last = trial_id(entries[-1]) if entries else -1

    def enter(self, key: str, body: Any) -> Any:
        """Add an entry and return the body of the first one with this key: the caller's own if it won."""
        entry = create_trial(state=TrialState.FAIL, user_attrs={_KEY: key, _BODY: body})
        self._storage.create_new_trial(self.study_id, entry)
        self.refresh()
        return self._first[key]

    def first(self, key: str) -> Any:
        """Return the body of the first entry with this key as of the last refresh, or None."""
        return self._first.get(key)

    def decisions(self) -> dict[str, Any]:
        """Return what was decided about the study as a whole, as of the last refresh: all but who owns a trial."""
        return {key: body for key, body in self._first.items() if key != COPY and not key.startswith("trial:")}

    def owner(self, trial: FrozenTrial) -> tuple[str, int]:
        """Return (driver, fence) of a trial as of the last refresh; the driver is `NOBODY` after a release."""
        return self._latest.get(trial.number) or (str(trial.user_attrs.get(DRIVER, NOBODY)), 0)

    def changes(self, number: int) -> list[tuple[datetime | None, str]]:
        """Return when a trial changed its owner since it was created, and to whom, as of the last refresh."""
        return list(self._changes.get(number, []))

    def take(self, trial: FrozenTrial, driver: str) -> bool:
        """Enter `driver` as the next owner of a trial; return whether it was the first to do so."""
        _, fence = self.owner(trial)
        return bool(self.enter(f"trial:{trial.number}:{fence + 1}", driver) == driver)

    def _may_have_newer(self) -> bool:
        storage = self._storage
        return not isinstance(storage, RetryingStorage) or storage.may_have_newer(self.study_id, self._last)

    def _note(self, entry: FrozenTrial) -> None:
        key, body = entry.user_attrs.get(_KEY), entry.user_attrs.get(_BODY)
        if not isinstance(key, str):
            logger.debug("claims: entry %d is malformed, and is left out", entry.number)
            return
        if key in self._first:
            return
        self._first[key] = body
        kind, _, rest = key.partition(":")
        if kind == "trial":
            number, fence = (whole(part) for part in rest.partition(":")[::2])
            if number is None or fence is None or not isinstance(body, str):
                logger.debug("claims: entry %d is malformed, and is left out", entry.number)
                return
            self._latest[number] = (body, fence)
            self._changes.setdefault(number, []).append((entry.datetime_start, body))
