"""What a study knows beside its trials: what the untrained model reaches, and what its drivers have spent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from rankray.contracts import Report
from rankray.store.claims import COPY, IDENTITY
from rankray.store.ledger import SPENT, Spent, spent_of
from rankray.store.optuna_private import trial_id
from rankray.store.ownership import TrialOwnership
from rankray.store.records import KEPT_LOSSES, NODES, UNTRAINED, nodes_of
from rankray.store.stored import figures, mapping, text

LONGEST_NODE = 200
"""Characters of a node's name that are kept."""


class StudyAccounts(TrialOwnership):
    """A study's accounts, for `StudyStore`."""

    @property
    def identity(self) -> str:
        """An id that distinguishes this study from others of its name; empty if an earlier version made the study."""
        return text(mapping(self._claims.first(IDENTITY)).get("id"))

    @property
    def copied(self) -> str:
        """An id that distinguishes this copy from the study it was copied from; empty where it is no copy."""
        return text(self._claims.first(COPY))

    def seen(self) -> tuple[dict[str, int], tuple[int, float, dict[str, Any]] | None]:
        """Return how many trials ended how, and the best complete one as (number, value, params), over all drivers.

        That is as of the last time this driver read the store: nothing is read now.
        """
        with self._lock:
            best, complete, failed = self._history.best, len(self._history.whole), self._history.failed
            counts = {"complete": complete, "pruned": self._history.finished - complete, "failed": failed}
        return counts, None if best is None else (best.number, float(best.value or 0.0), dict(best.params))

    @property
    def untrained(self) -> dict[str, float]:
        """The metrics of the untrained model, which one trial evaluates at step 0; empty before."""
        return figures(self.storage.get_study_user_attrs(self.study_id).get(UNTRAINED))

    def note_untrained(self, report: Report) -> None:
        """Keep what a trial found out about the untrained model; the first finding stays."""
        if not self.untrained:
            metrics = {name: float(value) for name, value in report.metrics.items()}
            self.storage.set_study_user_attr(self.study_id, UNTRAINED, metrics)

    def note_node(self, trial: FrozenTrial, node: str) -> None:
        """Keep that a process of a trial reports from a node for the first time."""
        known = [*nodes_of(trial), {"node": node[:LONGEST_NODE], "at": datetime.now().isoformat()}]
        self.storage.set_trial_user_attr(trial_id(trial), NODES, known[-KEPT_LOSSES:])
        self._history.wrote(trial.number, NODES, known[-KEPT_LOSSES:], more=True)

    @property
    def spent(self) -> Spent:
        """What all drivers of all times have spent."""
        return spent_of(self.storage.get_study_user_attrs(self._claims.study_id), self.config.study.budget)

    def charge(self, record: Mapping[str, Any]) -> None:
        """Write what this driver has spent so far (`ledger`), in place of what it wrote before.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._writable()
        self.storage.set_study_user_attr(self._claims.study_id, SPENT + self.driver, dict(record))
