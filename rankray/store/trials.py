"""`StudyStore`: the trials of one study, as the drivers that work on it see them.

**One writer per trial**, and how a trial changes its owner: see `ownership`.

**Commit points.** Every change of a trial is one write that says it all, followed by writes that can be made again
from it, any number of times: a step record, then the intermediate value and, on a stop, the state; an end record, then
the state. A kill before the commit point leaves nothing. A kill after it leaves work that the next owner, or the same
report sent again, completes. So the verdict on a step never changes.

**Threads.** All methods may be called from any thread; they run one at a time. A call may wait for the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.config.space import distributions
from rankray.contracts import Report, Verdict, WorkLost
from rankray.errors import LeaseLost, StoreError
from rankray.store.accounts import StudyAccounts
from rankray.store.ask import Asker, Plan, Points
from rankray.store.backend import RetryingStorage
from rankray.store.claims import Claims
from rankray.store.dry_run import DryRunStorage
from rankray.store.ending import STATES
from rankray.store.glance import Glance
from rankray.store.judge import Judge
from rankray.store.ledger import ENDED, Ended, Spent, ended
from rankray.store.optuna_private import trial_id
from rankray.store.points import FinitePoints
from rankray.store.records import (
    ATTEMPTS,
    DAMAGED,
    KEPT_LOSSES,
    LONGEST_TEXT,
    LOST,
    PROVENANCE,
    Counts,
    StepRecord,
    Ticket,
    damaged_of,
    failures_of,
    is_void,
    losses_of,
    shortened,
    step_key,
    steps_of,
    ticket_of,
)
from rankray.store.stored import mapping, now
from rankray.store.strategies import prune_direction


class StudyStore(StudyAccounts):
    """A study in a store. Made by `open_study` to work on it, by `attach` to look at it.

    Attributes:
        name: the study's name.
        config: the configuration it was opened with; for an attached study, the one it was made from.
        url: the store's URL with its password masked.
        driver: this driver's id.
        storage: the Optuna storage behind it.
        study_id: the study's id there.
        read_only: whether it was attached: everything that writes is refused.
        refused: what an attached study was made with and this version refuses, a line each.
        glance: what can be asked of the study without reading all of it; None where that cannot be done, or this driver
            works on the study and has read it anyway.
    """

    def __init__(
        self,
        storage: RetryingStorage,
        study_id: int,
        claims: Claims,
        config: Config,
        *,
        url: str,
        read_only: bool = False,
        lease_seconds: float | None = None,
        points: Points | Plan = (),
    ) -> None:
        super().__init__(storage, study_id, claims, config, read_only=read_only, lease_seconds=lease_seconds)
        self.url, self._given = url, points
        self.refused: list[str] = []
        self._order = list(distributions(config))
        self.glance: Glance | None = None
        if read_only and storage.database is not None:
            self.glance = Glance(storage, study_id, maximize=config.direction == "maximize")
        self._points = FinitePoints(config, self._history)
        if not read_only:
            self._asker = Asker(storage, study_id, self._history, config, self.driver, points)
            self._points = self._asker.points
            self._judge = Judge(DryRunStorage(storage, study_id, prune_direction(config)), self.name, config)

    def __repr__(self) -> str:
        return f"StudyStore({self.name!r}, {self.url!r})"

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the study comes from, as it was given when the study was made."""
        return dict(mapping(self.storage.get_study_user_attrs(self.study_id).get(PROVENANCE)))

    def next_trial(self) -> Ticket | None:
        """Return a trial to run: an orphan first, then a new one while the budget has room, else None.

        Once a limit of `study.budget` is reached, or in a study that was made shorter, orphans stay: a raised limit
        continues them.

        None means that there is nothing to start now; trials of other drivers may still be running (see `done`). An
        orphan is a trial whose owner has left, is dead, or let its lease expire. Of several drivers exactly one gets
        it. Orphans that lack only the last write are finished here; those without their parameters are discarded, never
        run.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self.join()
        with self._lock:
            unfinished = self._survey()
            over = self.config.study.budget.is_limited and self.ended is not None
            orphans = self._orphans_with_room(unfinished, 0 if over else self.config.study.trials)
            for trial in orphans:
                adopted = self._adopt(trial)
                if adopted is not None:
                    return self._hand_out(adopted, adopted=True)
            if orphans:
                self._history.refresh()
            if over:
                return None
            fresh = self._asker.new()
            return None if fresh is None else self._hand_out(fresh, adopted=False)

    def release(self, number: int, lost: WorkLost | None = None) -> None:
        """Give a trial back, so that any driver may adopt it at once; a finished trial is left as it is.

        The work that is lost with it is recorded.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer.
        """
        with self._writing(number):
            trial = self._read(number)
            if not trial.state.is_finished():
                self._own(trial)
                if lost is not None:
                    losses = [*losses_of(trial), asdict(lost) | {"at": now()}]
                    self.storage.set_trial_user_attr(trial_id(trial), LOST, losses[-KEPT_LOSSES:])
                self._give_back(trial)

    def damaged(self, number: int, checkpoint: str, reason: str) -> None:
        """Note that a committed checkpoint cannot be resumed from, and give the trial back: the one before is next.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer; call again.
        """
        with self._writing(number):
            trial = self._read(number)
            if not trial.state.is_finished():
                self._own(trial)
                known = [each for each in damaged_of(trial) if each["checkpoint"] != checkpoint]
                noted = {"checkpoint": checkpoint, "reason": shortened(reason, 500)}
                self.storage.set_trial_user_attr(trial_id(trial), DAMAGED, [*known, noted][-KEPT_LOSSES:])
                self._give_back(trial)

    def report(self, number: int, report: Report) -> Verdict:
        """Commit what a trial reports at one step, and return the verdict on it.

        Idempotent per (trial, step): a step that has a record gets the verdict in the record, whether the trial is
        running or has ended; only a checkpoint that is damaged is replaced by the one that the same step made again.
        The report's checkpoint is committed with it. A stop ends the trial at once: PRUNED with the last value, or
        FAILED if the study's metric is not a finite number. A trial that has ended with a stop answers every other step
        with that stop.

        The pruner is asked before anything is written, the step record is one write, and what follows it (the
        intermediate value, the state) is derived from it. A kill before the record leaves no trace of the question;
        what a kill after it left undone is done by the next driver that touches the trial.

        Raises:
            LeaseLost: the trial belongs to another driver, or has ended otherwise.
            StoreUnavailable: the store does not answer; send the report again.
        """
        with self._writing(number):
            trial = self._read(number, again=not self._history.knows(number))
            if not trial.state.is_finished():
                try:
                    fence = self._own(trial)
                except LeaseLost:
                    trial = self._read(number)
                    if not trial.state.is_finished():
                        raise
            steps = steps_of(trial)
            if trial.state.is_finished():
                return self._late(trial, steps, report.step)
            if report.node:
                self.note_node(trial, report.node)
            if report.step == 0:
                self.note_untrained(report)
                return Verdict(stop=False)
            self.note_made_again(trial, report.checkpoint)
            record = steps.get(report.step)
            if record is not None and _replaces_damaged(trial, record, report):
                record = replace(record, checkpoint=report.checkpoint)
                self.storage.set_trial_user_attr(trial_id(trial), step_key(record.step, fence), record.to_json())
            if record is None:
                record = self._judge.judge(trial, report, self._history.for_pruner)
                key, stored = step_key(record.step, fence), record.to_json()
                if not record.stop and self._write_step(trial, key, stored, record):
                    return Verdict(stop=False)
                self.storage.set_trial_user_attr(trial_id(trial), key, stored)
                if record.stop:
                    self._own(trial)
            self._ender.carry_out(trial, record)
            if record.stop:
                self._held.discard(number)
            return Verdict(record.stop, record.reason, record.failed)

    def complete(self, number: int, metrics: Mapping[str, float]) -> None:
        """End a trial as COMPLETE with these metrics; FAILED if the study's metric is missing or not a finite number.

        A finished trial is left as it is.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer; call again.
        """
        with self._writing(number):
            trial = self._read(number)
            if trial.state.is_finished():
                return
            self._own(trial)
            self._ender.complete(trial, {name: float(value) for name, value in metrics.items()})
            self._held.discard(number)

    def fail(self, number: int, reason: str, traceback: str = "", retry: bool = True) -> bool:
        """Record a failure, and return whether the trial will be tried again from its last checkpoint.

        It is released for another attempt while `study.max_failures_per_trial` allows one. Else it is FAILED with the
        reason and the traceback. A finished trial is left as it is.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer; call again.
        """
        reason, traceback = shortened(reason, LONGEST_TEXT // 10), shortened(traceback)
        with self._writing(number):
            trial = self._read(number)
            if trial.state.is_finished():
                return False
            self._own(trial)
            before = failures_of(trial)
            for failure in before[1:-2]:
                failure["traceback"] = ""
            failures = [*before, {"reason": reason, "traceback": traceback}]
            if retry and len(failures) <= self.config.study.max_failures_per_trial:
                self.storage.set_trial_user_attr(trial_id(trial), ATTEMPTS, failures)
                self._give_back(trial)
                return True
            self._ender.fail(trial, reason, traceback=traceback)
            self._held.discard(number)
            return False

    @property
    def budget(self) -> int:
        """How many finished trials the study is to have."""
        return self.config.study.trials

    @property
    def finished(self) -> int:
        """How many trials are complete or pruned, over all drivers."""
        with self._lock:
            self._history.refresh(everything=True)
            return self._history.finished

    @property
    def done(self) -> bool:
        """Whether the budget is used up, or no point is left: of a finite space, or of a plan."""
        with self._lock:
            return self.ended is not None or (not self.read_only and self._asker.plan_is_done)

    @property
    def ended(self) -> Ended | None:
        """Why the search has ended, from the limits and the store; None while it has not."""
        budget = self.config.study.budget
        with self._lock:
            trials: list[FrozenTrial] = []
            if self.glance is not None and budget.plateau is None:
                counted, _ = self.glance.counts()
                finished = counted[TrialState.COMPLETE] + counted[TrialState.PRUNED]
            else:
                trials = self._history.refresh(everything=True)
                finished = self._history.finished
            end = ended(self.config, finished, self.spent if budget.is_limited else Spent(), trials)
            return Ended("space", "every point of the space has been tried") if end is None and self.exhausted else end

    def note_end(self) -> None:
        """Write what has ended the search, or that nothing has any more, where the store does not say so.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._writable()
        now = None if (end := self.ended) is None else end.to_json()
        if self.storage.get_study_user_attrs(self.study_id).get(ENDED) != now:
            self.storage.set_study_user_attr(self.study_id, ENDED, now)

    @property
    def exhausted(self) -> bool:
        """Whether every point of a finite space has been tried, so that no trial is left to be made."""
        if callable(self._given) or not self._points.finite:
            return False
        with self._lock:
            self._history.refresh()
            return self._points.exhausted

    def points_left(self) -> int | None:
        """Return how many points of the space nobody has tried, as of the last read; None in a space without an end."""
        with self._lock:
            return None if callable(self._given) else self._points.left

    def counts(self) -> Counts:
        """Return how many trials are in which state, over all drivers."""
        found: dict[str, int] = {}
        trials: Iterable[FrozenTrial]
        if self.glance is None:
            trials = self.trials()
        else:
            ended, trials = self.glance.counts()
            found = {name: ended[state] for name, state in STATES.items()}
        trials = list(trials)
        self._look()  # after the trials: see _survey
        for trial in trials:
            state = self.state(trial)
            found[state] = found.get(state, 0) + 1
        return Counts(**found)

    def trials(self) -> list[FrozenTrial]:
        """Return the study's trials in order of number, without the void ones; do not change them."""
        with self._lock:
            return [trial for trial in self._history.refresh(everything=True) if not is_void(trial)]

    def look(self) -> None:
        """See which drivers are alive and who owns which trial, for `state` and `owner`."""
        with self._lock:
            self._look()

    def find(self, number: int) -> FrozenTrial | None:
        """Return the trial of a number, or None; only this one is read, unless all were read before."""
        with self._lock:
            if self.glance is not None and not self._history.trials:
                return next(iter(self.glance.numbered(number)), None)
            trials = self._history.refresh()
            found = trials[number] if 0 <= number < len(trials) else None
            return None if found is None or is_void(found) else found

    def _write_step(self, trial: FrozenTrial, key: str, stored: dict[str, Any], record: StepRecord) -> bool:
        """Commit a step that goes on, and its intermediate value, in one write where the store can; return whether."""
        value = record.metrics.get(self.config.study.metric)
        step = None if value is None else record.step
        if done := self.storage.write_step(trial_id(trial), key, stored, step, value):
            self._history.wrote(trial.number, key, stored, step, value)
        return done

    def _read(self, number: int, *, again: bool = True) -> FrozenTrial:
        """Return a trial as it is in the store (or, unless `again`, as last read); the history then holds all."""
        self._writable()
        trials = self._history.refresh(number if again else None)
        self._history.written.add(number)
        if not 0 <= number < len(trials):
            there = f"0 to {len(trials) - 1}" if trials else "none yet"
            raise StoreError(f"study {self.name}: there is no trial {number}; its trials: {there}; give one of these")
        return trials[number]

    def _hand_out(self, trial: FrozenTrial, *, adopted: bool) -> Ticket:
        self._held.add(trial.number)
        if adopted:
            self._history.written.add(trial.number)
        ticket = ticket_of(trial, adopted=adopted, order=self._order)
        is_first = trial.number == self._history.first_without_steps()
        return replace(ticket, untrained=is_first and not self.untrained)

    def _late(self, trial: FrozenTrial, steps: dict[int, StepRecord], step: int) -> Verdict:
        """Answer a report on a trial that has ended."""
        record = steps.get(step) or next((each for each in steps.values() if each.stop), None)
        if record is None:
            raise LeaseLost(f"trial {trial.number} of {self.name}: it has ended as {trial.state.name}; write refused")
        return Verdict(record.stop, record.reason, record.failed)


def _replaces_damaged(trial: FrozenTrial, record: StepRecord, report: Report) -> bool:
    """Return whether a report brings a step's checkpoint again, because the committed one is damaged."""
    made_again = report.checkpoint not in (None, record.checkpoint)
    return made_again and record.checkpoint in {each["checkpoint"] for each in damaged_of(trial)}
