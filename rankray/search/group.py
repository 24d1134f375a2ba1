"""Trials with several workers: a Ray Train worker group that stays, and trains one trial after another.

`TorchTrainer.fit` starts a controller, a placement group, worker processes and a process group: some fifteen seconds
before the first step, and again for each trial. Here `fit` runs once per trial slot, in a thread of the slot's
`TrialActor`, and its training function takes trials from a mailbox until there are no more. Workers keep what a single
process keeps loaded: imports, tokenizer, tokenised data, base weights.

    TrialActor, a thread per group                      workers
    Group.run(spec, reporter)  ----put-----> mailbox --next_job--> all: finetune.run(spec)
                               <-next_event- mailbox <---send----- the first: its reports and outcome; any: its failure
                               ---answer---> mailbox ---verdict--> the first, which tells the others

When a trial fails, its group ends too, as other workers may wait in a collective operation; the next trial starts a
new group. If workers die instead, or do not answer any more, `Group.run` raises `WorkersLost`: the trial is not to
blame. If Ray Train restarts
the workers, because a group of `[least, most]` workers was resized or a node was preempted, they ask for the same trial
again and resume from its last reported checkpoint.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import logging
import os
import threading
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rankray import logs
from rankray.checkpoints.manifest import checked
from rankray.checkpoints.places import delete, is_remote, join, probe, wrap_errors
from rankray.checkpoints.staging import train
from rankray.cluster.deaths import WorkersLost, node_went, went_silent
from rankray.cluster.drain import DrainWatcher
from rankray.cluster.environment import libraries_first, quick_imports
from rankray.cluster.processes import end_process, this_worker
from rankray.cluster.scratch import claim, remove_leftovers
from rankray.contracts import Outcome, Report, Reporter, TrialSpec, Verdict
from rankray.errors import CheckpointDamaged
from rankray.search.events import DAMAGED, FAILURE, NOTE, OUTCOME, REPORT

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often to check that a silent group is still alive."""
CLOSE_SECONDS = 60.0
"""How long a group may take to end."""
GROUP = ".group-"
"""How the directory of Ray Train begins, in the storage; those of killed processes are deleted by the next group."""
HEALTH_CHECK = "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
"""How long a worker may not answer Ray Train, which otherwise waits for ten minutes."""
RESIZE_SECONDS = 60.0
"""How often to check whether a group of `[least, most]` workers can grow or has to shrink."""


class TrialFailed(Exception):
    """A worker raised an exception in training.

    Attributes:
        reason: its type and first line.
        worker_traceback: where it was raised.
    """

    def __init__(self, reason: str, traceback: str) -> None:
        super().__init__(reason)
        self.reason, self.worker_traceback = reason, traceback


