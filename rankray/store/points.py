"""The points of a space that nobody has tried: a trial that trains again with the same seed learns nothing.

A sampler may propose a point again in a space without an end too: the very end of a range, or plain SFT, where nothing
else is searched for it. A random point takes its place.
"""

from __future__ import annotations

import random
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rankray.config import Config, distributions
from rankray.config.points import DRAWS, PointId, all_points, draw_point, point_id, refusal
from rankray.store.history import History
from rankray.store.records import DRIVER, is_void


class FinitePoints:
    """Which points of a study's space are left. In a space without an end, or with very many points, all are.

    Args:
        config: the study's configuration.
        history: the study's trials, refreshed by the caller.
        driver: who asks; an empty string for one who only looks.
    """

    def __init__(self, config: Config, history: History, driver: str = "") -> None:
        self._config, self._space = config, distributions(config)
        self._history, self._driver = history, driver
        found = all_points(self._space, config) if self._space else None
        self._all: dict[PointId, dict[str, Any]] | None = None
        if found is not None:
            self._all = {point_id(point, self._space): point for point in found}
        self._numbers: dict[frozenset[tuple[str, Any]], list[int]] = {}
        self._open: list[int] = []
        self._noted = 0

    @property
    def finite(self) -> bool:
        """Whether the space has so few points that each can be looked at."""
        return self._all is not None

    @property
    def exhausted(self) -> bool:
        """Whether every point has been tried by a trial that has ended."""
        if self._all is None or self._history.unfinished:
            return False
        return len(self._all) <= len(self._history.trials) and not self._all.keys() - self._tried()

    @property
    def left(self) -> int | None:
        """How many points nobody has tried, nor is trying; None in a space without an end."""
        return None if self._all is None else len(self._all.keys() - self._tried())

    def untried(self, params: dict[str, Any], seed: int) -> dict[str, Any] | None:
        """Return a proposal if nobody has tried it, else a point that nobody has tried; None if there is none."""
        if self._all is None:
            return self._drawn(seed) or params if self._space and self.is_tried(params) else params
        tried = self._tried()
        if point_id(params, self._space) not in tried:
            return params
        left = [key for key in self._all if key not in tried]
        return self._all[left[seed % len(left)]] if left else None

    def _drawn(self, seed: int) -> dict[str, Any] | None:
        """Return a random point of a space without an end; None where almost every one has been tried or is refused."""
        dice = random.Random(seed)
        drawn = (draw_point(self._space, self._config, dice) for _ in range(DRAWS))
        return next((each for each in drawn if not self.is_tried(each) and not refusal(self._config, each)), None)

    def is_tried(self, params: dict[str, Any]) -> bool:
        """Return whether a trial has had just these parameters."""
        if self._all is not None:
            return point_id(params, self._space) in self._tried()
        self._note_ended()
        trials = self._history.trials
        same = [
            *self._numbers.get(frozenset(params.items()), ()),
            *(n for n in self._open if trials[n].params == params),
        ]
        return any(self._counts(trials[number]) for number in same)

    def _note_ended(self) -> None:
        """Note which trials that have ended have which parameters. Until then a trial may get them one by one."""
        trials = self._history.trials
        new = [*self._open, *range(self._noted, len(trials))]
        self._noted, self._open = len(trials), []
        for number in new:
            if trials[number].state.is_finished():
                self._numbers.setdefault(frozenset(trials[number].params.items()), []).append(number)
            else:
                self._open.append(number)

    def _tried(self) -> set[PointId]:
        return {point_id(trial.params, self._space) for trial in self._history.trials if self._counts(trial)}

    def _counts(self, trial: FrozenTrial) -> bool:
        return counts_as_tried(trial, self._history, self._driver)


def counts_as_tried(trial: FrozenTrial, history: History, driver: str) -> bool:
    """Return whether a trial has tried its point: not a void one, nor one of a launch in which everything failed.

    What failed under an earlier driver none of whose trials has finished counts as untried: most likely not the point
    was broken, and the search was started again after a fix.
    """
    if is_void(trial):
        return False
    by = str(trial.user_attrs.get(DRIVER, ""))
    return trial.state != TrialState.FAIL or by == driver or by in history.successful
