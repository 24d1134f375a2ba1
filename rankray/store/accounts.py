"""What a study knows beside its trials: what the untrained model reaches, who worked when, and what that has cost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from optuna.trial import FrozenTrial

from rankray.contracts import Report
from rankray.store.claims import COPY, IDENTITY, NOBODY
from rankray.store.ledger import SPENT, Spent, spent_of, worked_until
from rankray.store.optuna_private import trial_id
from rankray.store.ownership import TrialOwnership
from rankray.store.records import CREATED, DAMAGED, DRIVER, KEPT_LOSSES, NODES, RAN, UNTRAINED, damaged_of, nodes_of
from rankray.store.stored import figures, has_zone, mapping, mappings, moment, now, text

LONGEST_NODE = 200
"""Characters of a node's name that are kept."""
NOTED = timedelta(seconds=15)
"""A driver that works notes it far more often (`search/meter.py`)."""
Stretch = tuple[str, datetime, datetime | None]
"""Who ran a trial, from when, and until when; None while it runs."""


class StudyAccounts(TrialOwnership):
    """A study's accounts, for `StudyStore`."""

    _worked: Mapping[str, datetime] = MappingProxyType({})
    _worked_read = datetime.min.replace(tzinfo=UTC)

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
        known = [*nodes_of(trial), {"node": node[:LONGEST_NODE], "at": now()}]
        self.storage.set_trial_user_attr(trial_id(trial), NODES, known[-KEPT_LOSSES:])
        self._history.wrote(trial.number, NODES, known[-KEPT_LOSSES:], more=True)

    def note_made_again(self, trial: FrozenTrial, checkpoint: str | None) -> None:
        """Forget that a checkpoint was damaged, whose trial has written it anew in the same place."""
        kept = [each for each in damaged_of(trial) if each["checkpoint"] != checkpoint]
        if kept != damaged_of(trial):
            self.storage.set_trial_user_attr(trial_id(trial), DAMAGED, kept)
            self._history.wrote(trial.number, DAMAGED, kept, more=True)

    def stretches(self, trial: FrozenTrial, present: datetime | None = None) -> list[Stretch]:
        """Return who ran a trial and when, one (driver, start, end) after the other; the end is None while it runs.

        A driver that was killed had the trial until another one took it over, and worked on it until its last record
        of what it had spent. Of a copied study's trial, what was before the copy comes first.

        Args:
            trial: the trial.
            present: where nobody works on the study, the present: what was left running then ends at its driver's last
                record.
        """
        found = [
            (text(each.get("driver")), start, end)
            for each in mappings(trial.user_attrs.get(RAN))
            if (start := moment(each.get("from"))) and (end := moment(each.get("to")))
        ]
        own: list[Stretch] = []
        changes = self._claims.changes(trial.number)
        created = trial.user_attrs.get(CREATED)
        first = moment(trial.datetime_start)
        if first is None or changes or has_zone(created):  # else nobody resumed it, and Optuna's start is the first
            first = moment(created) or first
        since, driver = first, str(trial.user_attrs.get(DRIVER, NOBODY))
        for at, after in ((moment(at), after) for at, after in changes):
            if driver and since and at and since <= at:  # else of an earlier version, which kept no first start
                own.append((driver, since, max(since, min(at, self._worked_until(driver, at)))))
            driver, since = after, at
        if driver and since:
            end = moment(trial.datetime_complete)
            if end is None and present is not None:
                end = self._worked_until(driver, present)
            own.append((driver, since, end and max(since, end)))
        return [*found, *own]

    def _worked_until(self, driver: str, at: datetime) -> datetime:
        """Return when a driver noted last that it works, if that is well before `at`; else `at`."""
        if at > self._worked_read:  # else what was read says whether the driver went on after that
            self._worked_read = datetime.now().astimezone()
            self._worked = worked_until(self.storage.get_study_user_attrs(self._claims.study_id))
        known = self._worked.get(driver, at)
        return known if known < at - NOTED else at

    def seconds(self, trial: FrozenTrial) -> float:
        """Return how long drivers have worked on a trial; what still runs is not counted."""
        return sum((end - start).total_seconds() for _, start, end in self.stretches(trial) if end is not None)

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
