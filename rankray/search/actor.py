"""The Tune actor that trains one-worker trials, one after another, in the same process.

`finetune.run` reports by calling; Tune asks by `step()`. Training runs in a thread that lives as long as the actor: a
report becomes the result of the current `step()`, and the thread then waits for the verdict, which is the next `step()`
(continue) or a reset (stop). So no trial computes past a rung at which it is stopped, and imports, tokenizer, data and
base weights stay loaded for the next trial. A reset brings the next trial, and in `stops` why the one before it was
stopped (see `searcher`); where no further trial comes, the search itself is ending. Training begins with a trial's
first step, not with its actor: Tune may give the trial to a free actor while a new one for it is starting
(docs/traps.md).

A step returns one JSON string under `EVENT` (Tune flattens dicts), and never Tune's `done`, of which the scheduler is
not told (docs/traps.md). The JSON has one key:

    report   {"step", "metrics", "checkpoint"}
    outcome  {"metrics", "steps", "checkpoint", "stopped", "preempted"}
    failure  {"reason", "traceback"}
    lost     {"reason", "blameless", "nodes", "ends"}
    damaged  {"checkpoint", "reason"}
    note     a line for people
    beat     what distinguishes this process

The first event of each trial is a beat, and there is another one where nothing has happened for a quarter of
`silence_seconds`: the driver ends a process that sends nothing for that long (see `silence`).

An exception in training is a result like any other: the process is sound and is used again, unless its accelerator
may be broken or its training thread hangs; then it gives the trial that it is handed next back untouched (an event
`lost` with `ends`), and ends. That trial is not charged with the death. When a
trial is preempted, because its node is being taken away, the process ends too: no other trial may start there.
`reset_config` never returns False, which would end a trial without telling the scheduler (docs/traps.md).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import ray
from ray.tune import Trainable

from rankray import logs
from rankray.checkpoints import manifest, staging
from rankray.cluster.deaths import WorkersLost
from rankray.cluster.drain import DrainWatcher
from rankray.cluster.environment import libraries_first, quick_imports
from rankray.cluster.nodes import names_of
from rankray.cluster.processes import this_worker
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.errors import CheckpointDamaged
from rankray.search.events import BEAT, DAMAGED, FAILURE, LOST, NOTE, OUTCOME, REPORT

logger = logging.getLogger(__name__)

EVENT = "rankray"
CLOSE_SECONDS = 20.0
"""How long an ending process waits for its worker group to release its resources."""
STOP_SECONDS = 120.0
"""How long a stopped trial may take to leave its training loop; then its process is killed."""
SEARCH_ENDS = "the search is ending"
"""Why a trial is stopped whose process is given no reason."""


class _Rendezvous:
    """The reporter of a training thread; the actor's thread puts the verdicts into `answer`.

    Attributes:
        heard_at: when the thread last gave a sign of life (a step, a line for people), on the monotonic clock.
    """

    def __init__(self, preemption: Callable[[], str]) -> None:
        self.heard_at = time.monotonic()
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answer: queue.Queue[Verdict] = queue.Queue()
        self.stopped: Verdict | None = None
        self.preemption = preemption

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """The heartbeat: a step was made."""
        self.heard_at = time.monotonic()

    def report(self, report: Report) -> Verdict:
        if self.stopped is None:
            self.events.put({REPORT: dataclasses.asdict(report)})
            verdict = self.answer.get()
            self.heard_at = time.monotonic()
            if not verdict.stop:
                return verdict
            self.stopped = verdict
        return self.stopped

    def note(self, line: str) -> None:
        self.heard_at = time.monotonic()
        self.events.put({NOTE: line})


class ProcessBroken(Exception):
    """The process cannot train any more, and gave its trial back; it has to end."""


class NodeDrained(Exception):
    """The trial was preempted and has its checkpoint; its process has to end too."""


class TrialActor(Trainable):
    """Trains the trial in `config["spec"]`, a `TrialSpec` as one JSON string.

    `config["stops"]` is the JSON of `{number: reason}`, where the trial before may find why it was stopped.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Make the training thread, and take the first trial."""
        libraries_first()
        logs.configure()
        self._jobs: queue.Queue[tuple[TrialSpec, _Rendezvous] | None] = queue.Queue()
        self._handed: tuple[TrialSpec, _Rendezvous] | None = None
        self._broken_by = ""
        self._last_event: dict[str, Any] = {}
        self._limit_seconds: float | None = None
        self._waiting = False
        self._preempted = ""
        self._process, self._silence_seconds = this_worker(), float(config["silence_seconds"])
        self._trainer = _Trainer(config.get("launch", ""), self._silence_seconds)
        self._new_here, self._introduced = True, False
        self._drain = DrainWatcher(config.get("launch", ""))
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()
        self._take(config)

    def step(self) -> dict[str, Any]:
        """Let the trial begin or continue, and wait for its next event.

        Raises:
            NodeDrained: it was preempted, and the scheduler knows.
            ProcessBroken: the process gave its trial back, and the scheduler knows.
        """
        if self._preempted:
            raise NodeDrained(self._preempted)
        if self._broken_by and LOST in self._last_event:
            raise ProcessBroken(self._broken_by)
        if self._handed is not None:
            self._idle.clear()
            self._rendezvous.heard_at = time.monotonic()
            self._jobs.put(self._handed)
            self._handed = None
        if self._waiting:
            self._rendezvous.heard_at = time.monotonic()
            self._rendezvous.answer.put(Verdict(stop=False))
        event = self._last_event = self._next_event()
        self._waiting = REPORT in event
        if self._waiting and self._new_here:
            event[REPORT]["node"] = self._trainer.node()
            self._new_here = False
        self._preempted = event.get(OUTCOME, {}).get("preempted", "")
        return {EVENT: json.dumps(event)}

    def _next_event(self) -> dict[str, Any]:
        """Say who this process is, at first; then wait for the training thread, and beat meanwhile.

        A thread that gives no sign of life for `study.trial_timeout` seconds has failed.
        """
        if not self._introduced:
            self._introduced = True
            return {BEAT: self._process}
        beat_at = time.monotonic() + self._silence_seconds / 4
        limit = self._limit_seconds
        while True:
            hangs_at = math.inf if limit is None else self._rendezvous.heard_at + limit
            try:
                return self._rendezvous.events.get(timeout=max(0.0, min(beat_at, hangs_at) - time.monotonic()))
            except queue.Empty:
                now = time.monotonic()
                if limit is None or now - self._rendezvous.heard_at < limit:
                    if now < beat_at:
                        continue
                    return {BEAT: self._process}
            self._broken_by = f"trial {self._number} hangs"
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else ""
            reason = f"TimeoutError: no step and no report for {limit:g} s (study.trial_timeout)"
            return {FAILURE: {"reason": reason, "traceback": where}}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop the trial that still runs, if any, and take the next one; always True."""
        if not self._broken_by:
            self._stop(json.loads(new_config.get("stops") or "{}").get(str(self._number), SEARCH_ENDS))
        if self._broken_by:
            self._hand_back(new_config)
        else:
            self._take(new_config)
        return True

    def _hand_back(self, config: dict[str, Any]) -> None:
        """Give the trial back that this process was handed and cannot train."""
        self._rendezvous = _Rendezvous(self._drain)
        self._waiting, self._handed = False, None
        self._number = TrialSpec.from_json(config["spec"]).number
        reason = f"its process could not train it ({self._broken_by}); it starts in another one"
        self._rendezvous.events.put({LOST: {"reason": reason, "blameless": True, "nodes": [], "ends": True}})

    def cleanup(self) -> None:
        """Let the training loop end before the process does; a thread that hangs ends with the process."""
        if not self._broken_by:
            self._stop(SEARCH_ENDS)
        if self._broken_by:
            os.kill(os.getpid(), signal.SIGKILL)
        self._drain.close()
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: a trial writes its own checkpoints, and the store commits them."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial resumes from the checkpoint that its spec names."""

    def _take(self, config: dict[str, Any]) -> None:
        """Take a trial, which its first step begins."""
        self._rendezvous = _Rendezvous(self._drain)
        self._waiting = False
        self._new_here = True
        spec = TrialSpec.from_json(config["spec"])
        self._limit_seconds = spec.config.get("study", {}).get("trial_timeout")
        self._introduced = False
        self._number = spec.number
        self._handed = spec, self._rendezvous

    def _stop(self, reason: str) -> None:
        self._rendezvous.answer.put(Verdict(stop=True, reason=reason))
        if not self._idle.wait(timeout=STOP_SECONDS):
            self._broken_by = self._broken_by or f"trial {self._number} did not stop within {STOP_SECONDS:.0f} s"

    def _work(self) -> None:
        trainer = self._trainer
        while (job := self._jobs.get()) is not None:
            spec, rendezvous = job
            try:
                outcome = trainer.run(spec, rendezvous)
                if outcome.stopped:
                    logger.debug("trial %d stopped at step %d: %s", spec.number, outcome.steps, outcome.stopped)
                rendezvous.events.put({OUTCOME: dataclasses.asdict(outcome)})
            except WorkersLost as lost:
                rendezvous.events.put({LOST: {"reason": str(lost), **lost.as_event()}})
            except CheckpointDamaged as error:
                rendezvous.events.put({DAMAGED: {"checkpoint": spec.checkpoint, "reason": error.why}})
            except BaseException as error:
                if "CUDA" in str(error) or "AcceleratorError" in type(error).__name__:
                    self._broken_by = f"trial {spec.number} left its accelerator broken"
                rendezvous.events.put({FAILURE: trainer.failure(error)})
            finally:
                self._idle.set()
        trainer.close()


