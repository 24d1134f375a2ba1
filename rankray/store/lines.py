"""The lines of a journal: what Optuna writes there, and a backend that checks each before Optuna replays it.

Optuna replays whatever a journal says, and fails anywhere inside itself on what it did not write. Here a line that is
not as Optuna writes it is refused with its number when a study is opened to work on it: what it said is lost, and so
the lines after it may mean something else. When somebody only looks, it is left out, and the rest is shown.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState
from typing_extensions import override

from rankray.errors import StoreError
from rankray.store.optuna_private import BaseJournalFileLock

logger = logging.getLogger(__name__)

NOTHING = {"op_code": 2, "worker_id": "", "study_id": -1, "user_attr": {"": None}}
"""A line that changes nothing, as no study has this id: it stands for one that is left out."""


class CheckedJournal(JournalFileBackend):
    """Optuna's journal in a file, read line by line with a check of each.

    Args:
        path: the file.
        lock: excludes other writers.
        lenient: leave malformed lines out instead of refusing them.

    Attributes:
        left_out: the numbers of the lines that were left out, from 1.
    """

    def __init__(self, path: str, lock: BaseJournalFileLock, *, lenient: bool) -> None:
        super().__init__(path, lock_obj=lock)
        self._path, self._lenient = path, lenient
        self._next = 0, 0
        self.left_out: set[int] = set()

    @override
    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """Yield the complete lines from a number on, counted from 0; a torn last line is none.

        Raises:
            StoreError: a line is malformed.
        """
        with open(self._path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start, offset = self._next if self._next[0] <= log_number_from else (0, 0)
            file.seek(offset)
            for number, line in enumerate(file, start):
                offset += len(line)
                if offset > size or not line.endswith(b"\n"):
                    return
                self._next = number + 1, offset
                if number >= log_number_from:
                    yield self._checked(number + 1, line)

    def _checked(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            log: dict[str, Any] = json.loads(line)
            _CHECKS[log["op_code"]](log)
            _is(log, worker_id=str)
        except Exception as error:
            first = (str(error).strip().splitlines() or ["nothing more is known"])[0][:100]
            if self._lenient:
                logger.debug("journal: line %d is malformed, and is left out: %s", number, first)
                self.left_out.add(number)
                return NOTHING
            raise StoreError(
                f"store: line {number} of the journal {self._path} is malformed ({type(error).__name__}: {first}); "
                "allowed: lines that Optuna wrote; restore a backup, or copy what can still be read to another store "
                "(rankray store copy)"
            ) from None
        return log


def _is(log: Mapping[str, Any], **kinds: type | tuple[type, ...]) -> None:
    for key, kind in kinds.items():
        if not isinstance(log[key], kind) or (isinstance(log[key], bool) and kind is not bool):
            raise TypeError(f"{key} is {json.dumps(log[key])[:60]}")


def _study(log: Mapping[str, Any]) -> None:
    _is(log, study_name=str, directions=list)
    for direction in log["directions"]:
        StudyDirection(direction)


def _attribute(owner: str, key: str) -> Callable[[Mapping[str, Any]], None]:
    def check(log: Mapping[str, Any]) -> None:
        _is(log, **{owner: int, key: dict})
        if len(log[key]) != 1:
            raise ValueError(f"{key} has {len(log[key])} entries instead of one")

    return check


def _trial(log: Mapping[str, Any]) -> None:
    _is(log, study_id=int)
    kinds = {name: _distribution(text) for name, text in log.get("distributions", {}).items()}
    for name, value in log.get("params", {}).items():
        kinds[name].to_external_repr(value)
    _times(log)
    state = TrialState(log.get("state", TrialState.RUNNING.value))
    for key in ("user_attrs", "system_attrs", "intermediate_values"):
        if not isinstance(log.get(key, {}), dict):
            raise TypeError(f"{key} is no mapping")
    for step, value in log.get("intermediate_values", {}).items():
        int(step)
        float(value)
    _values(log.get("values"), state)
    if log.get("value") is not None:
        float(log["value"])
        if log.get("values") is not None:
            raise ValueError("both value and values are given")


def _parameter(log: Mapping[str, Any]) -> None:
    _is(log, trial_id=int, param_name=str, param_value_internal=(int, float), distribution=str)
    _distribution(log["distribution"]).to_external_repr(log["param_value_internal"])


def _state(log: Mapping[str, Any]) -> None:
    _is(log, trial_id=int, state=int)
    state = TrialState(log["state"])
    _values(log["values"], state)
    if state == TrialState.RUNNING:
        datetime.fromisoformat(log["datetime_start"])
    if state.is_finished():
        datetime.fromisoformat(log["datetime_complete"])


def _intermediate(log: Mapping[str, Any]) -> None:
    _is(log, trial_id=int, step=int, intermediate_value=(int, float))


def _values(values: Any, state: TrialState) -> None:
    if values is None:
        return
    if not isinstance(values, list) or len(values) != 1:
        raise TypeError(f"values is {json.dumps(values)[:60]}")
    if not isinstance(values[0], (int, float)) or isinstance(values[0], bool):
        raise TypeError(f"a value of a {state.name} trial is {json.dumps(values[0])[:60]}")


def _times(log: Mapping[str, Any]) -> None:
    for key in ("datetime_start", "datetime_complete"):
        if log.get(key) is not None or (key in log and key == "datetime_complete"):
            datetime.fromisoformat(log[key])
    log["datetime_start"]


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)


_CHECKS: dict[int, Callable[[Mapping[str, Any]], None]] = {
    0: _study,
    1: functools.partial(_is, study_id=int),
    2: _attribute("study_id", "user_attr"),
    3: _attribute("study_id", "system_attr"),
    4: _trial,
    5: _parameter,
    6: _state,
    7: _intermediate,
    8: _attribute("trial_id", "user_attr"),
    9: _attribute("trial_id", "system_attr"),
}
"""Operation to the check of its line; what is missing or of another type raises."""
