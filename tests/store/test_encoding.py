"""Settings as rows of a unit cube, and back."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import optuna
import pytest

from rankray.config import distributions
from rankray.config.points import draw_value
from rankray.store.encoding import RESOLUTION, Encoding
from rankray.store.strategies import suggest
from store.helpers import make_config

SPACE: dict[str, Any] = {
    "loss.objective": {"choice": ["sft", "dft", "rri"]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.temperature": {"float": [0.25, 4.0], "log": True, "when": {"loss.objective": "rri"}},
    "loss.entropy_weight": {"float": [0.0, 2.0], "step": 0.25, "when": {"loss.form": "exact"}},
    "loss.max_scale": {"choice": [None, 4.0]},
    "train.batch_size": {"int": [8, 64]},
    "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
}
NUMBERS = (
    "loss.temperature",
    "loss.entropy_weight",
    "loss.alpha",
    "loss.min_weight",
    "train.warmup_ratio",
    "train.weight_decay",
    "data.prompt_weight",
)


@pytest.fixture
def encoding() -> Encoding:
    return Encoding(make_config(space=SPACE))


def test_every_drawn_setting_is_one_the_space_proposes_and_comes_back(encoding: Encoding) -> None:
    rows = encoding.draw(300, np.random.default_rng(0))
    for row in rows:
        params = encoding.params(row)
        for field in encoding.fields:
            assert (field.path in params) == field.active(params, make_config(space=SPACE))
            assert field.path not in params or field.contains(params[field.path])
        np.testing.assert_allclose(encoding.place(params), row, atol=RESOLUTION / 2)
        np.testing.assert_allclose(encoding.place(encoding.params(encoding.place(params))), encoding.place(params))
    assert {type(encoding.params(row)["train.batch_size"]) for row in rows} == {int}


@pytest.mark.parametrize(
    ("field", "shares"),
    [
        ({"int": [8, 10]}, {8: 1 / 3, 9: 1 / 3, 10: 1 / 3}),
        ({"int": [8, 29], "step": 7}, {8: 1 / 4, 15: 1 / 4, 22: 1 / 4, 29: 1 / 4}),
        ({"float": [0.0, 0.2], "step": 0.1}, {0.0: 1 / 3, 0.1: 1 / 3, 0.2: 1 / 3}),
        ({"int": [1, 3], "log": True}, {n: math.log((n + 0.5) / (n - 0.5)) / math.log(7) for n in (1, 2, 3)}),
    ],
)
def test_the_ends_of_a_range_are_drawn_as_often_as_random_search_draws_them(
    field: dict[str, Any], shares: dict[float, float]
) -> None:
    path = "train.weight_decay" if "float" in field else "train.batch_size"
    config = make_config(space={path: field, "train.learning_rate": SPACE["train.learning_rate"]})
    encoding, sampler = Encoding(config), optuna.samplers.RandomSampler(seed=0)
    drawn = [encoding.params(row)[path] for row in encoding.draw(4000, np.random.default_rng(0))]
    study, dice = optuna.create_study(sampler=sampler), random.Random(0)
    asked = [suggest(study.ask(), distributions(config)[path]) for _ in range(2000)]
    again = [draw_value(distributions(config)[path], dice) for _ in range(4000)]
    for values in (drawn, asked, again):
        found = {value: np.mean([math.isclose(value, each) for each in values]) for value in shares}
        assert found == pytest.approx(shares, abs=0.05)


@pytest.mark.parametrize(
    ("field", "place", "value"),
    [
        ({"float": [1e-4, 1e-2], "log": True}, 1 / 3, 0.0004642),
        ({"float": [1e-6, 1e-3], "log": True}, 0.51, 3.388e-05),
        ({"float": [1e-4, 1e-2], "log": True}, 1.0, 1e-2),
        ({"float": [0.0, 2.0]}, 1 / 3, 0.6667),
        ({"float": [0.0, 2.0]}, 0.0, 0.0),
        ({"float": [0.9999, 0.99999]}, 1 / 3, 0.99993),
        ({"float": [0.123454, 0.9]}, 0.0, 0.123454),
        ({"float": [0.0, 1.0], "step": 0.1}, 0.31, 0.3),
        ({"float": [0.05, 0.95], "step": 0.3}, 0.68, 0.65),
        ({"int": [8, 64]}, 1 / 3, 27),
    ],
)
def test_numbers_have_the_digits_that_their_range_needs(field: dict[str, Any], place: float, value: float) -> None:
    encoding = Encoding(make_config(space={"train.weight_decay" if "float" in field else "train.batch_size": field}))
    assert list(encoding.params(np.array([place])).values()) == [value]


def branches_of(encoding: Encoding) -> list[dict[str, Any]]:
    return [
        {encoding.paths[gate]: encoding.fields[gate].choices[choice] for gate, choice in branch.items()}
        for branch in encoding.branches
    ]


def test_there_is_one_branch_per_combination_of_choices(encoding: Encoding) -> None:
    found = branches_of(encoding)
    objectives = [{"sft"}, {"dft"}, {"rri", "bound"}, {"rri", "exact"}]
    wanted = [objective | {scale} for objective in objectives for scale in (None, 4.0)]
    assert len(found) == len(wanted)
    assert all(set(branch.values()) in wanted for branch in found)
    for branch, named in zip(encoding.branches, found, strict=True):
        for row in encoding.draw(20, np.random.default_rng(1), branch):
            assert named.items() <= encoding.params(row).items()


def test_of_many_combinations_there_is_one_branch_per_way_the_conditions_can_be_met() -> None:
    """Three schedules times the eight above would be a start of twenty-four settings."""
    space = {**SPACE, "train.schedule": {"choice": ["constant", "linear", "cosine"]}}
    assert sorted(map(str, branches_of(Encoding(make_config(space=space))))) == sorted(
        map(
            str,
            [
                {"loss.objective": "sft"},
                {"loss.objective": "dft"},
                {"loss.objective": "rri", "loss.form": "bound"},
                {"loss.objective": "rri", "loss.form": "exact"},
            ],
        )
    )


def test_a_space_of_very_many_choices_is_made_at_once() -> None:
    """Each proposal makes its encoding: ten million combinations are not looked at."""
    choices = {path: {"choice": [0.1 * index for index in range(1, 11)]} for path in NUMBERS}
    space = {"loss.objective": {"choice": ["sft", "rri"]}, **choices}
    space["loss.temperature"]["when"] = {"loss.objective": "rri"}
    encoding = Encoding(make_config(space=space))
    assert branches_of(encoding) == [{"loss.objective": "sft"}, {"loss.objective": "rri"}]


def test_a_condition_on_a_fixed_field_and_on_a_number_is_met_or_not() -> None:
    space = {
        "train.batch_size": {"int": [8, 9]},
        "loss.temperature": {"float": [0.25, 4.0], "when": {"train.batch_size": 8}},
        "loss.alpha": {"float": [0.5, 1.0], "when": {"loss.objective": "eaft"}},
    }
    encoding = Encoding(make_config(space=space))
    assert encoding.branches == [{}]
    drawn = [encoding.params(row) for row in encoding.draw(50, np.random.default_rng(0))]
    assert {params["train.batch_size"] for params in drawn} == {8, 9}
    assert all(("loss.temperature" in params) == (params["train.batch_size"] == 8) for params in drawn)
    assert not any("loss.alpha" in params for params in drawn)


def test_a_field_that_is_not_there_lies_in_the_middle(encoding: Encoding) -> None:
    sft = encoding.place({"loss.objective": "sft", "loss.max_scale": None, "train.batch_size": 8})
    rri = encoding.place(
        {"loss.objective": "rri", "loss.form": "bound", "loss.temperature": 4.0, "train.batch_size": 64}
    )
    apart = dict(zip(encoding.paths, encoding.distances(sft[None], rri[None])[:, 0, 0], strict=True))
    assert apart["loss.objective"] == 1.0
    assert apart["loss.form"] == 0.5, "as far from the one form as from the other"
    assert apart["loss.temperature"] == 0.5
    assert apart["train.batch_size"] == 1.0
    assert apart["train.learning_rate"] == 0.0, "neither has one"
    assert not encoding.distances(sft[None], sft[None]).any()


def test_true_is_not_one() -> None:
    encoding = Encoding(make_config(space={"train.sft.packing": {"choice": [1, True]}}))
    rows = [encoding.place({"train.sft.packing": value})[0] for value in (1, True)]
    assert rows == [0.25, 0.75]


def test_choices_among_numbers_lie_in_their_order_wherever_the_file_names_them() -> None:
    choices = [16, 4, 64, 8, 32]
    fields = {
        "train.batch_size": {"choice": choices},
        "loss.objective": {"choice": ["sft", "rri"]},
        "loss.max_scale": {"choice": [None, 4.0, 8.0]},
        "loss.temperature": {"choice": [0.5, 1.0, 2.0], "when": {"loss.objective": "rri"}},
    }
    encoding = Encoding(make_config(space=fields))
    settings: list[dict[str, Any]] = [
        {"loss.objective": "rri", "loss.max_scale": None, "loss.temperature": 1.0, "train.batch_size": size}
        for size in sorted(choices)
    ]
    rows = np.stack([encoding.place(params) for params in settings])
    at = encoding.paths.index("train.batch_size")
    np.testing.assert_allclose(encoding.distances(rows, rows)[at, 0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(encoding.in_order(rows)[:, at], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(encoding.out_of_order(encoding.in_order(rows)), rows)
    other = {"loss.objective": "sft", "loss.max_scale": 8.0, "train.batch_size": 4}
    apart = dict(zip(encoding.paths, encoding.distances(rows[:1], encoding.place(other)[None])[:, 0, 0], strict=True))
    assert apart["loss.max_scale"] == 1, "with null it is no choice among numbers"
    assert apart["loss.temperature"] == 0, "1.0 is the middle of them, where a field lies that does not exist"
    assert all(encoding.paths.index("train.batch_size") not in branch for branch in encoding.branches)
    assert len(encoding.branches) == 6, "objective and scale; numbers are tried by their order, not each by itself"