class _Trainer:
    """Trains trials in this process, or in a worker group that belongs to it.

    Args:
        launch: the flag that the search raises when it is interrupted.
        silence_seconds: how long a process of a worker group may not answer.
    """

    def __init__(self, launch: str, silence_seconds: float) -> None:
        self._launch, self._silence_seconds = launch, silence_seconds
        self._group: Any = None

    def run(self, spec: TrialSpec, reporter: Reporter) -> Outcome:
        """Train a trial: here if it has one worker, else in a worker group."""
        resources = spec.config.get("resources", {})
        if resources.get("workers", 1) == 1:
            with quick_imports():
                from rankray.finetune import run
            return staging.train(manifest.checked(run), spec, reporter)
        with quick_imports():
            from rankray.search.group import Group
        if self._group is None or not self._group.alive:
            self.close()
            self._group = Group(resources, spec.config["storage"], self._launch, self._silence_seconds)
        outcome: Outcome = self._group.run(spec, reporter)
        return outcome

    def node(self) -> str:
        """Return where the trial that reported is trained, for people: its group's nodes, or this process's.

        Empty where Ray does not say: no trial fails for it.
        """
        if not ray.is_initialized():
            return ""
        try:
            group = self._group
            return names_of(group.nodes() if group is not None else [ray.get_runtime_context().get_node_id()])
        except Exception:
            logger.debug("where a trial is trained is unknown", exc_info=True)
            return ""

    def failure(self, error: BaseException) -> dict[str, str]:
        """Return reason and traceback of an exception; of one that a worker raised, the worker's."""
        first = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {first[0] if first else 'no message'}"
        return {
            "reason": getattr(error, "reason", reason),
            "traceback": getattr(error, "worker_traceback", traceback.format_exc()),
        }

    def close(self) -> None:
        """Release the group's resources."""
        if self._group is not None:
            self._group.close()
            self._group = None
