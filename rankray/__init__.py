"""rankray: search the settings of RRI-weighted fine-tuning.

    load, check, search, train, rehearse      a configuration, and what can be done with it
    best, trials, TrialStore                  what a search has found
    Study                                     a study: report, confirm, evaluate, export
    RRITrainer                                TRL's SFTTrainer with the weighted loss, for scripts of your own
    weighted_nll, token_stats, token_weights  the loss itself (rankray.loss)

Names are loaded when first used, so that `import rankray` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.api import best, check, load, train, trials
    from rankray.config import Config, load_config
    from rankray.errors import RankrayError
    from rankray.finetune.rri_trainer import RRITrainer
    from rankray.loss import token_stats, token_weights, weighted_nll
    from rankray.studies import Study, TrialStore

__version__ = "0.1.0"

_HOMES = {
    "Config": "rankray.config",
    "RRITrainer": "rankray.finetune.rri_trainer",
    "RankrayError": "rankray.errors",
    "Study": "rankray.studies",
    "TrialStore": "rankray.studies",
    "best": "rankray.api",
    "check": "rankray.api",
    "load": "rankray.api",
    "load_config": "rankray.config",
    "token_stats": "rankray.loss",
    "token_weights": "rankray.loss",
    "train": "rankray.api",
    "trials": "rankray.api",
    "weighted_nll": "rankray.loss",
}
_PACKAGES = ("analysis", "config", "errors", "evaluate", "loss", "store")
"""What is reached as an attribute without an import of its own: `rankray.evaluate.same_answer`."""
_CALLABLE = ("rehearse", "search")
"""Packages that are also functions of `rankray.api`: `rankray.search(config)`."""

__all__ = [
    "Config",
    "RRITrainer",
    "RankrayError",
    "Study",
    "TrialStore",
    "__version__",
    "best",
    "check",
    "load",
    "load_config",
    "rehearse",
    "search",
    "token_stats",
    "token_weights",
    "train",
    "trials",
    "weighted_nll",
]


class _CallablePackage(ModuleType):
    """A package that is called like the function of its name in `rankray.api`."""

    def __call__(self, *given: Any, **named: Any) -> Any:
        function = getattr(importlib.import_module("rankray.api"), self.__name__.rpartition(".")[2])
        return function(*given, **named)


class _Lazy(ModuleType):
    """This package. Importing a subpackage sets it as an attribute here; two of them become callable by that."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE and type(value) is ModuleType:
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Lazy


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in (*_PACKAGES, *_CALLABLE):
        return importlib.import_module(f"rankray.{name}")
    raise AttributeError(f"module 'rankray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
