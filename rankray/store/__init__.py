"""The trial store: the one place where the state of a search is kept, and the only package that imports optuna.

Names are loaded when they are first used, so that importing this package is fast.

    open_study(url, config)     create or resume a study, to work on it
    attach(url, name)           look at a study without changing it
    looking(url, name)          the same for a block, which leaves no connection behind
    open_rehearsal(config)      a study in this process's memory, for `rankray rehearse`
    list_studies(url)           the names of the studies in a store
    validate_url, masked        check and show a store URL
    views                       plain dicts for the command line
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Counts": "rankray.store.records",
    "StudyStore": "rankray.store.trials",
    "Ticket": "rankray.store.records",
    "attach": "rankray.store.study",
    "list_studies": "rankray.store.study",
    "looking": "rankray.store.study",
    "masked": "rankray.store.urls",
    "open_rehearsal": "rankray.store.study",
    "open_study": "rankray.store.study",
    "validate_url": "rankray.store.urls",
    "views": "rankray.store",
}

__all__ = [
    "Counts",
    "StudyStore",
    "Ticket",
    "attach",
    "list_studies",
    "looking",
    "masked",
    "open_rehearsal",
    "open_study",
    "validate_url",
    "views",
]


def __getattr__(name: str) -> Any:
    if name == "views":
        return importlib.import_module("rankray.store.views")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankray.store' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
