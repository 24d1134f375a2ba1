"""One driver's copy of a study: every trial as last read, and what is counted of them.

Only what may have changed since the last reading is read, so a question about a study of ten thousand trials, of which
a thousand run, costs little more than one about a study of a hundred. Ended trials do not change. Neither do this
driver's own running ones, but by its own writes: those are read again after each of them, and all of them every
EVERYTHING_SECONDS, in case the driver was declared dead and does not know it.
"""

from __future__ import annotations

import copy
import math
import time
from bisect import insort
from collections.abc import Set
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rankray.store.backend import RetryingStorage
from rankray.store.optuna_private import trial_id
from rankray.store.records import DRIVER, POINT, has_steps, is_void, with_marks, with_values

SHOWN = 250
"""How many finished trials TPE is shown at most: the least number of which it takes BEST as good."""
SHOWN_RUNNING = 100
"""How many unfinished trials TPE is shown at most, the latest ones."""
SHOWN_OTHERS = 200
"""How many trials that ended early `whole_first` shows at most, the latest ones."""
EVERYTHING_SECONDS = 5.0
"""How long a driver trusts that nobody else has written to its own trials."""
BEST = 25
"""How many of these are the best ones: as many as TPE ever takes as good, so that it takes the same ones as good."""
Rank = tuple[int, float, float, int]