class Group:
    """A worker group that trains one trial after another.

    Args:
        resources: a configuration's `resources:` block, as plain types.
        storage: a place that all nodes can write, where Ray Train keeps its files while the group lives.
        launch: the flag that the search raises when it is interrupted.
        silence_seconds: how long one of its processes may not answer; then the group is given up.
    """

    def __init__(
        self, resources: Mapping[str, Any], storage: str, launch: str = "", silence_seconds: float = 300.0
    ) -> None:
        os.environ.setdefault(HEALTH_CHECK, str(silence_seconds))
        self._silence_seconds = silence_seconds
        here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(_Mailbox).remote()
        who: Any = self._mailbox.who
        self._process: dict[str, Any] = ray.get(who.remote())
        self._numbers = itertools.count(1)
        self._error: BaseException | None = None
        self._launch = launch
        self._mailbox_is_silent = self._without_mailbox = False
        self._storage, self._name = storage, f"{GROUP}{uuid.uuid4().hex[:8]}"
        if not is_remote(storage):
            with wrap_errors(storage):
                remove_leftovers(Path(storage), GROUP)
                Path(storage, self._name).mkdir(parents=True)
                claim(Path(storage, self._name))
        self._thread = threading.Thread(target=self._fit, args=(dict(resources),), name="group", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can take another trial."""
        return self._thread.is_alive() and not self._without_mailbox

    def run(self, spec: TrialSpec, reporter: Reporter) -> Outcome:
        """Train a trial, as `finetune.run` does; `reporter` is called in this process.

        Raises:
            TrialFailed: a worker raised an exception; the group is gone.
            StorageError: the group is gone, and the storage cannot be written.
            CheckpointDamaged: the trial cannot be resumed from its checkpoint; the group is gone.
            WorkersLost: workers died; the group is gone.
        """
        number = next(self._numbers)
        self._call("put", number, spec.to_json())
        while True:
            event = json.loads(self._call("next_event"))
            if NOTE in event:
                getattr(reporter, "note", logger.debug)(event[NOTE])
                continue
            if DAMAGED in event:
                self._thread.join(CLOSE_SECONDS)
                raise CheckpointDamaged(event[DAMAGED]["checkpoint"], event[DAMAGED]["reason"])
            if FAILURE in event:
                self._thread.join(CLOSE_SECONDS)
                raise TrialFailed(**event[FAILURE])
            if OUTCOME in event:
                return Outcome(**event[OUTCOME])
            verdict = reporter.report(Report(**event[REPORT]))
            self._call("answer", json.dumps(dataclasses.asdict(verdict)))

    def nodes(self) -> list[str]:
        """Return the nodes of its workers, as Ray's ids."""
        found: list[str] = self._call("nodes")
        return found

    def close(self) -> None:
        """End the workers and release their resources."""
        if self.alive:
            try:
                self._mailbox.put.remote(0, None)
            except Exception:
                logger.debug("a group's mailbox cannot be reached; the group is killed", exc_info=True)
            self._thread.join(CLOSE_SECONDS)
        ray.kill(self._mailbox)

    def _call(self, method: str, *args: Any) -> Any:
        """Call the mailbox, and check while waiting that it answers, and that the group is still alive."""
        try:
            return self._answer(getattr(self._mailbox, method).remote(*args))
        except RayActorError as error:
            self._without_mailbox = True
            self._thread.join(CLOSE_SECONDS)  # its workers end, as they get no answer either
            reason = f"the mailbox of the trial's worker group is gone: {_first_line(error)}"
            raise WorkersLost(reason, node_went(error), [], self._mailbox_is_silent) from error

    def _answer(self, reference: Any) -> Any:
        ping, answered_at = self._mailbox.nodes.remote(), time.monotonic()
        while True:
            ready, _ = ray.wait([reference], timeout=LOOK_SECONDS)
            if ready:
                return ray.get(reference)
            if not self.alive:
                # An event sent just before the end comes first.
                if ray.wait([reference], timeout=LOOK_SECONDS)[0]:
                    return ray.get(reference)
                probe(self._storage)  # Ray Train writes there too, and says it in its own words
                reason = f"the trial's worker group is gone: {_first_line(self._error)}"
                nodes = ray.get(self._mailbox.nodes.remote())
                silent = went_silent(self._error)
                raise WorkersLost(reason, node_went(self._error), nodes, silent) from self._error
            if ray.wait([ping], timeout=0)[0]:
                ray.get(ping)
                if time.monotonic() - answered_at > self._silence_seconds / 4:
                    ping, answered_at = self._mailbox.nodes.remote(), time.monotonic()
            elif time.monotonic() - answered_at > self._silence_seconds and not self._mailbox_is_silent:
                self._mailbox_is_silent = True
                end_process(self._process)

    def _fit(self, resources: dict[str, Any]) -> None:
        try:
            TorchTrainer(
                _serve,
                train_loop_config={"mailbox": self._mailbox, "launch": self._launch},
                scaling_config=scaling(resources),
                run_config=RunConfig(
                    name=self._name,
                    storage_path=self._storage,
                    failure_config=FailureConfig(max_failures=0),
                ),
            ).fit()
        except BaseException as error:
            self._error = error
        finally:
            delete(join(self._storage, self._name))


def scaling(resources: Mapping[str, Any]) -> ScalingConfig:
    """Return how Ray Train places the workers of one trial."""
    workers, gpus = resources["workers"], resources["gpus_per_worker"]
    number: Any = workers if isinstance(workers, int) else (int(workers[0]), int(workers[1]))
    bundle = {"CPU": float(resources["cpus_per_worker"])} | ({"GPU": float(gpus)} if gpus else {})
    v2: Any = ScalingConfig  # its types are those of Train V1
    scaling: ScalingConfig = v2(
        num_workers=number,
        use_gpu=bool(gpus),
        resources_per_worker=bundle,
        elastic_resize_monitor_interval_s=RESIZE_SECONDS,
    )
    return scaling


def _first_line(error: BaseException | None) -> str:
    lines = str(error or "").strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


class _Mailbox:
    """The actor between a trial slot and the workers of its group."""

    def __init__(self) -> None:
        self._number, self._job = 0, ""
        self._closed = False
        self._changed = asyncio.Condition()
        self._events: asyncio.Queue[str] = asyncio.Queue()
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._nodes: set[str] = set()

    async def put(self, number: int, job: str | None) -> None:
        """Offer the next trial, or None to end the group."""
        async with self._changed:
            self._number, self._job, self._closed = number, job or "", job is None
            self._events, self._answers = asyncio.Queue(), asyncio.Queue()
            self._changed.notify_all()

    async def who(self) -> dict[str, Any]:
        """Return what distinguishes this process."""
        return this_worker()

    async def nodes(self) -> list[str]:
        """Return where workers have asked from, as Ray's node ids."""
        return sorted(self._nodes)

    async def next_job(self, done: int, node: str) -> tuple[int, str] | None:
        """Wait for a trial after number `done`, or None at the end; `node` is where the worker is."""
        self._nodes.add(node)
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._number > done)
            return None if self._closed else (self._number, self._job)

    async def send(self, number: int, event: str) -> str | None:
        """Send the slot an event of trial `number`; if it is a report, wait for the verdict."""
        if number != self._number:
            return None
        await self._events.put(event)
        report = json.loads(event).get(REPORT)
        if report is None:
            return None
        answer = await self._answers.get()
        if report["checkpoint"]:
            self._job = dataclasses.replace(TrialSpec.from_json(self._job), checkpoint=report["checkpoint"]).to_json()
        return answer

    async def next_event(self) -> str:
        """Wait for the next event."""
        return await self._events.get()

    async def answer(self, verdict: str) -> None:
        """Answer a report."""
        await self._answers.put(verdict)


