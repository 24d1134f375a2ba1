"""A stopper that stops everything or nothing; Tune asks it in each turn of its loop.

Tune does not show the scheduler a result on which a stopper stops a trial (docs/traps.md). So this one never looks at
results.
"""

from __future__ import annotations

from typing import Any

from ray.tune import Stopper

from rankray.search.control import Control


class ControlStopper(Stopper):
    """Ends the whole Tune run once `control` is over; a pickled copy never ends anything."""

    def __init__(self, control: Control | None = None) -> None:
        self._control = control

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never stop a single trial."""
        return False

    def stop_all(self) -> bool:
        """Look which processes still answer; return whether the search has to end now."""
        if self._control is None:
            return False
        self._control.processes.look(self._control.live.values())
        return self._control.over

    def __getstate__(self) -> dict[str, Any]:
        return {"_control": None}

    def __deepcopy__(self, _memo: object) -> ControlStopper:
        return self
