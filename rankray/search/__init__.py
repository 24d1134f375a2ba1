"""The search: Ray Tune places the trials; the store remembers them and gives the verdicts.

experiment   one launch of a search, from its start to its end
searcher     asks the store for the next trial, for Tune
scheduler    writes what trials report to the store, and hands its verdicts to Tune
stopper      ends Tune's run
delivery     writes to the store, kept in order through outages
news         what happens, passed to everybody who watches
specs        what a worker gets of a trial
actor        trains trials of one worker, one after another
group        trains trials of several workers, one after another
events       what a training process sends
placement    what a trial takes, and how many fit
packing      how many at a time do the most
control      whether to stop

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
