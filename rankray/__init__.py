"""rankray: search the settings of RRI-weighted fine-tuning.

Names are loaded when first used, so that `import rankray` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Config": "rankray.config",
    "load_config": "rankray.config",
    "token_stats": "rankray.loss",
    "token_weights": "rankray.loss",
    "weighted_nll": "rankray.loss",
    "RankrayError": "rankray.errors",
}

__all__ = ["Config", "RankrayError", "__version__", "load_config", "token_stats", "token_weights", "weighted_nll"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rankray' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
