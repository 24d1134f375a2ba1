"""The points of a space: all of a finite one, and what the configuration refuses."""

import random

import pytest

from rankray.config import Config, distributions
from rankray.config.points import all_points, draw_point, point_id, refused_draws

BASE = {"name": "s", "model": {"path": "m"}, "data": {"train": "a.jsonl", "eval": "b.jsonl"}}


def config(space, **sections):
    return Config.model_validate({**BASE, "space": space, **sections})


def points(made):
    return all_points(distributions(made), made)


def test_a_finite_space_has_so_many_points():
    conditional = {"float": [0.5, 1.5], "step": 0.5, "when": {"loss.objective": "rri"}}
    made = config({"loss.objective": {"choice": ["sft", "rri"]}, "loss.temperature": conditional})
    assert points(made) == [
        {"loss.objective": "sft"},
        *({"loss.objective": "rri", "loss.temperature": value} for value in (0.5, 1.0, 1.5)),
    ]


@pytest.mark.parametrize("entry", [{"float": [0.5, 1.5]}, {"int": [1, 10_000]}, {"float": [0.5, 10], "step": 1e-6}])
def test_others_have_no_end_or_too_many(entry):
    path = "train.max_steps" if "int" in entry else "loss.temperature"
    assert points(config({path: entry})) is None


def test_what_the_configuration_refuses_is_no_point():
    made = config({"train.batch_size": {"int": [4, 16]}}, train={"batch_size": 4, "micro_batch_size": 4})
    assert [point["train.batch_size"] for point in points(made)] == [4, 8, 12, 16]
    refused = refused_draws(made, distributions(made))
    assert 100 < len(refused) < 180
    assert all(point["train.batch_size"] % 4 and "a divisor of" in why for point, why in refused)


def test_a_point_is_the_same_however_its_grid_was_rounded():
    made = config({"loss.temperature": {"float": [0.1, 0.5], "step": 0.1}})
    space = distributions(made)
    assert point_id({"loss.temperature": 0.1 + 0.2}, space) == point_id({"loss.temperature": 0.3}, space)


def test_the_last_of_the_steps_is_the_end_of_the_range_itself():
    """0.001 + 9 * 0.001 is 0.010000000000000002, which the space does not contain."""
    made = config({"train.learning_rate": {"float": [0.001, 0.01], "step": 0.001}})
    rate = distributions(made)["train.learning_rate"]
    values = [point["train.learning_rate"] for point in points(made)]
    assert (len(values), values[-1]) == (10, 0.01)
    assert all(rate.contains(value) for value in values)


def test_draws_stay_in_their_distribution(seed):
    space = {
        "loss.temperature": {"float": [0.25, 8.0], "log": True},
        "loss.alpha": {"float": [0.0, 1.0], "step": 0.25},
        "train.max_steps": {"int": [1, 100_000], "log": True},
        "data.max_length": {"int": [10, 50_000], "step": 7},
    }
    made = config(space)
    dice = random.Random(seed)
    for _ in range(200):
        for path, value in draw_point(distributions(made), made, dice).items():
            assert distributions(made)[path].contains(value), (path, value)


@pytest.mark.parametrize("high", [10**12, 10**30])
def test_a_wide_range_of_integers_is_drawn_from_without_a_list_of_them(high):
    made = config({"train.seed": {"int": [0, high]}, "loss.objective": {"choice": ["sft", "rri"]}})
    assert points(made) is None
    drawn = draw_point(distributions(made), made, random.Random(0))
    assert isinstance(drawn["train.seed"], int)
    assert 0 <= drawn["train.seed"] <= high


def test_of_any_number_of_choices_one_is_drawn():
    prompts = [f"{{question}} {number}" for number in range(2_500)]
    made = config({"data.prompt": {"choice": prompts}})
    dice = random.Random(0)
    drawn = {draw_point(distributions(made), made, dice)["data.prompt"] for _ in range(20)}
    assert len(drawn) > 15
    assert drawn <= set(prompts)
