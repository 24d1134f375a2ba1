"""Tune's scheduler, as thin as it can be: every verdict comes from the store.

Tune passes a scheduler every result of a running trial, with the Trial, whose config carries the store's number
(docs/traps.md). Each event a trial's actor sends (see `actor`) is written to the store here and nowhere else.
"""

from __future__ import annotations

import json
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from rankray.cluster.deaths import gone_nodes, node_went, nodes_of, tune_error
from rankray.contracts import Report
from rankray.errors import StorageError, StorageFull
from rankray.search.actor import EVENT
from rankray.search.control import Control
from rankray.search.delivery import StoreOutbox
from rankray.search.events import BEAT, DAMAGED, FAILURE, LOST, NOTE, OUTCOME, REPORT
from rankray.search.news import News

MAX_DEATHS = 3
"""How often the process of one trial dies without progress before the trial counts as the cause and fails."""
STORAGE_FAILS = tuple(f"{kind.__name__}: " for kind in (StorageError, StorageFull))
"""How the reason of a trial begins that could not write its checkpoint, or read it."""
HEALTH_SECONDS = 25.0
"""How long Ray may take to notice that a node is gone: five health checks, one every three seconds, and a margin."""


class StoreScheduler(FIFOScheduler):
    """Passes events to the store and verdicts to Tune.

    Args:
        outbox: takes what is written to the store.
        control: live trials, failures, stop requests.
        news: notified of every end.
        metric: the study's metric, whose value an end comes with.
    """

    _supports_buffered_results = False

    def __init__(self, outbox: StoreOutbox, control: Control, news: News, metric: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._outbox, self._control, self._news, self._study_metric = outbox, control, news, metric

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Write a trial's event to the store; return whether the trial continues."""
        number, event = int(trial.config["number"]), json.loads(result[EVENT])
        if not self._holds(trial, number):
            return TrialScheduler.STOP
        self._control.processes.heard(trial.trial_id, event.get(BEAT))
        if BEAT in event:
            return TrialScheduler.CONTINUE
        if REPORT in event:
            return self._report(number, Report(**event[REPORT]))
        if NOTE in event:
            self._news.phase(f"trial {number}: {event[NOTE]}")
            return TrialScheduler.CONTINUE
        if LOST in event and event[LOST].get("ends"):
            self._give_back(trial, number, event[LOST]["reason"])
            return TrialScheduler.CONTINUE
        if DAMAGED in event:
            self._damaged(number, **event[DAMAGED])
        elif LOST in event and event[LOST].get("silent"):
            self._silent(trial, number)
        elif LOST in event:
            lost = event[LOST]
            self._lost(trial, number, lost["reason"], lost["blameless"], lost["nodes"])
        elif FAILURE in event:
            self._fail(number, **event[FAILURE])
        elif preempted := event[OUTCOME]["preempted"]:
            again = "resumes" if self._control.interrupted else "continues elsewhere"
            reason = f"{preempted}; it {again} from step {event[OUTCOME]['steps']}"
            self._give_back(trial, number, reason, preempted=True)
            # The next step ends a drained process. Of an interrupted search nobody waits for that any more.
            return TrialScheduler.STOP if self._control.interrupted else TrialScheduler.CONTINUE
        else:
            self._complete(number, event[OUTCOME])
        return TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial's process died. The trial is resumed elsewhere, unless its processes keep dying."""
        number = int(trial.config["number"])
        if not self._holds(trial, number):
            return
        if self._control.processes.was_ended(trial.trial_id):
            self._silent(trial, number)
        else:
            error = tune_error(trial)
            self._lost(trial, number, f"{type(error).__name__}: {error}", node_went(error), nodes_of(error))

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that never ran is given back."""
        number = int(trial.config["number"])
        if self._holds(trial, number):
            self._give_back(trial, number, "not started")

    def dropped(self, number: int) -> None:
        """A trial that Tune ended without telling us (docs/traps.md, or an interruption) is given back."""
        self._outbox.release(number)
        self._end(number, "lost", None, "given back")

    def _holds(self, trial: Trial, number: int) -> bool:
        """Return whether this Tune trial still has the store's trial: not ended, given back or handed to another."""
        return self._control.live.get(number) == trial.trial_id

    def _lost(self, trial: Trial, number: int, reason: str, blameless: bool, nodes: list[str]) -> None:
        """The processes that trained the trial are gone.

        Whether their node is gone too is often known only later. So each death is kept with its nodes, and looked at
        again when there are enough of them to fail the trial: deaths with a node that is gone no longer count. Nor do
        those before the trial's latest progress (`Control.reported`): spot machines may end the processes of a trial
        any number of times, and it still comes to its end.
        """
        if blameless:
            self._give_back(trial, number, "its node is gone; it will resume from its last checkpoint")
            return
        deaths = self._control.deaths.setdefault(number, [])
        deaths.append(nodes)
        if len(deaths) >= MAX_DEATHS:
            gone = gone_nodes((node for death in deaths[:-1] for node in death), 0.0) | gone_nodes(
                nodes, HEALTH_SECONDS
            )
            deaths[:] = [death for death in deaths if gone.isdisjoint(death)]
        if len(deaths) >= MAX_DEATHS:
            self._fail(number, f"the trial's process died {len(deaths)} times without getting further", reason)
        else:
            self._give_back(trial, number, "its process died; it will resume from its last checkpoint")

    def _silent(self, trial: Trial, number: int) -> None:
        """The process of a trial did not answer any more, and was ended: frozen, which is not the trial's fault.

        Code of the trial that lets nothing else run looks the same. So a trial whose processes are silent again and
        again, without getting any further in between, is the cause.
        """
        limit = f"{self._control.processes.limit_seconds:g} s (RANKRAY_SILENCE_SECONDS)"
        times = self._control.silences[number] = self._control.silences.get(number, 0) + 1
        if times >= MAX_DEATHS:
            reason = f"the trial's process did not answer for {limit}, {times} times without getting further"
            self._fail(number, reason, "")
        else:
            reason = f"its process did not answer for {limit} and was ended; it will resume from its last checkpoint"
            self._give_back(trial, number, reason)

    def _give_back(self, trial: Trial, number: int, reason: str, preempted: bool = False) -> None:
        started = trial.run_metadata.start_time
        self._outbox.release(number, self._control.work_lost(number, started, reason, preempted))
        self._end(number, "lost", None, reason)

    def _damaged(self, number: int, checkpoint: str, reason: str) -> None:
        self._outbox.damaged(number, checkpoint, reason)
        self._end(number, "lost", None, f"its checkpoint {checkpoint} is damaged ({reason}); the one before is used")

    def _report(self, number: int, report: Report) -> str:
        verdict = self._outbox.report(number, report)
        self._control.reported(number, report)
        if not verdict.stop:
            return TrialScheduler.CONTINUE
        self._control.stopped(number, verdict.reason)
        value = report.metrics.get(self._study_metric)
        if verdict.failed:
            self._control.failure(number, verdict.reason, "")
            self._end(number, "failed", None, verdict.reason)
        else:
            self._control.success()
            self._end(number, "pruned", value, verdict.reason)
        return TrialScheduler.STOP

    def _complete(self, number: int, outcome: dict[str, Any]) -> None:
        self._outbox.complete(number, outcome["metrics"])
        self._control.success()
        self._end(number, "complete", outcome["metrics"].get(self._study_metric), "")

    def _fail(self, number: int, reason: str, traceback: str) -> None:
        if reason.startswith(STORAGE_FAILS):
            self._stop_for_the_storage(number, reason.partition(": ")[2])
            return
        if self._outbox.fail(number, reason, traceback):
            self._end(number, "lost", None, f"{reason}; it will be tried again")
            return
        self._control.failure(number, reason, traceback)
        self._end(number, "failed", None, reason)

    def _stop_for_the_storage(self, number: int, reason: str) -> None:
        """No trial can save its work, which none is to blame for: the search ends, and resumes from what was saved."""
        self._outbox.release(number)
        self._control.error = self._control.error or f"{reason}; then run the same command again to resume"
        self._end(number, "lost", None, reason)

    def _end(self, number: int, state: str, value: float | None, reason: str) -> None:
        self._control.live.pop(number, None)
        self._news.ended(number, state, value, reason)

    def __getstate__(self) -> dict[str, Any]:
        return {}