class _Mailed:
    """The reporter of a worker; only the first worker of a group reports."""

    def __init__(self, mailbox: Any, number: int, preemption: DrainWatcher) -> None:
        self._mailbox, self._number, self.preemption = mailbox, number, preemption

    def report(self, report: Report) -> Verdict:
        event = json.dumps({REPORT: dataclasses.asdict(report)})
        answer = ray.get(self._mailbox.send.remote(self._number, event))
        return (
            Verdict(**json.loads(answer)) if answer else Verdict(stop=True, reason="the search has given this trial up")
        )

    def note(self, line: str) -> None:
        ray.get(self._mailbox.send.remote(self._number, json.dumps({NOTE: line})))


def _serve(config: dict[str, Any]) -> None:
    """Train what the mailbox offers, in every worker."""
    libraries_first()
    logs.configure()
    mailbox, done, drain = config["mailbox"], 0, DrainWatcher(config["launch"])
    leads = ray.train.get_context().get_world_rank() == 0
    with quick_imports():
        from rankray.finetune import run
    node = ray.get_runtime_context().get_node_id()
    while (offer := ray.get(mailbox.next_job.remote(done, node))) is not None:
        done, spec = offer[0], TrialSpec.from_json(offer[1])
        try:
            outcome = train(checked(run), spec, _Mailed(mailbox, done, drain), node)
        except CheckpointDamaged as error:
            damage = {"checkpoint": spec.checkpoint, "reason": error.why}
            ray.get(mailbox.send.remote(done, json.dumps({DAMAGED: damage})))
            raise
        except BaseException as error:
            if not _lost_the_others(error):
                failure = {"reason": _first_line(error), "traceback": traceback.format_exc()}
                ray.get(mailbox.send.remote(done, json.dumps({FAILURE: failure})))
            raise
        if leads:
            ray.get(mailbox.send.remote(done, json.dumps({OUTCOME: dataclasses.asdict(outcome)})))


def _lost_the_others(error: BaseException) -> bool:
    """Return whether a worker failed only because another one is gone, judged by what torch's process groups raise."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    words = ("gloo", "NCCL", "ProcessGroup")
    return "DistError" in kinds or ("RuntimeError" in kinds and any(word in str(error) for word in words))
