"""One driver's copy of a study: every trial as last read, and what is counted of them.

Only what has changed since the last reading is read, so a question about a study of ten thousand trials costs little
more than one about a study of a hundred.
"""

from __future__ import annotations

from bisect import insort

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from rankray.store.backend import RetryingStorage
from rankray.store.optuna_private import trial_id
from rankray.store.records import POINT, with_marks, with_values

SHOWN = 500
"""How many finished trials a sampler is shown at most."""
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
    """

    def __init__(
        self, storage: BaseStorage, study_id: int, direction: StudyDirection, prune_on: str | None = None
    ) -> None:
        self._storage, self._study_id, self.direction = storage, study_id, direction
        self._prune_on = prune_on
        self._sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
        self._last = -1
        self._ranked: list[Rank] = []
        self._numbers: list[int] = []
        self.trials: list[FrozenTrial] = []
        self.for_pruner: list[FrozenTrial] = self.trials if prune_on is None else []
        self.whole: list[int] = []
        self.unfinished: set[int] = set()
        self.pointed: list[int] = []

    def refresh(self) -> list[FrozenTrial]:
        """Read what has changed, and return `trials`.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        for trial in self._changed():
            if trial.number == len(self.trials):
                self.trials.append(trial)
                if self._prune_on is not None:
                    self.for_pruner.append(trial)
                self.unfinished.add(trial.number)
                self._last = max(self._last, trial_id(trial))
                if POINT in trial.user_attrs:
                    self.pointed.append(trial.number)
            assert trial_id(self.trials[trial.number]) == trial_id(trial), "trials are numbered one after the other"
            self.trials[trial.number] = marked = with_marks(trial)
            if self._prune_on is not None:
                self.for_pruner[trial.number] = with_values(marked, self._prune_on)
            if trial.state.is_finished():
                self._ended(trial)
        return self.trials

    def _changed(self) -> list[FrozenTrial]:
        """Return the trials that are new or were unfinished, by number."""
        open_ids = {trial_id(self.trials[number]) for number in self.unfinished}
        if isinstance(self._storage, RetryingStorage):
            changed = self._storage.changed_trials(self._study_id, open_ids, self._last)
            if changed is not None:
                return sorted(changed, key=lambda trial: trial.number)
        stored = self._storage.get_all_trials(self._study_id, deepcopy=False)
        return [stored[number] for number in sorted(self.unfinished)] + stored[len(self.trials) :]

    @property
    def finished(self) -> int:
        """How many trials are complete or pruned."""
        return len(self._numbers)

    @property
    def taken(self) -> int:
        """How many places of the budget are taken: by every trial that has not failed."""
        return len(self._numbers) + len(self.unfinished)

    def shown(self) -> list[FrozenTrial]:
        """Return what a sampler is shown: everything, or in a long study a part from which it learns the same.

        That part is what still runs, the best finished trials in the order in which TPE ranks them, and an even sample
        of the others, which always has the last one.
        """
        if len(self._numbers) <= SHOWN:
            return self.trials
        picked = {number for *_, number in self._ranked[:BEST]}
        others = [number for number in self._numbers if number not in picked]
        room = SHOWN - BEST
        picked.update(others[-1 - index * len(others) // room] for index in range(room))
        return [self.trials[number] for number in sorted(picked | self.unfinished)]

    def _ended(self, trial: FrozenTrial) -> None:
        self.unfinished.discard(trial.number)
        if trial.state == TrialState.FAIL:
            return
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
