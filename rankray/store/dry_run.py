"""Asking optuna's samplers and pruners on paper: they see a storage that writes nothing.

Both write while they are asked: a pruner notes rungs on the trial, a sampler every parameter, each in a write of its
own. Here their writes are kept back, so that what they say can be committed in one write, together with all else.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any

from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState


class DryRunStorage:
    """A storage of one study that shows the trials it is given, and notes what would be written of another.

    Attributes:
        trials: what is shown.
        draft: the trial that is asked about, in no storage.
        marks: the system attributes that were to be written.
    """

    def __init__(self, storage: BaseStorage, study_id: int, direction: StudyDirection) -> None:
        self._storage, self._study_id, self._direction = storage, study_id, direction
        self.trials: Sequence[FrozenTrial] = ()
        self.draft: FrozenTrial | None = None
        self.marks: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return the one study."""
        return self._study_id

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the one direction."""
        return [self._direction]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials that are shown."""
        shown = list(self.trials)
        if states is not None:
            shown = [trial for trial in shown if trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    def get_trial(self, trial_id: int) -> FrozenTrial | None:
        """Return the draft."""
        return self.draft

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """Return what was noted of the draft."""
        return dict(self.marks)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note it."""
        self.marks[key] = value

    def set_trial_param(self, *written: Any) -> None:
        """Nothing: the trial that optuna keeps beside has it."""
