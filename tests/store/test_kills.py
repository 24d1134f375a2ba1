"""Whole: drivers that are killed, and drivers that work side by side. Real processes, real signals."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from optuna.trial import TrialState

from rankray.store import open_study
from rankray.store.records import READY, StepRecord, is_void, steps_of
from store.conftest import on_server
from store.helpers import Driver, drive, make_config, wait_for

BUDGET = 24


def check_finished(store: Any, trials: int) -> list[Any]:
    """Check what holds of every finished study, and return its trials, the void ones left out."""
    kept = store.trials()
    everything = store.storage.get_all_trials(store.study_id)
    assert [trial.number for trial in everything] == list(range(len(everything)))
    assert {trial.state for trial in everything} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert [trial.state for trial in kept].count(TrialState.FAIL) == 0
    assert len(kept) == trials
    points = [tuple(trial.params.items()) for trial in kept]
    assert len(set(points)) == len(points)
    for trial in kept:
        steps = steps_of(trial)
        assert trial.intermediate_values == {step: record.metrics["eval/nll"] for step, record in steps.items()}
        assert trial.value == trial.intermediate_values[trial.last_step]
        assert [step for step, record in steps.items() if record.stop] == (
            [max(steps)] if trial.state == TrialState.PRUNED else []
        )
    return kept


def committed(store: Any) -> dict[tuple[int, int], StepRecord]:
    return {(trial.number, step): record for trial in store.trials() for step, record in steps_of(trial).items()}


def test_kills_lose_nothing_and_repeat_nothing(any_url: str, dice: random.Random) -> None:
    sampler = "tpe" if any_url.startswith("journal") else "random"
    kills, trials = (10, 30) if any_url.startswith(("sqlite", "journal")) else (4, 10)
    config = make_config(study={"trials": trials, "sampler": sampler, "warm_start": [{"train.learning_rate": 1e-4}]})
    store = open_study(any_url, config)
    seen: dict[tuple[int, int], StepRecord] = {}
    for _ in range(kills):
        driver = Driver(any_url, config)
        time.sleep(dice.uniform(0.0, 0.2))
        driver.kill()
        now = committed(store)
        assert seen.items() <= now.items()
        seen = now
    drive(store)
    kept = check_finished(store, trials)
    assert seen.items() <= committed(store).items()
    assert [trial.user_attrs["rankray:origin"] for trial in kept].count("warm_start") == 1


def test_three_drivers_share_an_exact_budget(any_url: str) -> None:
    config = make_config(study={"trials": BUDGET, "known": ["sft", "paper"]})
    drivers = [Driver(any_url, config, waits=True) for _ in range(3)]
    for driver in drivers:
        driver.go()
    for driver in drivers:
        driver.finish()
    store = open_study(any_url, config)
    kept = check_finished(store, BUDGET)
    makers = {trial.user_attrs["rankray:driver"] for trial in kept}
    origins = [trial.user_attrs["rankray:origin"] for trial in kept]
    assert len(makers) > 1
    assert (origins.count("baseline:sft"), origins.count("baseline:paper")) == (1, 1)


def test_two_drivers_continue_when_the_third_is_killed(url: str, dice: random.Random) -> None:
    config = make_config(study={"trials": 18})
    store = open_study(url, config)
    drivers = [Driver(url, config) for _ in range(3)]
    wait_for(store.trials)
    time.sleep(dice.uniform(0.0, 0.1))
    drivers[0].kill()
    for driver in drivers[1:]:
        driver.finish()
    check_finished(store, 18)


@pytest.mark.parametrize("kind", ["sqlite", on_server("postgresql"), on_server("mysql")])
def test_a_new_store_opened_by_three_at_once(kind: str, request: pytest.FixtureRequest) -> None:
    """None of them finds tables there."""
    any_url = str(request.getfixturevalue(f"new_{kind}_url"))
    config = make_config(study={"trials": 3})
    drivers = []
    try:
        drivers = [Driver(any_url, config) for _ in range(3)]
    finally:
        for driver in drivers:
            driver.kill()
    store = open_study(any_url, config)
    drive(store)
    assert all(READY in trial.user_attrs for trial in store.trials() if not is_void(trial))
    assert store.finished == 3
