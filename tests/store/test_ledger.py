from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from rankray.contracts import Report
from rankray.store import attach, open_study, views
from rankray.store.ledger import ENDED, SPENT, covered, price_of, spent_of, worked_until
from rankray.store.move import copy_study
from store.helpers import begin, drive, make_config, run_trial

PRICE = {"g5": {"on_demand": 2.0, "spot": 0.5}, "default": 1.0}


def limited(**budget: Any) -> Any:
    return make_config(study={"trials": 50, "budget": budget, "pruner": "none"})


def record(since: float, until: float, gpu_seconds: float = 0.0, **nodes: Any) -> dict[str, Any]:
    return {"from": since, "to": until, "gpu_seconds": gpu_seconds, "nodes": nodes}


def test_what_overlaps_counts_once() -> None:
    assert covered([]) == 0
    assert covered([(0, 10), (5, 7), (9, 12), (20, 21)]) == 13
    dice = random.Random(4)
    for _ in range(50):
        found = [sorted((dice.randrange(30), dice.randrange(30))) for _ in range(5)]
        seconds = {second for since, until in found for second in range(since, until)}
        assert covered([(since, until) for since, until in found]) == len(seconds)


def test_drivers_add_up_and_shared_nodes_count_once() -> None:
    budget = limited(price=PRICE, money=9.0).study.budget
    attributes = {
        f"{SPENT}a": record(0, 3600, 7200, n1=["g5", False, 0, 3600], n2=["g5", True, 0, 3600]),
        f"{SPENT}b": record(1800, 7200, 3600, n1=["g5", False, 1800, 5400], n3=["m6", False, 1800, 3600]),
        "rankray:driver:a": None,
    }
    spent = spent_of(attributes, budget)
    assert (spent.wall_seconds, spent.gpu_seconds) == (7200, 10800)
    assert spent.money == pytest.approx(2.0 * 1.5 + 0.5 + 1.0 * 0.5)
    assert spent.unpriced == ()
    assert spent.to_json() == {"wall_hours": 2.0, "gpu_hours": 3.0, "money": spent.money, "unpriced": []}


def test_a_node_without_a_price_counts_with_the_highest_one() -> None:
    budget = limited(price={"g5": {"on_demand": 2.0}, "m6": 1.0}).study.budget
    spent = spent_of({f"{SPENT}a": record(0, 3600, 0, n=["p5", False, 0, 3600])}, budget)
    assert (spent.money, spent.unpriced) == (2.0, ("p5",))
    assert price_of(budget, "g5", spot=True) == 2.0, "a spot node without a price of its own"
    assert spent_of({}, limited().study.budget).unpriced == ()


@pytest.mark.parametrize(
    ("budget", "spent", "by", "reason"),
    [
        ({"wall_hours": 2}, record(0, 7200), "wall_hours", "2 of 2 hours are spent"),
        ({"gpu_hours": 3}, record(0, 10, 10_800), "gpu_hours", "3 of 3 GPU-hours are spent"),
        (
            {"money": 1.5, "price": {"default": 2.0}},
            record(0, 2700, 0, n=["", False, 0, 2700]),
            "money",
            "1.5 of 1.5 of money are spent",
        ),
    ],
)
def test_each_limit_ends_the_search_for_every_driver_until_it_is_raised(
    budget: dict[str, Any], spent: dict[str, Any], by: str, reason: str, url: str
) -> None:
    def opened(**changes: Any) -> Any:
        given = {"trials": 50, "budget": {**budget, **changes}, "pruner": "none"}
        return open_study(url, make_config(study=given, resources={"gpus_per_worker": 1}))

    first, other = opened(), opened()
    with first, other:
        waiting = begin(other)
        run_trial(first, begin(first))
        assert (first.done, first.ended) == (False, None)
        first.charge(spent)
        assert (first.done, other.done) == (True, True)
        assert (first.next_trial(), other.next_trial()) == (None, None)
        first.note_end()
    shown = views.status(attach(url, "s"))
    assert shown["state"] == "complete"
    assert shown["ended"] == {"by": by, "reason": reason}
    assert shown["trials"]["waiting"] == 1
    assert shown["budget"] == {"trials": 50, "finished": 1, by: budget[by]}
    assert attach(url, "s").storage.get_study_user_attrs(first.study_id)[ENDED] == shown["ended"]
    raised = opened(**{by: budget[by] * 2})
    raised.note_end()
    assert views.status(attach(url, "s"))["ended"] is None
    with raised:
        assert begin(raised).number == waiting.number, "what waited is continued first"


def test_a_driver_s_record_is_its_own_and_lasts(url: str) -> None:
    config = limited(wall_hours=100)
    for start in (0, 1000, 2000):
        with open_study(url, config) as store:
            store.charge(record(start, start + 5))
            store.charge(record(start, start + 10, 4))
    spent = attach(url, "s").spent
    assert (spent.wall_seconds, spent.gpu_seconds) == (30, 12)


