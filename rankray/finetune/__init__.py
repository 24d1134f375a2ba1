"""Fine-tuning one trial: `run(spec, reporter) -> Outcome` is the only way to train, local or remote.

    run(spec, reporter)      train a trial, report at every evaluation, obey the verdicts
    preflight(loaded)        find mistakes in data and model without importing torch

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
    """A package whose public names are functions in submodules of the same name.

    Importing a submodule sets it as an attribute of its package. Here that would hide the function, so it is ignored.
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
