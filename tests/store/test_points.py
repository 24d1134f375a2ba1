"""Finite spaces: every point once, and then the search is done."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import TrialState, create_trial

from rankray.store import attach, open_rehearsal, open_study, strategies, views
from rankray.store.points import FinitePoints
from store.helpers import begin, make_config, run_trial

FOUR = {
    "loss.objective": {"choice": ["sft", "rri"]},
    "loss.temperature": {"float": [0.5, 1.5], "step": 0.5, "when": {"loss.objective": "rri"}},
}


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_point_of_a_finite_space_is_tried_once_and_the_study_is_done(file_url: str, sampler: str) -> None:
    config = make_config(space=FOUR | {"train.learning_rate": {"choice": [1e-3]}}, study={"sampler": sampler})
    with open_study(file_url, config) as study:
        seen = []
        while (ticket := study.next_trial()) is not None:
            assert not study.done
            run_trial(study, ticket)
            seen.append(str(ticket.params))
        assert len(seen) == len(set(seen)) == 4
        assert (study.done, study.finished, study.budget) == (True, 4, 8)
    looked = attach(file_url, "s")
    assert looked.done
    assert views.status(looked)["state"] == "complete"


def test_how_many_points_are_left(file_url: str) -> None:
    """Those that are being tried are not among them; a space without an end has no such number."""
    config = make_config(space=FOUR | {"train.learning_rate": {"choice": [1e-3]}})
    with open_study(file_url, config) as study:
        assert study.points_left() == 4
        ticket = begin(study)
        assert study.points_left() == 3
        run_trial(study, ticket)
        assert study.points_left() == 3
    with open_study(file_url, make_config().model_copy(update={"name": "endless"})) as study:
        assert study.points_left() is None


def test_a_point_that_failed_is_not_tried_again_by_the_same_search(file_url: str) -> None:
    config = make_config(space={"loss.objective": {"choice": ["sft", "rri"]}}, study={"trials": 20})
    with open_study(file_url, config) as study:
        first = begin(study)
        study.fail(first.number, "broken")
        second = begin(study)
        assert second.params != first.params
        assert not study.done
        study.complete(second.number, {"eval/nll": 1.0})
        assert study.next_trial() is None
        assert study.done
        assert study.counts().failed == 1


def test_points_that_the_configuration_refuses_are_not_waited_for(file_url: str) -> None:
    config = make_config(
        train={"max_steps": 40, "batch_size": 8, "micro_batch_size": 4},
        space={"train.batch_size": {"int": [4, 12]}},
        study={"trials": 20},
    )
    with open_study(file_url, config) as study:
        seen = set()
        while (ticket := study.next_trial()) is not None:
            seen.add(ticket.params["train.batch_size"])
            study.complete(ticket.number, {"eval/nll": 1.0})
        assert {4, 8, 12} <= seen
        assert study.done


def test_a_study_whose_space_is_refused_by_now_still_opens(file_url: str) -> None:
    space = {
        "loss.objective": {"choice": ["sft", "sft"]},
        "loss.alpha": {"float": [0.1, 1], "when": {"train.seed": -1}},
    }
    config = make_config(space=space)
    with open_study(file_url, config) as study:
        study.complete(begin(study).number, {"eval/nll": 1.0})
    assert attach(file_url, "s").finished == 1


@pytest.mark.parametrize(("slots", "sampler"), [(8, "stubborn"), (64, "stubborn"), (30, "tpe")])
def test_no_point_of_a_space_without_an_end_is_tried_twice(
    slots: int, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler at the end of a range, and plain SFT, for which this space has nothing else."""
    low = {"loss.objective": "sft", "loss.temperature": 0.5}
    monkeypatch.setitem(strategies.SAMPLERS, "stubborn", lambda config, seed: (PartialFixedSampler, fixed(low, seed)))
    space = {**FOUR, "loss.temperature": {"float": [0.5, 1.5], "when": {"loss.objective": "rri"}}}
    config = make_config(space=space, study={"sampler": sampler, "trials": slots, "pruner": "none"})
    with open_rehearsal(config) as study:
        running = [begin(study).params for _ in range(slots)]
        assert study.next_trial() is None
    assert len({str(params) for params in running}) == slots
    assert sum(params == {"loss.objective": "sft"} for params in running) == 1


