"""A storage that hands every call to another one: the base of storages that change only some of them."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any, ParamSpec, TypeVar

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from rankray.store.optuna_private import FrozenStudy

P = ParamSpec("P")
T = TypeVar("T")


class DelegatingStorage(BaseStorage):
    """Each method of `BaseStorage` calls the method of the same name of the storage behind it, through `_call`.

    A subclass overrides `_call` to change all of them alike, or single methods.
    """

    def __init__(self, behind: BaseStorage) -> None:
        self._behind = behind

    def _call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return method(*args, **kwargs)

    @override
    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._call(self._behind.create_new_study, directions, study_name)

    @override
    def delete_study(self, study_id: int) -> None:
        self._call(self._behind.delete_study, study_id)

    @override
    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(self._behind.set_study_user_attr, study_id, key, value)

    @override
    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(self._behind.set_study_system_attr, study_id, key, value)

    @override
    def get_study_id_from_name(self, study_name: str) -> int:
        return self._call(self._behind.get_study_id_from_name, study_name)

    @override
    def get_study_name_from_id(self, study_id: int) -> str:
        return self._call(self._behind.get_study_name_from_id, study_id)

    @override
    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._call(self._behind.get_study_directions, study_id)

    @override
    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(self._behind.get_study_user_attrs, study_id)

    @override
    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(self._behind.get_study_system_attrs, study_id)

    @override
    def get_all_studies(self) -> list[FrozenStudy]:
        return self._call(self._behind.get_all_studies)

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        return self._call(self._behind.create_new_trial, study_id, template_trial)

    @override
    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._call(self._behind.set_trial_param, trial_id, param_name, param_value_internal, distribution)

    @override
    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._call(self._behind.get_trial_id_from_study_id_trial_number, study_id, trial_number)

    @override
    def get_trial_number_from_id(self, trial_id: int) -> int:
        return self._call(self._behind.get_trial_number_from_id, trial_id)

    @override
    def get_trial_param(self, trial_id: int, param_name: str) -> float:
        return self._call(self._behind.get_trial_param, trial_id, param_name)

    @override
    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        return self._call(self._behind.set_trial_state_values, trial_id, state, values)

    @override
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._call(self._behind.set_trial_intermediate_value, trial_id, step, intermediate_value)

    @override
    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._call(self._behind.set_trial_user_attr, trial_id, key, value)

    @override
    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._call(self._behind.set_trial_system_attr, trial_id, key, value)

    @override
    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._call(self._behind.get_trial, trial_id)

    @override
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._call(self._behind.get_all_trials, study_id, deepcopy, states)

    @override
    def get_n_trials(self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None) -> int:
        return self._call(self._behind.get_n_trials, study_id, state)

    @override
    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._call(self._behind.get_best_trial, study_id)

    @override
    def get_trial_params(self, trial_id: int) -> dict[str, Any]:
        return self._call(self._behind.get_trial_params, trial_id)

    @override
    def get_trial_user_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._call(self._behind.get_trial_user_attrs, trial_id)

    @override
    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        return self._call(self._behind.get_trial_system_attrs, trial_id)

    @override
    def remove_session(self) -> None:
        self._call(self._behind.remove_session)

    @override
    def check_trial_is_updatable(self, trial_id: int, trial_state: TrialState) -> None:
        self._call(self._behind.check_trial_is_updatable, trial_id, trial_state)
