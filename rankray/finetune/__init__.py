"""Fine-tuning one trial: `run(spec, reporter) -> Outcome` is the only way to train, local or remote.

    run(spec, reporter)      train a trial, report at every evaluation, obey the verdicts
    preflight(loaded)        find what is wrong with data and model without importing torch

Names load on first use: importing `rankray.finetune` or `rankray.finetune.preflight` imports no torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.finetune.preflight import preflight
    from rankray.finetune.run import run

__all__ = ["preflight", "run"]


class _Lazy(ModuleType):
    """A package whose names are functions of the submodules that carry the same names.

    Importing a submodule binds it in its package; here that must not hide the function, so the binding is refused.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Lazy


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rankray.finetune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rankray.finetune.{name}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
