"""The search: Ray Tune places the trials, the store remembers and judges. The only place that imports ray.

Nothing here is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {"forked_workers": "rankray.search.cluster", "run_search": "rankray.search.experiment"}
__all__ = ["forked_workers", "run_search"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankray.search' has no attribute {name!r}")
