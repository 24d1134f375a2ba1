"""Dry runs of Optuna's samplers and pruners: they see a storage that writes nothing of a trial.

Both write while they are asked: a pruner notes rungs on the trial, a sampler every parameter, each in a write of its
own. Here their writes are kept back, so that what they decide can be committed in one write, together with all else.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Any, NoReturn

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from rankray.store.delegating import DelegatingStorage


class DryRunStorage(DelegatingStorage):
    """A storage of one study that shows the trials it is given, and notes what would be written of another.

    Writing to a trial or to the study is a bug, and fails. Attributes of the study are those of the store.

    Attributes:
        trials: what is shown.
        draft: the trial that is being asked about; it is in no storage.
        marks: the system attributes that would have been written to it.
    """

    def __init__(self, storage: BaseStorage, study_id: int, direction: StudyDirection) -> None:
        super().__init__(storage)
        self._study_id, self._direction = study_id, direction
        self.trials: Sequence[FrozenTrial] = ()
        self.draft: FrozenTrial | None = None
        self.marks: dict[str, Any] = {}

    @override
    def get_study_id_from_name(self, study_name: str) -> int:
        return self._study_id

    @override
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return [self._direction]

    @override
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = list(self.trials)
        if states is not None:
            shown = [trial for trial in shown if trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown

    @override
    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        states = (state,) if isinstance(state, TrialState) else state
        return len(self.get_all_trials(study_id, deepcopy=False, states=states))

    @override
    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """Return the best complete one by its last shown value: a pruner compares what it is shown, not the metric.

        Raises:
            ValueError: there is none.
        """
        whole = [each for each in self.trials if each.state == TrialState.COMPLETE and each.intermediate_values]
        if not whole:
            raise ValueError("no trial is complete yet")
        last = [each.intermediate_values[max(each.intermediate_values)] for each in whole]
        return whole[last.index(max(last) if self._direction == StudyDirection.MAXIMIZE else min(last))]

    @override
    def get_trial(self, trial_id: int) -> FrozenTrial:
        assert self.draft is not None, "a pruner is handed its trial and does not read it"
        return self.draft

    # As BaseStorage has them, from `get_trial`: the storage behind knows no draft.
    get_trial_number_from_id = BaseStorage.get_trial_number_from_id
    get_trial_param = BaseStorage.get_trial_param
    get_trial_params = BaseStorage.get_trial_params
    get_trial_user_attrs = BaseStorage.get_trial_user_attrs

    @override
    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return dict(self.marks)

    @override
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.marks[key] = value

    @override
    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Write nothing: the trial object that Optuna hands out keeps the parameter itself."""

    @override
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> NoReturn:
        _refuse()

    @override
    def delete_study(self, study_id: int) -> NoReturn:
        _refuse()

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> NoReturn:
        _refuse()

    @override
    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> NoReturn:
        _refuse()

    @override
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> NoReturn:
        _refuse()

    @override
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> NoReturn:
        _refuse()

    @override
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        _refuse()

    @override
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> NoReturn:
        _refuse()


def _refuse() -> NoReturn:
    raise AssertionError("a dry run writes nothing: only `StudyStore` does")
