"""What a value of the wrong kind is told: what belongs there, and how to write what seems to be meant."""

import re

import pytest

from rankray.config import config_from, distributions
from rankray.config.problems import space_entry_form
from rankray.errors import ConfigError

DATA = {"train": "train.jsonl", "eval": "eval.jsonl"}
NO_KIND = "needs exactly one of float, int or choice, got "


def refused(**sections):
    with pytest.raises(ConfigError) as error:
        distributions(config_from({"name": "x", "model": {"path": "m"}, "data": DATA, **sections}))
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "got", "advice"),
    [
        (["sft", "rri"], "got ['sft', 'rri']", "write {choice: [sft, rri]}"),
        (
            [1e-4, 1e-2],
            "got [0.0001, 0.01]",
            "write {float: [0.0001, 0.01]}, or {choice: [0.0001, 0.01]} for these two",
        ),
        ([4, 16], "got [4, 16]", "write {int: [4, 16]}, or {choice: [4, 16]} for these two alone"),
        ([True, False], "got [True, False]", "write {choice: [true, false]}"),
        ([None, 4.0, 16.0], "got [None, 4.0, 16.0]", "write {choice: [null, 4.0, 16.0]}"),
        ([1, 2, 4], "got [1, 2, 4]", "write {choice: [1, 2, 4]}"),
        (
            {"low": 1e-4, "high": 0.01, "log": True},
            NO_KIND + "low, high, log",
            "write {float: [0.0001, 0.01], log: true}",
        ),
        ({"min": 1, "max": 5}, NO_KIND + "min, max", "write {int: [1, 5]}"),
        ({"loguniform": [1e-4, 0.01]}, NO_KIND + "loguniform", "write {float: [0.0001, 0.01], log: true}"),
        ({"values": ["linear", "cosine"]}, NO_KIND + "values", "write {choice: [linear, cosine]}"),
        (1e-3, "got 0.001", "a fixed value stands in its own section"),
        (None, "got None", "allowed: {float: [low, high]} or {int: [low, high]}"),
        ({}, NO_KIND + "nothing", "or {choice: [...]}; correct the entry"),
        ({"low": 1}, NO_KIND + "low", "or {choice: [...]}"),
        ([], "got []", "or {choice: [...]}; correct the entry"),
    ],
)
def test_an_entry_of_the_space_that_is_of_another_tool(given, got, advice):
    said = refused(space={"train.learning_rate": given})
    assert said.startswith(f"space.train.learning_rate: {got}; allowed: {{float: [low, high]}}")
    assert advice in said


def test_what_is_nested_too_deep_is_answered_too():
    deep = [1]
    for _ in range(2000):
        deep = [deep]
    assert "write {choice: [1, a list (" in space_entry_form([1, deep])


def test_two_kinds_at_once_are_told_nothing_to_write():
    said = refused(space={"train.learning_rate": {"float": [1, 2], "choice": [1]}})
    assert said == f"space.train.learning_rate: {NO_KIND}float, choice"


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": "some/model"}, "write model: {path: some/model}"),
        ({"data": "rows.jsonl"}, "write data: {train: rows.jsonl}"),
        ({"data": None}, "got None; allowed: a section with train, eval, "),
        ({"train": 100}, "allowed: a section with max_steps, epochs, "),
        ({"study": {"budget": 5}}, "a section with wall_hours, .*; write its fields under study.budget:"),
        ({"model": {"path": "m", "lora": True}}, "a section with rank, alpha, .*; write its fields under model.lora:"),
        ({"evaluate": {"also": {"arc": 1}}}, "a section with data, .*; write its fields under evaluate.also.arc:"),
        (
            {"train": {"lr": 1e-3}},
            "train.lr: unknown key \\(did you mean 'learning_rate'\\?\\); allowed: batch_size",
        ),
        ({"learning_rate": 1e-3}, "unknown key \\(did you mean 'train.learning_rate'\\?\\); allowed: data, evaluate, "),
        ({"space": {"lr": {"float": [1, 2]}}}, "names no configuration field \\(did you mean 'train.learning_rate'"),
        ({"train": {"sft": 1}}, "train.sft: got 1; allowed: a mapping of names to values"),
        ({"space": ["train.learning_rate"]}, "allowed: a mapping of names to values"),
        ({"train": {"max_steps": "ten"}}, "got 'ten'; allowed: a whole number"),
        ({"train": {"learning_rate": "fast"}}, "got 'fast'; allowed: a number"),
        ({"model": {"path": "m", "trust_remote_code": "perhaps"}}, "got 'perhaps'; allowed: true or false"),
        ({"data": {**DATA, "prompt": {"text": None}}}, 'braces are a mapping in YAML; put it in quotes, "{text}"'),
        ({"data": {**DATA, "prompt": {"text": ["a"]}}}, "got {'text': \\['a'\\]}; allowed: text; correct the value"),
        ({"data": {**DATA, "prompt": {}}}, "got {}; allowed: text; correct the value"),
        ({"evaluate": {"metrics": 7}}, "got 7; allowed: a list; write \\[7\\]"),
        ({"evaluate": {"metrics": [7]}}, "got 7; allowed: text"),
    ],
)
def test_what_belongs_there_is_said_in_plain_words(sections, says):
    said = refused(**sections)
    assert re.search(says, said)
    assert "instance of" not in said
    assert "dictionary" not in said


def test_a_single_name_is_a_list_of_one():
    config = config_from(
        {
            "name": "x",
            "model": {"path": "m"},
            "data": DATA,
            "logging": "tensorboard",
            "evaluate": {"metrics": "nll"},
            "study": {"metric": "eval/nll", "known": "paper", "warm_start": "earlier"},
        }
    )
    assert (config.logging, config.evaluate.metrics) == (["tensorboard"], ["nll"])
    assert (config.study.known, config.study.warm_start) == (["paper"], ["earlier"])


@pytest.mark.parametrize(
    ("price", "says"),
    [
        (
            {"g5": {"on-demand": 1.2}},
            "g5: got {'on-demand': 1.2}; allowed: a number or a mapping with 'on_demand' or 'spot'",
        ),
        ({"g5": 0}, "g5: got 0; allowed: greater than 0"),
        ({"g5": {}}, ": g5 has no price; allowed: a number, or {on_demand: 1.2, spot: 0.4}; give one"),
        (0, "default: got 0; allowed: greater than 0"),
        (True, ": got True; allowed: a number, not true or false"),
    ],
)
def test_a_price_that_is_none(price, says):
    assert f"study.budget.price{'' if says[0] == ':' else '.'}{says}" in refused(study={"budget": {"price": price}})


def test_a_price_alone_is_that_of_every_node():
    for given in (3, 1.5):
        assert config_from(
            {"name": "x", "model": {"path": "m"}, "data": DATA, "study": {"budget": {"price": given}}}
        ).study.budget.price == {"default": given}
