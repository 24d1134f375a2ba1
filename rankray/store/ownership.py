"""Who owns the trials of a study: this driver's lease, the orphans it adopts, what it gives back.

**One writer per trial.** A trial belongs to the driver that created it until a claim is entered (`claims`). Each write
of a driver is preceded by a look at the claims; a driver that was replaced gets `LeaseLost`. A driver that freezes for
a whole lease between look and write commits its step under its own fence, where it overwrites no other driver's.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from rankray.config.schema import Config
from rankray.errors import LeaseLost, RankrayError, StoreError
from rankray.store.ask import withdraw
from rankray.store.backend import RetryingStorage
from rankray.store.claims import NOBODY, Claims
from rankray.store.ending import STATES, Ender
from rankray.store.history import History
from rankray.store.leases import (
    DRIVER_KEY,
    Lease,
    Record,
    Watch,
    asked_trials,
    driver_elsewhere,
    driver_records,
    known_dead,
    lease_seconds_default,
    number_in,
)
from rankray.store.optuna_private import trial_id
from rankray.store.records import READY, TRIALS, is_void
from rankray.store.stored import whole
from rankray.store.strategies import direction

logger = logging.getLogger(__name__)


class TrialOwnership:
    """The part of `StudyStore` that says which driver owns which trial. Attributes: see there."""

    def __init__(
        self,
        storage: RetryingStorage,
        study_id: int,
        claims: Claims,
        config: Config,
        *,
        read_only: bool,
        lease_seconds: float | None,
    ) -> None:
        self.name, self.config, self.read_only = config.name, config, read_only
        self.storage, self.study_id = storage, study_id
        self.driver = uuid.uuid4().hex
        self._claims = claims
        self._lock = threading.RLock()
        self._held: set[int] = set()
        prune_on = None if config.study.prune_on == config.study.metric else config.study.prune_on
        self._history = History(storage, study_id, direction(config), prune_on, self._held)
        self._watch = Watch(lease_seconds_default() if lease_seconds is None else lease_seconds)
        self._lease = Lease(storage, claims.study_id, self.driver, self._watch, config.study.trials)
        self._ender = Ender(storage, config)

    def join(self) -> Self:
        """Register this driver and renew its lease in a daemon thread; does nothing if it has joined.

        Records of drivers that are known to be dead are removed: who looks from another machine cannot know.

        Raises:
            StoreUnavailable: the store does not answer.
            StudyGone, LeaseFailed: this driver had joined, and can no longer show that it is alive; see `lost`.
        """
        self._writable()
        with self._lock:
            if self._lease.failure is not None:
                raise self._lease.failure
            if not self._lease.begun:
                self._lease.hold()
                self.remove_dead_drivers()
        return self

    @property
    def lost(self) -> str:
        """Why this driver can work no more, as its lease's thread has found; an empty string while it can."""
        return str(self._lease.failure or "")

    def leave(self) -> None:
        """Give back every trial this driver still owns, stop renewing its lease, and remove its registration.

        Raises:
            StoreUnavailable: the store does not answer; the lease then expires by itself.
        """
        with self._lock:
            if self._lease.begun:
                try:
                    self.sweep()
                    self.note_budget()
                finally:
                    self._lease.drop()

    def note_budget(self, *, lower: bool = False) -> None:
        """Write how many finished trials the study is to have: the largest number that a driver asks for.

        Several drivers may extend a study at once, to different numbers. Each writes when it opens the study, and when
        it leaves it, what all that are alive ask for; so the largest is what stays, whoever writes last.

        Args:
            lower: also write a smaller number than before, as a driver does that opens the study alone; but none below
                what is finished.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        asked = asked_trials(self.storage.get_study_user_attrs(self._claims.study_id))
        wanted = max([self.config.study.trials, *asked])
        # Read after the drivers' records: whoever is no longer among them has written its number before.
        stored = whole(self.storage.get_study_user_attrs(self.study_id).get(TRIALS)) or 0
        if lower and wanted < stored:
            wanted = max(wanted, min(stored, self._history.finished))
        if wanted > stored or (lower and wanted != stored):
            self.storage.set_study_user_attr(self.study_id, TRIALS, wanted)

    def __enter__(self) -> Self:
        return self.join()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.leave()
        except RankrayError as failure:
            if error is None:
                raise
            logger.debug("study %s: leaving it failed after another error: %s", self.name, failure)

    def sweep(self) -> list[int]:
        """Release every unfinished trial of this driver, and return their numbers.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            unfinished = self._unfinished()
            self._claims.refresh()
            mine = [trial for trial in unfinished if self._claims.owner(trial)[0] == self.driver]
            for trial in mine:
                self._give_back(trial)
            return [trial.number for trial in mine]

    def owner(self, trial: FrozenTrial) -> str:
        """Return the driver that owns a trial, or an empty string."""
        return self._claims.owner(trial)[0]

    def drivers(self) -> dict[str, Record]:
        """Return the drivers that are not known to be dead, by id."""
        self._look()
        records = self._drivers()
        alive = set(self._watch.alive())
        return {driver: record for driver, record in records.items() if record is not None and driver in alive}

    def state(self, trial: FrozenTrial) -> str:
        """Return a trial's state, named as in `Counts`, as of the last look at the drivers."""
        for name, state in STATES.items():
            if trial.state == state:
                return name
        owned = trial.state == TrialState.RUNNING and not self._watch.is_dead(self._claims.owner(trial)[0])
        return "running" if owned else "waiting"

    def settle_drivers(
        self, notice: Callable[[str], None] = lambda line: None, *, every: bool = False
    ) -> dict[str, Record]:
        """Return the drivers that are alive, after watching those that may be dead until it is known.

        A driver on another machine whose last renewal seems long ago may be dead, or its clock may be wrong. It is
        watched until it renews its lease, or until it was silent for a whole one. Dates only choose whom to watch.

        Args:
            notice: is called with one line before the wait begins.
            every: watch each of them; otherwise only as long as no other driver is certainly alive.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        alive = self.drivers()
        doubtful = {driver: record for driver, record in alive.items() if self._seems_silent(record)}

        def undecided() -> bool:
            return bool(doubtful) and (every or len(doubtful) == len(alive))

        if undecided():
            longest = max(number_in(record, "lease") for record in doubtful.values())
            hosts = ", ".join(sorted({str(record.get("host")) for record in doubtful.values()}))
            longest = max(longest, self._watch.lease_seconds)
            notice(f"study {self.name}: watching its driver on {hosts} for up to {longest:.0f} s: is it alive?")
        while undecided():
            time.sleep(self._watch.lease_seconds / 12)
            alive = self.drivers()
            beats = {driver: record.get("beat") for driver, record in alive.items()}
            doubtful = {
                driver: record for driver, record in doubtful.items() if beats.get(driver) == record.get("beat")
            }
        return alive

    def _seems_silent(self, record: Record) -> bool:
        lease = max(self._watch.lease_seconds, number_in(record, "lease"))
        return abs(time.time() - number_in(record, "at")) > 2 * lease and driver_elsewhere(record)

    def remove_dead_drivers(self) -> dict[str, Record]:
        """Remove the registrations of drivers that are dead; return them, by driver.

        A driver on another machine is left alone until this one has watched it be silent for a whole lease.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._writable()
        with self._lock:
            registered = {driver: record for driver, record in self._drivers().items() if record is not None}
            silent = set(self._watch.silent()) - {self.driver}
            dead = {driver: record for driver, record in registered.items() if known_dead(record) or driver in silent}
            for driver in dead:
                self.storage.set_study_user_attr(self._claims.study_id, DRIVER_KEY + driver, None)
            return dead

    def repair_trials(self) -> dict[int, str]:
        """Put right every trial that a dead driver left; return what became of each that needed it, by number.

        Such a trial is given back, to be resumed by the next search; or ended, where all but the last write was done;
        or made void, where it never had its parameters.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self.join()
        with self._lock:
            repaired = {trial.number: self._repair(trial) for trial in self._survey()}
            return {number: what for number, what in repaired.items() if what}

    def give_back_orphans(self) -> None:
        """Give back what dead drivers left running in a search that has ended, so that nobody would adopt it.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        with self._lock:
            left = [trial for trial in self._survey() if trial.state == TrialState.RUNNING and self._is_orphan(trial)]
        if left:
            with self:
                self.repair_trials()

    def _repair(self, trial: FrozenTrial) -> str:
        """Adopt an orphan, which finishes what was committed, and give it back; return what became of it, if anything.

        A trial that waits to be adopted needs nothing.
        """
        waits = trial.state == TrialState.WAITING and READY in trial.user_attrs and not self.owner(trial)
        adopted = self._adopt(trial) if not waits and self._is_orphan(trial) else None
        if adopted is not None:
            self._give_back(adopted)
            return "was given back: the next search resumes it"
        after = self.storage.get_trial(trial_id(trial))
        if not after.state.is_finished():
            return ""
        return "was voided: it never had its parameters" if is_void(after) else f"was ended as {after.state.name}"

    def _writable(self) -> None:
        if self.read_only:
            raise StoreError(
                f"study {self.name}: attached to be looked at; allowed: reading; open it with open_study to work on it"
            )

    def _look(self) -> None:
        self._claims.refresh()
        self._watch.look(self._drivers())

    def _drivers(self) -> dict[str, Record | None]:
        return driver_records(self.storage.get_study_user_attrs(self._claims.study_id))

    def _unfinished(self) -> list[FrozenTrial]:
        trials = self._history.refresh()
        return [trials[number] for number in sorted(self._history.unfinished)]

    def _survey(self) -> list[FrozenTrial]:
        """Return the unfinished trials after looking at claims and drivers, in this order of reading.

        A driver registers before it starts or takes a trial. So whoever owns one of these trials is among the drivers
        that are read after them; read before, one that has just come would be unknown, and be taken for dead.
        """
        unfinished = self._unfinished()
        self._look()
        return unfinished

    @contextmanager
    def _writing(self, number: int) -> Iterator[None]:
        """Hold the lock while a trial is written to.

        Raises:
            LeaseLost: another driver took it over and ended it between the look at the claims and the write.
        """
        with self._lock:
            try:
                yield
            except optuna.exceptions.UpdateFinishedTrialError as error:
                self._held.discard(number)
                raise LeaseLost(
                    f"trial {number} of {self.name}: another driver has ended it meanwhile; its write was refused"
                ) from error

    def _set_state(self, trial: FrozenTrial, state: TrialState) -> bool:
        """Set the state of an unfinished trial; return whether it was still one."""
        try:
            self.storage.set_trial_state_values(trial_id(trial), state)
        except optuna.exceptions.UpdateFinishedTrialError:
            logger.debug("trial %d: another driver has ended it meanwhile", trial.number)
            return False
        return True

    def _own(self, trial: FrozenTrial) -> int:
        """Return the fence under which this driver owns a trial; raise `LeaseLost` if it does not."""
        self._claims.refresh()
        owner, fence = self._claims.owner(trial)
        if owner != self.driver:
            self._held.discard(trial.number)
            raise LeaseLost(
                f"trial {trial.number} of {self.name}: owned by {owner or 'nobody'} since take-over {fence}, "
                f"not by this driver ({self.driver}); its write was refused"
            )
        return fence

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        """Return whether nobody runs an unfinished trial: its owner is dead, or is this driver and does not know it."""
        owner, _ = self._claims.owner(trial)
        return trial.number not in self._held if owner == self.driver else self._watch.is_dead(owner)

    def _orphans_with_room(self, unfinished: list[FrozenTrial], places: int) -> list[FrozenTrial]:
        """Return the orphans that are to be adopted now, and give the others back.

        A study that was made shorter may have more unfinished trials than places. Those that somebody runs keep theirs;
        then the lowest numbers get one, so that all drivers choose the same. An orphan that is only to be ended, or to
        be withdrawn, needs none.
        """
        orphans = [trial for trial in unfinished if self._is_orphan(trial)]
        ends = {trial.number: self._ender.committed(trial) for trial in orphans}
        ending = sum(end in ("complete", "pruned") for end in ends.values())
        room = places - self._history.finished - (len(unfinished) - len(orphans)) - ending
        kept: list[FrozenTrial] = []
        for trial in orphans:
            needs_place = READY in trial.user_attrs and not ends[trial.number]
            if room > 0 or not needs_place:
                kept.append(trial)
                room -= needs_place
            elif trial.state == TrialState.RUNNING:
                self._repair(trial)
        return kept

    def _adopt(self, trial: FrozenTrial) -> FrozenTrial | None:
        """Return an orphan if it has become this driver's and is still to be run."""
        mine = self._claims.owner(trial)[0] == self.driver
        if READY not in trial.user_attrs:
            withdraw(self.storage, trial, "abandoned")
            return None
        if not mine and not self._claims.take(trial, self.driver):
            return None
        trial = self.storage.get_trial(trial_id(trial))
        if trial.state.is_finished() or self._ender.finish_committed(trial):
            return None
        if trial.state == TrialState.WAITING and not self._set_state(trial, TrialState.RUNNING):
            return None
        return trial

    def _give_back(self, trial: FrozenTrial) -> None:
        """Free a trial of this driver for any other. The state comes first: an adopter sets it after its claim."""
        if READY not in trial.user_attrs:
            withdraw(self.storage, trial, "abandoned")
        elif self._set_state(trial, TrialState.WAITING):
            self._claims.take(trial, NOBODY)
        self._held.discard(trial.number)
