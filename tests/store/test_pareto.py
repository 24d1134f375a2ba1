from __future__ import annotations

import random
from typing import Any

import pytest
from pydantic import ValidationError

from rankray.contracts import Report
from rankray.store import attach, open_study, views
from rankray.store.pareto import dominates, front, joined, weights_for
from rankray.store.strategies import SAMPLERS
from store.helpers import begin, make_config, states

METRICS = ["eval/accuracy", "eval/nll"]


def config(trials: int = 20, **study: Any) -> Any:
    given = {"metrics": METRICS, "trials": trials, "pruner": "none", **study}
    return make_config(study=given, evaluate={"metrics": ["accuracy"], "every_steps": 10})


def finish(store: Any, *values: tuple[float, float]) -> None:
    for accuracy, nll in values:
        store.complete(begin(store).number, {"eval/accuracy": accuracy, "eval/nll": nll})


def test_the_best_has_the_front_and_keeps_its_checkpoints(url: str) -> None:
    with open_study(url, config(keep_best=1)) as store:
        finish(store, (0.5, 1.0), (0.7, 2.5), (0.7, 2.0), (0.4, 0.5), (0.7, 2.0), (0.4, 0.6))
        store.fail(begin(store).number, "broken")
    found = views.best(attach(url, "s"))
    assert found is not None
    assert (found["number"], found["value"]) == (2, 0.7), "1 is as good in the first metric, and 2 beats it"
    assert [(row["number"], row["metrics"]["eval/accuracy"], row["metrics"]["eval/nll"]) for row in found["front"]] == [
        (2, 0.7, 2.0),
        (0, 0.5, 1.0),
        (3, 0.4, 0.5),
    ]
    assert views.retention(store)[1] == {0, 1, 2, 3}


def test_the_front_is_what_nothing_beats(file_url: str) -> None:
    dice = random.Random(7)
    values = [(dice.randrange(6) / 6, dice.randrange(6) / 6) for _ in range(20)]
    with open_study(file_url, config()) as store:
        finish(store, *values)
    costs = [(-accuracy, nll) for accuracy, nll in values]
    unbeaten = {cost for cost in costs if not any(dominates(other, cost) for other in costs)}
    found = front(store.trials(), store.config)
    assert {costs[trial.number] for trial in found} == unbeaten
    assert len(found) == len(unbeaten), "of equals the earliest"


def test_what_a_pruned_trial_reached_on_its_way_is_not_in_the_front(file_url: str) -> None:
    """Only trained to its end a trial says what its setting reaches."""
    with open_study(file_url, config(pruner={"name": "threshold", "upper": 3.0}, prune_on="eval/nll")) as store:
        finish(store, (0.5, 1.0))
        ticket = begin(store)
        assert not store.report(ticket.number, Report(10, {"eval/accuracy": 0.9, "eval/nll": 0.5})).stop
        assert store.report(ticket.number, Report(20, {"eval/accuracy": 0.9, "eval/nll": 4.0})).stop
        assert store.report(begin(store).number, Report(10, {"eval/accuracy": 0.8, "eval/nll": 5.0})).stop
    assert states(store) == ["COMPLETE", "PRUNED", "PRUNED"]
    assert [trial.number for trial in front(store.trials(), store.config)] == [0]


def test_a_study_of_one_metric_has_no_front(file_url: str) -> None:
    with open_study(file_url, make_config()) as store:
        store.complete(begin(store).number, {"eval/nll": 1.0})
    found = views.best(store)
    assert found is not None
    assert "front" not in found


def test_each_proposal_joins_the_metrics_with_weights_of_its_own(file_url: str) -> None:
    with open_study(file_url, config()) as store:
        finish(store, (0.9, 9.0), (0.1, 1.0), (0.5, 5.0))
    weights = [weights_for(store.config, number) for number in range(200)]
    assert all(sum(each) == pytest.approx(1.0) and min(each) > 0 for each in weights)
    assert sum(each[0] for each in weights) / 200 == pytest.approx(0.5, abs=0.1)
    first = {
        max(joined(store.trials(), store.config, number), key=lambda trial: trial.value).number for number in range(50)
    }
    assert first == {0, 1, 2}, "each is the best under some weights"
    assert [trial.value for trial in store.trials()] == [0.9, 0.1, 0.5], "the trials themselves are left alone"


@pytest.mark.parametrize("sampler", ["random", "tpe", "auto"])
def test_every_sampler_proposes_for_several_metrics(sampler: str, file_url: str) -> None:
    assert sampler in SAMPLERS
    with open_study(file_url, config(trials=14, sampler=sampler)) as store:
        for _ in range(14):
            ticket = begin(store)
            rate = ticket.params["train.learning_rate"]
            store.complete(ticket.number, {"eval/accuracy": min(1.0, rate * 1e3), "eval/nll": 1.0 + rate * 1e3})
        assert store.done


def test_pruning_is_by_plain_nll(file_url: str) -> None:
    with open_study(file_url, config(pruner="successive_halving")) as store:
        for accuracy, nll, stop in ((0.1, 1.0, False), (0.9, 2.0, True)):
            report = Report(10, {"eval/accuracy": accuracy, "eval/nll": nll})
            assert store.report(begin(store).number, report).stop is stop


@pytest.mark.parametrize("metrics", [{"eval/accuracy": 0.5}, {"eval/accuracy": 0.5, "eval/nll": float("nan")}])
def test_a_trial_that_lacks_one_of_the_metrics_fails(metrics: dict[str, float], file_url: str) -> None:
    with open_study(file_url, config()) as store:
        store.complete(begin(store).number, metrics)
    assert states(store) == ["FAIL"]


def test_a_plateau_of_several_metrics_is_when_all_are_beaten(file_url: str) -> None:
    with open_study(file_url, config(budget={"plateau": 2})) as store:
        finish(store, (0.5, 1.0), (0.4, 1.1), (0.1, 0.5), (0.2, 0.9))
        assert store.ended is None
        finish(store, (0.05, 0.6), (0.5, 1.0))
        end = store.ended
    assert end is not None
    assert end.reason == "2 finished trials in a row were beaten by earlier ones in every metric"


@pytest.mark.parametrize(
    ("study", "says"),
    [
        ({"metrics": ["eval/nll"]}, "two different metrics or more"),
        ({"metrics": ["eval/nll", "eval/nll"]}, "two different metrics or more"),
        ({"metrics": ["eval/nll", "eval/bleu"]}, "'eval/bleu' is not measured"),
        ({"metrics": ["eval/nll", "train/loss"]}, "'train/loss' is not measured"),
        ({"metrics": ["train/loss", "eval/nll"]}, "weighted by the very settings"),
        ({"metrics": METRICS, "metric": "eval/nll"}, "the first of them"),
        ({"metrics": ["eval/nll", "eval/mine"]}, "'eval/mine' has no known direction"),
    ],
)
def test_metrics_that_cannot_be_compared_are_refused(study: dict[str, Any], says: str) -> None:
    functions = ["my_module:mine"] if "eval/mine" in study["metrics"] else []
    with pytest.raises(ValidationError, match=says):
        make_config(study=study, evaluate={"metrics": ["accuracy"], "functions": functions})
