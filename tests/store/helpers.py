"""Configurations, trials that run, and drivers in processes that can be killed, for the tests of the store."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any
from unittest import mock

from rankray.config.schema import Config
from rankray.contracts import Report
from rankray.store.study import open_study

SPACE = {
    "loss.objective": {"choice": ["sft", "rri"]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.temperature": {"float": [0.25, 8.0], "log": True, "when": {"loss.objective": "rri"}},
    "train.learning_rate": {"float": [1e-6, 1e-3], "log": True},
}
FULL = 40
STEPS = (10, 20, 30, 40)


def make_config(*, study: dict[str, Any] | None = None, **changes: Any) -> Config:
    tree: dict[str, Any] = {
        "name": "s",
        "model": {"path": "m"},
        "data": {"train": "a.jsonl", "eval": "b.jsonl"},
        "train": {"max_steps": FULL},
        "evaluate": {"every_steps": 10},
        "space": SPACE,
        "study": {
            "trials": 8,
            "known": [],
            "sampler": "random",
            "pruner": "successive_halving",
            **(study or {}),
        },
    }
    return Config.model_validate({**tree, **changes})


def nll(params: dict[str, Any], step: int) -> float:
    """What a trial with these parameters measures at a step: the same for every driver."""
    return abs(params["train.learning_rate"] * 1e3 - 0.3) + params.get("loss.temperature", 1.0) / 10 + 1.0 / step


def said(params: dict[str, Any], step: int) -> Report:
    return Report(step, {"eval/nll": nll(params, step), "train/loss": 0.5}, f"checkpoint-{step}")


def run_trial(store: Any, ticket: Any, step_seconds: float = 0) -> None:
    """Run a trial as a trainer does: from its last checkpoint, to its end or a stop; wait after each report."""
    done = int(ticket.checkpoint.rpartition("-")[2]) if ticket.checkpoint else 0
    for step in STEPS:
        if step > done and store.report(ticket.number, said(ticket.params, step)).stop:
            return
        time.sleep(step_seconds)
    store.complete(ticket.number, said(ticket.params, FULL).metrics)


def begin(store: Any) -> Any:
    ticket = store.next_trial()
    assert ticket is not None
    return ticket


def begin_and_die(store: Any) -> None:
    """Leave what a driver leaves if it is killed between creating a trial and judging its place; without parameters.

    Earlier versions, and optuna itself, create a trial before its parameters.
    """
    store._history.refresh()
    key, origin, _ = store._asker._open_point()
    store._asker._create(key, origin, ({}, {}, {}))


def wait_for(happened: Callable[[], object], seconds: float = 120) -> None:
    """Wait until something has happened; the limit is for machines that are busy with other things."""
    limit = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < limit, f"did not happen within {seconds} s"
        time.sleep(0.01)


def states(store: Any) -> list[str]:
    return [trial.state.name for trial in store.storage.get_all_trials(store.study_id)]


def stored(store: Any, number: int) -> Any:
    return store.storage.get_all_trials(store.study_id)[number]


def drive(store: Any, step_seconds: float = 0) -> None:
    """Work on a study until its budget is used up."""
    with store:
        while not store.done:
            ticket = store.next_trial()
            if ticket is None:
                time.sleep(0.02)
            else:
                run_trial(store, ticket, step_seconds)


class Driver:
    """A driver in a process, forked from a server that has imported everything, so that it starts at once."""

    def __init__(self, url: str, config: Config, *, waits: bool = False, step_seconds: float = 0) -> None:
        _start_server()
        ours, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=main, args=(url, config.model_dump_json(), theirs, step_seconds))
        self.process.start()
        theirs.close()
        assert ours.recv() == "ready"
        self._pipe = ours
        if not waits:
            self.go()

    def go(self) -> None:
        """Let it work: until then it only has the study open."""
        self._pipe.send("go")

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def finish(self, timeout: float = 300) -> None:
        self.process.join(timeout)
        assert self.process.exitcode == 0


def main(url: str, config: str, ready: Any, step_seconds: float) -> None:
    store = open_study(url, Config.model_validate_json(config))
    ready.send("ready")
    assert ready.recv() == "go"
    drive(store, step_seconds)


_CONTEXT = multiprocessing.get_context("forkserver")


def _start_server() -> None:
    """Start the server, unless it runs, in an environment in which it finds what it is to import."""
    heavy = ["store.helpers", "optuna.storages._rdb.models", "alembic.migration", "alembic.script"]
    _CONTEXT.set_forkserver_preload(heavy)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)):
        forkserver.ensure_running()