def test_what_takes_the_place_of_a_point_is_the_same_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        strategies.SAMPLERS,
        "stubborn",
        lambda config, seed: (PartialFixedSampler, fixed({"train.learning_rate": 1e-4}, seed)),
    )
    space = {"train.learning_rate": {"float": [1e-4, 1e-2], "log": True}}
    config = make_config(space=space, study={"sampler": "stubborn", "trials": 6, "pruner": "none"})
    one, other = ([begin(study).params for _ in range(6)] for study in (open_rehearsal(config).join() for _ in "ab"))
    assert one == other
    assert one[0] == {"train.learning_rate": 1e-4}


def test_a_trial_that_gets_its_parameters_one_by_one_counts_from_then_on() -> None:
    """Earlier versions, and Optuna itself, create a trial before its parameters."""
    space = {"loss.entropy_weight": {"float": [0.0, 2.0]}, "train.learning_rate": {"float": [1e-4, 1e-2]}}
    config = make_config(space=space)
    point = {"loss.entropy_weight": 0.5, "train.learning_rate": 1e-3}
    trial = create_trial(state=TrialState.RUNNING)
    trials = [trial]
    points = FinitePoints(config, cast(Any, SimpleNamespace(trials=trials, finished=1)))
    assert points.untried(point, seed=1) is point
    trial.params = {"loss.entropy_weight": 0.5}
    assert points.untried(point, seed=1) is point
    trial.params = point
    assert points.untried(point, seed=1) != point
    trials[0] = create_trial(state=TrialState.FAIL)
    trials[0].params = point
    assert points.untried(point, seed=1) != point, "also when it has ended"
    other = {**point, "train.learning_rate": 2e-3}
    assert points.untried(other, seed=1) is other


def test_after_a_launch_in_which_everything_failed_all_its_points_are_tried_again(file_url: str) -> None:
    """And only then: what failed beside trials that finished is broken itself."""
    space = {
        "loss.objective": {"choice": ["sft", "rri"]},
        "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
    }
    config = make_config(
        space=space, study={"trials": 6, "known": ["sft", "paper", "rates"]}, train={"learning_rate": 1e-3}
    )
    with open_study(file_url, config) as study:
        lost = [begin(study) for _ in range(4)]
        for ticket in lost:
            study.fail(ticket.number, "no such directory")
    with open_study(file_url, config) as study:
        again = []
        for _ in lost:
            again.append(begin(study))
            study.complete(again[-1].number, {"eval/nll": 1.0})
        assert [(each.origin, each.params) for each in again] == [(each.origin, each.params) for each in lost]
        broken = begin(study)
        study.fail(broken.number, "diverged")
    with open_study(file_url, config) as study:
        assert begin(study).params != broken.params
    rows = views.objectives(attach(file_url, "s"))
    shown = {row["what"]: row["state"] for row in rows if row["what"].startswith("baseline:")}
    assert shown == {"baseline:sft": "complete", "baseline:paper": "complete"}
    assert len([row for row in rows if row["what"].startswith("baseline:")]) == 2


@pytest.mark.parametrize("seed", range(4))
def test_a_known_point_that_leaves_something_open_is_completed_to_what_nobody_has_tried(
    seed: int, file_url: str
) -> None:
    space = {"loss.objective": {"choice": ["sft", "rri"]}, "train.learning_rate": {"choice": [1e-3, 2e-3]}}
    known = ["sft", {"loss.objective": "sft"}, {"train.learning_rate": 1e-3}, {"loss.objective": "sft"}]
    config = make_config(space=space, study={"trials": 20, "known": known, "seed": seed}, train={"learning_rate": 1e-3})
    with open_study(file_url, config) as study:
        params = []
        while (ticket := study.next_trial()) is not None:
            params.append(ticket.params)
            study.complete(ticket.number, {"eval/nll": 1.0})
    assert params[:2] == [
        {"loss.objective": "sft", "train.learning_rate": 1e-3},
        {"loss.objective": "sft", "train.learning_rate": 2e-3},
    ]
    assert params[2] == {"loss.objective": "rri", "train.learning_rate": 1e-3}
    assert len({str(each) for each in params}) == len(params) == 4


def fixed(params: dict[str, Any], seed: int) -> dict[str, Any]:
    return {"fixed_params": params, "base_sampler": RandomSampler(seed=seed)}