def test_a_copy_has_spent_what_the_original_has(sqlite_url: str, journal_url: str) -> None:
    with open_study(sqlite_url, limited(wall_hours=1)) as store:
        store.charge(record(0, 3600))
    copy_study(sqlite_url, journal_url, "s")
    assert attach(journal_url, "s").done


def values(store: Any, *given: tuple[float, float | None]) -> None:
    """Finish trials with these values of the study's metric and standard errors."""
    metric = store.config.study.metric
    for value, error in given:
        metrics = {"eval/nll": 1.0, metric: value} | ({} if error is None else {f"{metric}_stderr": error})
        number = begin(store).number
        for step in (10, 40):
            store.report(number, Report(step, metrics))
        store.complete(number, metrics)


def test_a_plateau_ends_it_and_a_step_beyond_noise_does_not(file_url: str) -> None:
    study = {"trials": 50, "budget": {"plateau": 3}, "metric": "eval/accuracy", "pruner": "none"}
    evaluate = {"every_steps": 10, "metrics": ["nll", "accuracy"]}
    with open_study(file_url, make_config(study=study, evaluate=evaluate)) as store:
        values(store, (0.2, 0.1), (0.25, 0.1), (0.29, 0.1))
        assert store.ended is None, "two in a row"
        values(store, (0.35, 0.1), (0.4, 0.1), (0.43, 0.1))
        assert store.ended is None, "small steps add up to one beyond noise"
        values(store, (0.1, 0.1))
        end = store.ended
    assert end is not None
    assert end.by == "plateau"
    assert end.reason == (
        "3 finished trials in a row were not better than eval/accuracy 0.35 (trial 3) by more than 0.1"
    )


def test_a_plateau_without_noise_counts_anything_better_and_pruned_trials_too(file_url: str) -> None:
    config = make_config(study={"trials": 50, "budget": {"plateau": 4}, "pruner": "successive_halving"})
    with open_study(file_url, config) as store:
        values(store, (2.0, None), (1.99, 0.1))  # the error of an NLL over examples that both have seen is no noise
        for value in (9.0, 9.1):
            assert store.report(begin(store).number, Report(10, {"eval/nll": value})).stop
        values(store, (2.5, None))
        assert store.ended is None
        store.fail(begin(store).number, "broken")
        assert store.ended is None, "failed trials say nothing"
        values(store, (2.6, None))
        assert store.done


def test_what_a_pruned_trial_reached_early_is_no_best_one(file_url: str) -> None:
    """Where the metric rises after its start, each pruned trial would look better than all whole ones."""
    config = make_config(study={"trials": 50, "budget": {"plateau": 4}, "pruner": "successive_halving"})
    with open_study(file_url, config) as store:
        for _ in range(3):
            ticket = begin(store)
            store.report(ticket.number, Report(10, {"eval/nll": 0.1}))
            store.complete(ticket.number, {"eval/nll": 2.0})
        assert store.report(begin(store).number, Report(10, {"eval/nll": 1.0})).stop
        assert store.ended is None
        assert store.report(begin(store).number, Report(10, {"eval/nll": 0.9})).stop
        assert store.ended is not None
        assert "not better than eval/nll 2 (trial 0)" in store.ended.reason


def test_the_number_of_trials_ends_it_with_a_word_too(file_url: str) -> None:
    store = open_study(file_url, make_config(study={"trials": 2}))
    drive(store)
    store.note_end()
    assert views.status(store)["ended"] == {"by": "trials", "reason": "2 of 2 trials are finished"}


def test_a_death_between_any_two_writes_loses_at_most_the_last_seconds(url: str) -> None:
    """A driver charges, ends the search, and dies before it says so: the next one sees the end, and notes it."""
    config = limited(wall_hours=1)
    for charged in (900.0, 1800.0, 3600.0):
        dead = open_study(url, config).join()
        dead.charge(record(charged - 900.0, charged))
        begin(dead) if charged < 3600.0 else None
        dead._lease._stop.set()
    store = open_study(url, config)
    assert store.spent.wall_seconds == 900 + 900 + 900
    store.charge(record(1800.0, 2700.0))
    assert store.done
    assert ENDED not in store.storage.get_study_user_attrs(store.study_id)
    for _ in range(2):
        store.note_end()
        assert store.storage.get_study_user_attrs(store.study_id)[ENDED]["by"] == "wall_hours"


@pytest.mark.parametrize(
    "stored",
    [
        None,
        "x",
        {"from": "x"},
        {"from": 0.0, "to": float("inf")},
        {"from": 0.0, "to": float("nan")},
        {"from": 5.0, "to": 5.0, "nodes": {"n": [1]}},
    ],
)
def test_what_is_malformed_of_a_driver_s_record_is_left_out(stored: Any) -> None:
    budget = limited(price={"g5": 3600.0}, money=9.0).study.budget
    attributes = {f"{SPENT}a": stored, f"{SPENT}b": record(10, 20, 3.0, n=["g5", False, 10, 20])}
    spent = spent_of(attributes, budget)
    assert (spent.wall_seconds, spent.gpu_seconds, spent.money) == (10, 3.0, 10.0)
    assert worked_until(attributes)["b"] == datetime.fromtimestamp(20, UTC)
