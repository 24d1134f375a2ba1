"""Whole: what a study starts with and ends by survives a kill at any write of a whole search.

One write in EVERY is the last one of a process, beginning with a drawn one; `make test-all` takes each of them.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest

from rankray.contracts import Report
from rankray.store import StudyStore, attach, open_study, views
from rankray.store.backend import RetryingStorage
from rankray.store.records import ORIGIN, POINT, is_void
from store.helpers import make_config

WRITES = (
    "create_new_study",
    "create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "write_step",
)
EVERY = 6
POINTED = {"loss.objective": "sft", "train.learning_rate": 2e-4}
BOTH = {"every_steps": 10, "metrics": ["nll", "accuracy"]}
LIMITS = {"plateau": 2, "wall_hours": 1, "gpu_hours": 2, "money": 3.0}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Counter[str]]] = {
    "known": (
        {"trials": 5, "known": ["paper", "sft", POINTED]},
        {},
        Counter({"baseline:sft": 1, "baseline:paper": 1, "known": 1, "sampler": 2}),
    ),
    "warm start": (
        {"trials": 4, "warm_start": ["earlier", POINTED]},
        {},
        Counter({"warm_start:earlier": 1, "warm_start": 1, "sampler": 2}),
    ),
    "trials": ({"trials": 3}, {}, Counter({"sampler": 3})),
    "plateau": ({"trials": 50, "budget": {"plateau": LIMITS["plateau"]}, "known": [POINTED]}, {}, Counter()),
    "wall_hours": ({"trials": 50, "budget": {"wall_hours": LIMITS["wall_hours"]}}, {}, Counter()),
    "gpu_hours": ({"trials": 50, "budget": {"gpu_hours": LIMITS["gpu_hours"]}}, {}, Counter()),
    "money": ({"trials": 50, "budget": {"money": LIMITS["money"], "price": {"a": {"spot": 3.0}}}}, {}, Counter()),
    "several metrics": (
        {"trials": 3, "metrics": ["eval/accuracy", "eval/nll"], "known": [POINTED]},
        {"evaluate": BOTH},
        Counter({"known": 1, "sampler": 2}),
    ),
}


class Killed(BaseException):
    """Not an Exception, so that nothing catches it."""


def measured(params: dict[str, Any]) -> dict[str, float]:
    """What a run of these parameters gives: the same for every driver."""
    rate = params["train.learning_rate"] * 1e3
    return {"eval/nll": 2.0 - rate, "eval/accuracy": rate}


def search(url: str, config: Any, seen: list[StudyStore]) -> None:
    """Search to the end; every trial takes twenty minutes of two GPUs of one spot node."""
    store = open_study(url, config)
    seen.append(store)
    store.join()
    began = 1200.0 * len(store.trials())
    while not store.done and (ticket := store.next_trial()) is not None:
        store.report(ticket.number, Report(10, measured(ticket.params), "c10"))
        store.complete(ticket.number, measured(ticket.params))
        ends = max(began, 1200.0 * ticket.number) + 1200.0
        node = ["a", True, began, ends]
        store.charge({"from": began, "to": ends, "gpu_seconds": 2 * (ends - began), "nodes": {"n": node}})
    store.note_end()
    store.leave()


def kill_at(patch: Any, write: int) -> None:
    """Let the process die instead of making its n-th write; what other threads write is not counted."""
    left = [write]
    for name in WRITES:
        real = getattr(RetryingStorage, name)

        def call(self: Any, *args: Any, real: Any = real, **more: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return real(self, *args, **more)

        patch.setattr(RetryingStorage, name, call)


def bury(seen: list[StudyStore]) -> None:
    """What remains to be seen of dead drivers: others notice at once that they are gone."""
    for store in seen:
        if store._lease.begun:
            store._lease.drop()


@pytest.mark.parametrize("every", [EVERY, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_a_search_killed_at_a_write_ends_as_if_it_had_not_been(
    case: str, every: int, journal_url: str, seed: int, monkeypatch: Any
) -> None:
    study, more, origins = CASES[case]
    short = {"train": {"max_steps": 10}, "evaluate": {"every_steps": 10}, **more}
    if "warm_start" in study:
        search(journal_url, make_config(name="earlier", study={"trials": 2}, **short), [])
    write, killed = seed % every, True
    while killed:
        seen: list[StudyStore] = []
        config = make_config(name=f"s{write}", study={"pruner": "none", **study}, **short)
        with monkeypatch.context() as patch:
            kill_at(patch, write)
            try:
                search(journal_url, config, seen)
                killed = False
            except Killed:
                pass
        bury(seen)
        search(journal_url, config, [])  # the same command again
        found = attach(journal_url, config.name)
        trials = [trial for trial in found.trials() if not is_void(trial)]
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        tried = [trial.user_attrs[POINT] for trial in trials if POINT in trial.user_attrs]
        assert len(tried) == len(set(tried)), "each point once"
        if origins:
            assert Counter(trial.user_attrs[ORIGIN] for trial in trials) == origins
        ended = views.status(found)["ended"]
        assert ended["by"] == (case if case in LIMITS else "trials")
        if case in ("wall_hours", "gpu_hours", "money"):
            assert found.spent.to_json()[case] >= LIMITS[case] > found.spent.to_json()[case] / 3
        if case == "several metrics":
            best = max(trial.params["train.learning_rate"] for trial in trials)
            assert [each["params"]["train.learning_rate"] for each in views.best(found)["front"]] == [best]
        write += every
    assert write > 10
