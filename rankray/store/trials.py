"""`StudyStore`: the trials of one study, as the drivers that work on it see them.

**One writer per trial.** A trial belongs to the driver that created it until someone enters a claim (`claims`). Each
write of a driver is preceded by a look at the claims; a driver that was replaced gets `LeaseLost`. One that freezes for
a whole lease between look and write commits its step under its own fence, where it overwrites nobody's.

**Commit points.** Every change of a trial is one write that says it all, followed by writes that can be made again
from it, in any number: a step record, then the intermediate value and, on a stop, the state; an end record, then the
state. A kill before the commit point leaves nothing, a kill after it leaves work that the next
owner, or the same report sent again, completes. So the verdict on a step is given once and for ever.

**Threads.** All methods may be called from any thread; they are serialised. A call may wait for the store.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.config.space import distributions
from rankray.contracts import Report, Verdict, WorkLost
from rankray.errors import LeaseLost, RankrayError, StoreError
from rankray.store.ask import Asker, withdraw
from rankray.store.claims import IDENTITY, NOBODY, Claims
from rankray.store.dry_run import DryRunStorage
from rankray.store.ending import STATES, Ender
from rankray.store.history import History
from rankray.store.judge import Judge
from rankray.store.leases import Lease, Watch, driver_records, lease_seconds_default
from rankray.store.records import (
    ATTEMPTS,
    KEPT_LOSSES,
    LONGEST_TEXT,
    LOST,
    PROVENANCE,
    READY,
    Counts,
    StepRecord,
    Ticket,
    is_void,
    shortened,
    step_key,
    steps_of,
    ticket_of,
)
from rankray.store.strategies import direction


class StudyStore:
    """A study in a store. Made by `open_study` to work on it, by `attach` to look at it.

    Attributes:
        name: the study's name.
        config: the configuration it was opened with; for an attached study, the one it was made from.
        url: the store's URL with its password masked.
        driver: this driver's id.
        storage: the optuna storage behind it.
        study_id: the study's id there.
        read_only: whether it was attached: everything that writes is refused.
    """

    def __init__(
        self,
        storage: BaseStorage,
        study_id: int,
        claims: Claims,
        config: Config,
        *,
        url: str,
        read_only: bool = False,
        lease_seconds: float | None = None,
    ) -> None:
        self.name, self.config, self.url, self.read_only = config.name, config, url, read_only
        self.storage, self.study_id = storage, study_id
        self.driver = uuid.uuid4().hex
        self._claims = claims
        self._lock = threading.RLock()
        self._held: set[int] = set()
        self._history = History(storage, study_id, direction(config))
        self._watch = Watch(lease_seconds_default() if lease_seconds is None else lease_seconds, by_date=read_only)
        self._lease = Lease(storage, claims.study_id, self.driver, self._watch)
        self._ender = Ender(storage, config)
        self._order = list(distributions(config))
        if not read_only:
            self._asker = Asker(storage, study_id, self._history, config, self.driver)
            self._judge = Judge(DryRunStorage(storage, study_id, direction(config)), self.name, config)

    def __repr__(self) -> str:
        return f"StudyStore({self.name!r}, {self.url!r})"

    def join(self) -> StudyStore:
        """Register this driver and keep its lease in a daemon thread; does nothing if it has joined.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._writable()
        with self._lock:
            if not self._lease.held:
                self._lease.hold()
        return self

    def leave(self) -> None:
        """Give back every trial this driver still owns, stop renewing its lease and take back its registration.

        Raises:
            StoreUnavailable: the store does not answer; the lease then runs out by itself.
        """
        with self._lock:
            if self._lease.held:
                try:
                    self.sweep()
                finally:
                    self._lease.drop()

    def __enter__(self) -> StudyStore:
        return self.join()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.leave()
        except RankrayError:
            if error is None:
                raise

    def sweep(self) -> list[int]:
        """Release every unfinished trial of this driver, and return their numbers.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            self._claims.refresh()
            mine = [trial for trial in self._unfinished() if self._claims.owner(trial)[0] == self.driver]
            for trial in mine:
                self._give_back(trial)
            return [trial.number for trial in mine]

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the study comes from, as it was given to `open_study` first."""
        return dict(self.storage.get_study_user_attrs(self.study_id).get(PROVENANCE, {}))

    @property
    def identity(self) -> str:
        """What tells this study from others of its name; empty for one that an earlier version made."""
        return str((self._claims.first(IDENTITY) or {}).get("id", ""))

    def next_trial(self) -> Ticket | None:
        """Return a trial to run: an orphan first, then a new one while the budget has room, else None.

        None means that nothing is to be begun now; trials of other drivers may still be running (see `done`). An
        orphan is a trial whose owner has left, is dead, or let its lease run out. Of several drivers exactly one gets
        it. Orphans that are finished but for the last write are finished here; those without their parameters are
        discarded, never run.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self.join()
        with self._lock:
            self._look()
            orphans = [trial for trial in self._unfinished() if self._is_orphan(trial)]
            for trial in orphans:
                adopted = self._adopt(trial)
                if adopted is not None:
                    return self._hand_out(adopted, adopted=True)
            if orphans:
                self._history.refresh()
            fresh = self._asker.new()
            return None if fresh is None else self._hand_out(fresh, adopted=False)

    def release(self, number: int, lost: WorkLost | None = None) -> None:
        """Give a trial back, so that any driver may adopt it at once; a finished trial is left as it is.

        What work is lost with it is written down.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            trial = self._read(number)
            if not trial.state.is_finished():
                self._own(trial)
                if lost is not None:
                    losses = [*trial.user_attrs.get(LOST, []), asdict(lost)]
                    self.storage.set_trial_user_attr(trial._trial_id, LOST, losses[-KEPT_LOSSES:])
                self._give_back(trial)

    def report(self, number: int, report: Report) -> Verdict:
        """Commit what a trial says at one step, and return the verdict on it.

        Idempotent per (trial, step): a step that has a record, be the trial running or ended, gets the verdict in the
        record. The report's checkpoint is committed with it. A stop ends the trial at once: PRUNED with the last
        value, or FAILED if the study's metric is no number. A trial that has ended with a stop answers every other
        step with that stop.

        The pruner is asked before anything is written, the step record is one write, and what follows it (the
        intermediate value, the state) is derived from it. A kill in front of the record leaves no
        trace of the question; a kill behind it is mended by whoever touches the trial next.

        Raises:
            LeaseLost: the trial belongs to another driver, or has ended otherwise.
            StoreUnavailable: the store does not answer; send the report again.
        """
        with self._lock:
            trial = self._read(number)
            steps = steps_of(trial)
            if trial.state.is_finished():
                return self._late(trial, steps, report.step)
            fence = self._own(trial)
            record = steps.get(report.step)
            if record is None:
                record = self._judge.judge(trial, report, self._history.trials)
                self.storage.set_trial_user_attr(trial._trial_id, step_key(record.step, fence), record.to_json())
                if record.stop:
                    self._own(trial)
            self._ender.carry_out(trial, record)
            if record.stop:
                self._held.discard(number)
            return Verdict(record.stop, record.reason, record.failed)

    def complete(self, number: int, metrics: Mapping[str, float]) -> None:
        """End a trial as COMPLETE with these metrics; FAILED if the study's metric is missing or no number.

        A finished trial is left as it is.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer; call again.
        """
        with self._lock:
            trial = self._read(number)
            if trial.state.is_finished():
                return
            self._own(trial)
            self._ender.complete(trial, {name: float(value) for name, value in metrics.items()})
            self._held.discard(number)

    def fail(self, number: int, reason: str, traceback: str = "", retry: bool = True) -> bool:
        """Note a failure, and return whether the trial will be tried again from its last checkpoint.

        It is released for another attempt while `study.max_failures_per_trial` allows, else FAILED with the reason and
        the traceback. A finished trial is left as it is.

        Raises:
            LeaseLost: the trial belongs to another driver.
            StoreUnavailable: the store does not answer; call again.
        """
        reason, traceback = shortened(reason, LONGEST_TEXT // 10), shortened(traceback)
        with self._lock:
            trial = self._read(number)
            if trial.state.is_finished():
                return False
            self._own(trial)
            before = [dict(failure) for failure in trial.user_attrs.get(ATTEMPTS, [])]
            for failure in before[1:-2]:
                failure["traceback"] = ""
            failures = [*before, {"reason": reason, "traceback": traceback}]
            if retry and len(failures) <= self.config.study.max_failures_per_trial:
                self.storage.set_trial_user_attr(trial._trial_id, ATTEMPTS, failures)
                self._give_back(trial)
                return True
            self._ender.fail(trial, reason, traceback=traceback)
            self._held.discard(number)
            return False

    @property
    def budget(self) -> int:
        """How many finished trials the study is to hold."""
        return self.config.study.trials

    @property
    def finished(self) -> int:
        """How many trials are complete or pruned, whoever ran them."""
        with self._lock:
            self._history.refresh()
            return self._history.finished

    @property
    def done(self) -> bool:
        """Whether the budget is used up."""
        return self.finished >= self.budget

    def counts(self) -> Counts:
        """Return how many trials are in which state, over all drivers."""
        self._look()
        found: dict[str, int] = {}
        for trial in self.trials():
            state = self.state(trial)
            found[state] = found.get(state, 0) + 1
        return Counts(**found)

    def trials(self) -> list[FrozenTrial]:
        """Return the study's trials in order of number, without the void ones; they must not be changed."""
        with self._lock:
            return [trial for trial in self._history.refresh() if not is_void(trial)]

    def state(self, trial: FrozenTrial) -> str:
        """Return a trial's state, named as in `Counts`, as of the last look at the drivers."""
        for name, state in STATES.items():
            if trial.state == state:
                return name
        owned = trial.state == TrialState.RUNNING and not self._watch.gone(self._claims.owner(trial)[0])
        return "running" if owned else "waiting"

    def owner(self, trial: FrozenTrial) -> str:
        """Return the driver that owns a trial, or an empty string."""
        return self._claims.owner(trial)[0]

    def drivers(self) -> dict[str, dict[str, Any]]:
        """Return the drivers that are not known to be gone, by id."""
        self._look()
        records = self._drivers()
        alive = set(self._watch.alive())
        return {driver: record for driver, record in records.items() if record is not None and driver in alive}

    def _writable(self) -> None:
        if self.read_only:
            raise StoreError(f"study {self.name}: attached to be looked at; open it with open_study to work on it")

    def _look(self) -> None:
        self._claims.refresh()
        self._watch.look(self._drivers())

    def _drivers(self) -> dict[str, dict[str, Any] | None]:
        return driver_records(self.storage.get_study_user_attrs(self._claims.study_id))

    def _unfinished(self) -> list[FrozenTrial]:
        trials = self._history.refresh()
        return [trials[number] for number in sorted(self._history.unfinished)]

    def _read(self, number: int) -> FrozenTrial:
        """Return a trial as it is in the store; the history then holds all of them."""
        self._writable()
        trials = self._history.refresh()
        if not 0 <= number < len(trials):
            raise StoreError(f"study {self.name}: there is no trial {number}; see its trials with status")
        return trials[number]

    def _own(self, trial: FrozenTrial) -> int:
        self._claims.refresh()
        owner, fence = self._claims.owner(trial)
        if owner != self.driver:
            self._held.discard(trial.number)
            raise LeaseLost(
                f"trial {trial.number} of {self.name}: owned by {owner or 'nobody'} since take-over {fence}, "
                f"not by this driver ({self.driver}); its write was refused"
            )
        return fence

    def _hand_out(self, trial: FrozenTrial, *, adopted: bool) -> Ticket:
        self._held.add(trial.number)
        return ticket_of(trial, adopted=adopted, order=self._order)

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Return whether nobody runs an unfinished trial: its owner is gone, or is this driver and does not know it."""
        owner, _ = self._claims.owner(trial)
        return trial.number not in self._held if owner == self.driver else self._watch.gone(owner)

    def _adopt(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return an orphan if it has become this driver's and is still to be run."""
        mine = self._claims.owner(trial)[0] == self.driver
        if READY not in trial.user_attrs:
            withdraw(self.storage, trial._trial_id, "abandoned")
            return None
        if not mine and not self._claims.take(trial, self.driver):
            return None
        trial = self.storage.get_trial(trial._trial_id)
        if trial.state.is_finished() or self._ender.mend(trial):
            return None
        if trial.state == TrialState.WAITING:
            self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        return trial

    def _give_back(self, trial: FrozenTrial) -> None:
        """Make a trial of this driver anybody's. The state comes first: an adopter sets it after its claim."""
        if READY not in trial.user_attrs:
            withdraw(self.storage, trial._trial_id, "abandoned")
        else:
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            self._claims.take(trial, NOBODY)
        self._held.discard(trial.number)

    def _late(self, trial: FrozenTrial, steps: dict[int, StepRecord], step: int) -> Verdict:
        """Answer a report on a trial that has ended."""
        record = steps.get(step) or next((each for each in steps.values() if each.stop), None)
        if record is None:
            raise LeaseLost(f"trial {trial.number} of {self.name}: it has ended as {trial.state.name}; write refused")
        return Verdict(record.stop, record.reason, record.failed)
