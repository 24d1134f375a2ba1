"""The Tune actor that trains one-worker trials, one after another, in the same process.

`finetune.run` reports by calling; Tune asks by `step()`. Between them stands a thread that lives as long as the actor:
a report is handed over as the result of the current `step()`, and the thread then waits until the verdict is known,
which is the next `step()` (go on) or a reset (stop). So no trial computes past a rung it was to be stopped at, and
imports, tokenizer, data and base weights stay where they are for the next trial.

What a step returns is one JSON string under `EVENT` (Tune flattens dicts), and never Tune's `done`, which would pass
the scheduler by (trap 5). The JSON has one key:

    report   {"step", "metrics", "checkpoint"}
    outcome  {"metrics", "steps", "checkpoint", "stopped", "preempted"}
    failure  {"reason", "traceback"}
    lost     {"reason", "blameless", "nodes"}

An exception in training is a result like any other: the process is sound and is used again, unless the accelerator
is in doubt; then the process ends itself at the next reset, and the trial it was to take is placed anew. A trial that
left its place, because the node is being taken away, takes the process with it: no other trial may start there.
`reset_config` never returns False, which would end a trial without telling anybody (trap 6).
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable
from typing import Any

from ray.tune import Trainable

from rankray.checkpoints import staging
from rankray.cluster.deaths import WorkersLost
from rankray.cluster.drain import DrainWatcher
from rankray.cluster.environment import quick_imports
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.search.events import FAILURE, LOST, OUTCOME, REPORT

EVENT = "rankray"
CLOSE_SECONDS = 20.0
"""How long the end of a process waits for its worker group to give back what it held."""
STOP_SECONDS = 120.0
"""How long a stopped trial may take to leave its training loop before the process is given up."""


class _Rendezvous:
    """The reporter a training thread talks to; `answer` is filled by the actor's thread."""

    def __init__(self, preemption: Callable[[], str]) -> None:
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.answer: queue.Queue[Verdict] = queue.Queue()
        self.stopped: Verdict | None = None
        self.preemption = preemption

    def report(self, report: Report) -> Verdict:
        if self.stopped is None:
            self.events.put({REPORT: dataclasses.asdict(report)})
            verdict = self.answer.get()
            if not verdict.stop:
                return verdict
            self.stopped = verdict
        return self.stopped


class NodeDrained(Exception):
    """The trial was preempted and has its checkpoint; the process is to end too."""


class TrialActor(Trainable):
    """Trains the trial in `config["spec"]`, a `TrialSpec` as one JSON string."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the first trial's training."""
        self._jobs: queue.Queue[tuple[TrialSpec, _Rendezvous] | None] = queue.Queue()
        self._poisoned = False
        self._waiting = False
        self._preempted = ""
        self._drain = DrainWatcher()
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._thread.start()
        self._start(config)

    def step(self) -> dict[str, Any]:
        """Let the trial go on, and wait for what it has to say next.

        Raises:
            NodeDrained: it has left.
        """
        if self._preempted:
            raise NodeDrained(self._preempted)
        if self._waiting:
            self._talk.answer.put(Verdict(stop=False))
        event = self._talk.events.get()
        self._waiting = REPORT in event
        self._preempted = event.get(OUTCOME, {}).get("preempted", "")
        return {EVENT: json.dumps(event)}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Stop whatever still runs and start the next trial here; always True."""
        self._stop()
        self._start(new_config)
        return True

    def cleanup(self) -> None:
        """Let the training loop end before the process does."""
        self._stop()
        self._drain.close()
        self._jobs.put(None)
        self._thread.join(CLOSE_SECONDS)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: checkpoints are the trial's own, committed in the store."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: a trial goes on from the checkpoint its spec names."""

    def _start(self, config: dict[str, Any]) -> None:
        self._talk = _Rendezvous(self._drain)
        self._waiting = False
        self._idle.clear()
        self._jobs.put((TrialSpec.from_json(config["spec"]), self._talk))

    def _stop(self) -> None:
        self._talk.answer.put(Verdict(stop=True, reason="stopped by the search"))
        if not self._idle.wait(timeout=STOP_SECONDS) or self._poisoned:
            os.kill(os.getpid(), signal.SIGKILL)

    def _work(self) -> None:
        trainer = _Trainer()
        while (job := self._jobs.get()) is not None:
            spec, talk = job
            try:
                talk.events.put({OUTCOME: dataclasses.asdict(trainer.run(spec, talk))})
            except WorkersLost as lost:
                talk.events.put({LOST: {"reason": str(lost), "blameless": lost.blameless, "nodes": lost.nodes}})
            except BaseException as error:
                self._poisoned = "CUDA" in str(error) or "AcceleratorError" in type(error).__name__
                talk.events.put({FAILURE: trainer.failure(error)})
            finally:
                self._idle.set()
        trainer.close()


class _Trainer:
    """Trains trials in this process, or in a worker group of its own."""

    def __init__(self) -> None:
        self._group: Any = None

    def run(self, spec: TrialSpec, reporter: Reporter) -> Outcome:
        """Train a trial where its configuration wants it."""
        resources = spec.config.get("resources", {})
        if resources.get("workers", 1) == 1:
            with quick_imports():
                from rankray.finetune import run
            return staging.train(run, spec, reporter)
        with quick_imports():
            from rankray.search.group import Group
        if self._group is None or not self._group.alive:
            self.close()
            self._group = Group(resources, spec.config["storage"])
        return self._group.run(spec, reporter)

    def failure(self, error: BaseException) -> dict[str, str]:
        """Return what to say of an exception: of a worker's own, what it said itself."""
        first = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {first[0] if first else 'no message'}"
        return {
            "reason": getattr(error, "reason", reason),
            "traceback": getattr(error, "worker_traceback", traceback.format_exc()),
        }

    def close(self) -> None:
        """Give the group's resources back."""
        if self._group is not None:
            self._group.close()
            self._group = None