class History:
    """The trials of one study. Not thread-safe: its caller holds a lock.

    Attributes:
        direction: the study's direction.
        trials: all trials as of the last `refresh`, by number, each with its pruner's marks; do not change them.
        unfinished: the numbers of those that are running or waiting.
        pointed: the numbers of those that try a baseline or warm-start point.
        for_pruner: all trials, with the values of `prune_on` as their intermediate ones.
        whole: the numbers of the complete ones.
        failed: how many have failed, void ones left out.
        successful: the drivers that have created a trial which has finished.
        written: the numbers of those that this driver has written to, or is about to, since it last read them.

    Args:
        storage: where the study is.
        study_id: its id there.
        direction: its direction.
        prune_on: the metric of `for_pruner`, where it is not the study's.
        own: the numbers of the trials that this driver runs; it changes with them.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        direction: StudyDirection,
        prune_on: str | None = None,
        own: Set[int] = frozenset(),
    ) -> None:
        self._storage, self._study_id, self.direction = storage, study_id, direction
        self._prune_on, self._own = prune_on, own
        self._read_everything_at = -math.inf
        self.written: set[int] = set()
        self._sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        self._last = -1
        self._ranked: list[Rank] = []
        self._numbers: list[int] = []
        self.failed = 0
        self.successful: set[str] = set()
        self.trials: list[FrozenTrial] = []
        self.for_pruner: list[FrozenTrial] = self.trials if prune_on is None else []
        self.whole: list[int] = []
        self.unfinished: set[int] = set()
        self.pointed: list[int] = []

    def refresh(self, number: int | None = None, *, everything: bool = False) -> list[FrozenTrial]:
        """Read what may have changed, and return `trials`.

        Args:
            number: a trial to read in any case.
            everything: read this driver's own trials too, whether it has written to them or not.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        now = time.monotonic()
        if everything or now - self._read_everything_at > EVERYTHING_SECONDS:
            self._read_everything_at, needed = now, set(self.unfinished)
        else:
            needed = self.unfinished - (self._own - self.written - {number})
        for trial in self._changed(needed):
            self.written.discard(trial.number)
            if trial.number == len(self.trials):
                self.trials.append(trial)
                if self._prune_on is not None:
                    self.for_pruner.append(trial)
                self.unfinished.add(trial.number)
                self._last = max(self._last, trial_id(trial))
                if POINT in trial.user_attrs:
                    self.pointed.append(trial.number)
            assert trial_id(self.trials[trial.number]) == trial_id(trial), "trials are numbered one after the other"
            self._note(trial)
            if trial.state.is_finished():
                self._ended(trial)
        return self.trials

    def knows(self, number: int) -> bool:
        """Return whether a trial is this driver's own, and is here as this driver last wrote it."""
        return number in self._own and number not in self.written and number < len(self.trials)

    def wrote(
        self,
        number: int,
        key: str,
        record: Any,
        step: int | None = None,
        value: float | None = None,
        *,
        more: bool = False,
    ) -> None:
        """Note what this driver has just written to a trial of its own: it need not be read again.

        Args:
            number: the trial's.
            key: the attribute.
            record: what it was set to, as it would be read.
            step: of the intermediate value; None where none was written.
            value: the intermediate value.
            more: other writes may follow that are not noted, so it is to be read again unless they are.
        """
        trial = copy.copy(self.trials[number])
        trial.user_attrs = {**trial.user_attrs, key: record}
        if step is not None and value is not None:
            trial.intermediate_values = {**trial.intermediate_values, step: value}
        self._note(trial)
        if not more:
            self.written.discard(number)

    def _note(self, trial: FrozenTrial) -> None:
        self.trials[trial.number] = marked = with_marks(trial)
        if self._prune_on is not None:
            self.for_pruner[trial.number] = with_values(marked, self._prune_on)

    def _changed(self, needed: Set[int]) -> list[FrozenTrial]:
        """Return the trials of these numbers and those that are new, by number."""
        open_ids = {trial_id(self.trials[number]) for number in needed}
        if isinstance(self._storage, RetryingStorage):
            if not needed and not self._storage.may_have_newer(self._study_id, self._last):
                return []
            changed = self._storage.changed_trials(self._study_id, open_ids, self._last)
            if changed is not None:
                return sorted(changed, key=lambda trial: trial.number)
        stored = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return [stored[number] for number in sorted(needed)] + stored[len(self.trials) :]

    @property
    def finished(self) -> int:
        """How many trials are complete or pruned."""
        return len(self._numbers)

    @property
    def best(self) -> FrozenTrial | None:
        """The best complete trial, or None."""
        return self.trials[self._ranked[0][-1]] if self.whole else None

    @property
    def taken(self) -> int:
        """How many places of the budget are taken: by every trial that has not failed."""
        return len(self._numbers) + len(self.unfinished)

    def shown(self) -> list[FrozenTrial]:
        """Return what a sampler is shown: everything, or in a long study a part from which it learns the same.

        That part is the latest of what still runs, the best finished trials in the order in which TPE ranks them, and
        an even sample of the others, which always has the last one.
        """
        running = set(sorted(self.unfinished)[-SHOWN_RUNNING:])
        if len(self._numbers) <= SHOWN:
            if len(running) == len(self.unfinished):
                return self.trials
            return [each for each in self.trials if each.number in running or each.number not in self.unfinished]
        picked = {number for *_, number in self._ranked[:BEST]}
        others = [number for number in self._numbers if number not in picked]
        room = SHOWN - BEST
        picked.update(others[-1 - index * len(others) // room] for index in range(room))
        return [self.trials[number] for number in sorted(picked | running)]

    def whole_first(self) -> list[FrozenTrial]:
        """Return every whole trial and every unfinished one, and the latest of those that ended early."""
        whole = set(self.whole)
        early = [each.number for each in self.trials if each.state.is_finished() and each.number not in whole]
        return [self.trials[number] for number in sorted(whole | self.unfinished | set(early[-SHOWN_OTHERS:]))]

    def first_without_steps(self) -> int | None:
        """Return the lowest number of an unfinished trial that has reported nothing yet; None where there is none."""
        return next((number for number in sorted(self.unfinished) if not has_steps(self.trials[number])), None)

    def _ended(self, trial: FrozenTrial) -> None:
        self.unfinished.discard(trial.number)
        if trial.state == TrialState.FAIL:
            self.failed += not is_void(trial)
            return
        self.successful.add(str(trial.user_attrs.get(DRIVER, "")))
        insort(self._numbers, trial.number)
        if trial.state == TrialState.COMPLETE:
            insort(self.whole, trial.number)
        insort(self._ranked, self._rank(trial))

    def _rank(self, trial: FrozenTrial) -> Rank:
        """Return what TPE sorts by: complete trials by value, then pruned ones, the one with most steps first."""
        if trial.state == TrialState.COMPLETE:
            return 0, self._sign * float(trial.value or 0.0), 0.0, trial.number
        step, value = max(trial.intermediate_values.items(), default=(-1, 0.0))
        return 1, -float(step), self._sign * value, trial.number
