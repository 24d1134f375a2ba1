from __future__ import annotations

import inspect
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection

from rankray.store.backend import RetryingStorage
from rankray.store.delegating import DelegatingStorage
from rankray.store.dry_run import DryRunStorage

METHODS = sorted(name for name, member in vars(BaseStorage).items() if callable(member) and not name.startswith("_"))


class Recorder:
    """Stands for a storage: returns, for any method, its name and arguments."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: (name, args)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["plain", "retrying"])
def test_every_method_of_optuna_s_storages_is_delegated(kind: str, name: str) -> None:
    """Also one that an upgrade of Optuna adds: it fails here until it is delegated, too."""
    behind: Any = Recorder()
    storage = DelegatingStorage(behind) if kind == "plain" else RetryingStorage(behind, "sqlite:///x.db")
    assert name in vars(DelegatingStorage)
    parameters = list(inspect.signature(getattr(BaseStorage, name)).parameters)[1:]
    assert list(inspect.signature(getattr(DelegatingStorage, name)).parameters)[1:] == parameters
    arguments = tuple(f"value of {each}" for each in parameters)
    returned = getattr(storage, name)(*arguments)
    assert returned in ((name, arguments), None)
    is_procedure = inspect.signature(getattr(DelegatingStorage, name)).return_annotation == "None"
    assert (returned is None) == is_procedure


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_optuna_s(name: str) -> None:
    def defaults(kind: type) -> dict[str, Any]:
        signature = inspect.signature(getattr(kind, name))
        return {each: parameter.default for each, parameter in signature.parameters.items()}

    for kind in (DelegatingStorage, DryRunStorage):
        assert defaults(kind) == defaults(BaseStorage)


def test_storages_are_optuna_s_own_kind() -> None:
    behind = InMemoryStorage()
    for storage in (RetryingStorage(behind, "sqlite:///x.db"), DryRunStorage(behind, 0, StudyDirection.MINIMIZE)):
        assert isinstance(storage, BaseStorage)
