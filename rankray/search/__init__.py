"""The search: Ray Tune places the trials, the store remembers and judges.

Nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"run_search": "rankray.search.experiment"}
__all__ = ["run_search"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankray.search' has no attribute {name!r}")
