"""The search space: what it may contain, and what follows from it."""

import itertools
import json
import math
import pickle
import re
from collections import Counter

import pytest
import yaml

from rankray.config import Config, apply_params, baseline_points, config_from, load_config, trial_tree
from rankray.config.distribution import parse_distribution
from rankray.config.fields import searchable_paths
from rankray.config.params import get_path
from rankray.config.space import distributions, known_left_out, never_drawn, space_problems
from rankray.errors import ConfigError
from rankray.report.explain import check_lines
from rankray.store import open_study

BASE = {"name": "s", "model": {"path": "m"}, "data": {"train": "a.jsonl", "eval": "b.jsonl"}}
CONDITIONAL = {
    "loss.temperature": {"float": [0.5, 2.0], "when": {"loss.form": ["bound", "exact"], "loss.objective": "rri"}},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.objective": {"choice": ["sft", "rri"]},
}


def config(space=None, **sections):
    return Config.model_validate({**BASE, "space": space or {}, **sections})


@pytest.fixture
def calls(monkeypatch):
    """Count how often an entry of the space is parsed, and a configuration validated."""
    counted = Counter()

    def parse(path, raw):
        counted["parse"] += 1
        return parse_distribution(path, raw)

    def validate(tree):
        counted["validate"] += 1
        return whole(tree)

    whole = Config.model_validate
    monkeypatch.setattr("rankray.config.space.parse_distribution", parse)
    monkeypatch.setattr(Config, "model_validate", validate)
    return counted


def test_a_search_parses_and_checks_its_space_once(calls, tmp_path):
    """From the file to the trials: only a stored study, which is another configuration, is validated again."""
    file = tmp_path / "search.yaml"
    study = {"trials": 6, "sampler": "random", "pruner": "none"}
    rate = {"train.learning_rate": {"float": [1e-4, 1e-2]}}  # without one, plain SFT is a single point, tried once
    file.write_text(yaml.safe_dump({**BASE, "space": CONDITIONAL | rate, "study": study}))
    loaded = load_config(file)
    values = 2 + 2 + 2 + 2  # two bounds each, two forms, two objectives
    one_point = 1  # a point that the configuration accepts shows that not all are refused
    assert calls == {"parse": 4, "validate": 1 + values + one_point}
    calls.clear()
    check_lines(loaded)
    with open_study(f"journal:///{tmp_path / 'store.log'}", loaded.config) as study:
        tickets = [study.next_trial() for _ in range(4)]
        assert calls["parse"] == 0
        assert calls["validate"] <= 1
        for ticket in tickets:
            study.complete(ticket.number, {"eval/nll": 1.0})
    calls.clear()
    config_from(trial_tree(loaded.config, tickets[0].params))
    assert calls == {"validate": 1}, "a trial is validated once"


def test_copies_keep_the_parsed_space_unless_the_space_differs(calls):
    made = config(CONDITIONAL)
    unchanged = (made.model_dump(), repr(made), config(CONDITIONAL))
    first = distributions(made)
    assert (made.model_dump(), repr(made), made) == unchanged, "a parsed space is no field"
    copied = made.model_copy(update={"study": made.study.model_copy(update={"trials": 3})})
    assert distributions(copied) is first
    assert distributions(pickle.loads(pickle.dumps(made))) == first
    assert calls["parse"] == 3
    other = made.model_copy(update={"space": {"loss.alpha": {"float": [0, 1]}}})
    assert list(distributions(other)) == ["loss.alpha"]
    assert distributions(made) is first


def test_conditions_order_the_space():
    assert list(distributions(config(CONDITIONAL))) == ["loss.objective", "loss.form", "loss.temperature"]


def test_conditions_decide_what_exists():
    made = config(CONDITIONAL)
    space = distributions(made)
    assert not space["loss.temperature"].active({"loss.objective": "sft"}, made)
    assert space["loss.temperature"].active({"loss.objective": "rri", "loss.form": "exact"}, made)
    assert not space["loss.temperature"].active({"loss.objective": "rri"}, made), "its parent was not drawn"


def test_a_condition_may_look_at_a_fixed_field():
    space = {"loss.temperature": {"float": [0.5, 2], "when": {"loss.objective": "rri"}}}
    for objective, there in (("rri", True), ("sft", False)):
        made = config(space, loss={"objective": objective})
        assert distributions(made)["loss.temperature"].active({}, made) is there


def test_circles_are_refused():
    space = {
        "loss.form": {"choice": ["bound"], "when": {"loss.base": "one"}},
        "loss.base": {"choice": ["one"], "when": {"loss.form": "bound"}},
    }
    assert "circle" in space_problems(config(space))[0][1]


@pytest.mark.parametrize(
    ("path", "raw", "words"),
    [
        ("study.trials", {"int": [1, 2]}, "cannot be searched"),
        ("loss", {"choice": [1]}, "names no configuration field"),
        ("train.max_steps", {"int": [0, 10]}, "not allowed there"),
        ("train.max_steps", {"int": [1.5, 10]}, "not whole numbers"),
        ("loss.alpha", {"float": [0, 1], "step": -1}, "above 0"),
        ("loss.alpha", {"float": [0.1, 1], "step": 0.1, "log": True}, "exclude each other"),
        ("loss.alpha", {"float": [0, 1, 2]}, "two numbers"),
        ("loss.alpha", {"float": [0, float("inf")]}, "not finite"),
        ("loss.alpha", {"uniform": [0, 1]}, "exactly one of float, int or choice"),
        ("loss.alpha", {"float": [0, 1], "lgo": True}, "did you mean 'log'"),
        ("loss.alpha", {"choice": []}, "at least one value"),
        ("model.lora.rank", {"int": [1, 8]}, "model.lora is null"),
        ("train.sft.optim", {"choice": [["a"]]}, "not a plain value"),
    ],
)
def test_impossible_distributions_are_refused(path, raw, words):
    ((_, message),) = space_problems(config({path: raw}))
    assert words in message


def test_train_sft_fields_are_free():
    assert space_problems(config({"train.sft.adam_beta2": {"float": [0.9, 0.999]}})) == []


def test_params_land_at_their_paths():
    made = apply_params(config(CONDITIONAL), {"loss.temperature": 0.75, "train.sft.optim": "sgd"})
    assert made.loss.temperature == 0.75
    assert made.train.sft == {"optim": "sgd"}
    assert made.space == {}
    with pytest.raises(ConfigError, match=r"loss\.temperature"):
        apply_params(config(), {"loss.temperature": -1.0})


def test_every_searchable_path_is_a_field():
    made = config(model={"path": "m", "lora": {}})
    assert "loss.temperature" in searchable_paths()
    for path in searchable_paths():
        get_path(made, path)


def test_baselines_take_part_where_the_space_contains_them():
    points = dict(baseline_points(config(CONDITIONAL)))
    assert points["baseline:sft"] == {"loss.objective": "sft"}
    assert points["baseline:paper"] == {"loss.objective": "rri", "loss.form": "bound", "loss.temperature": 1.0}


def test_baselines_stay_out_where_the_space_excludes_them():
    space = {"loss.temperature": {"float": [2.0, 4.0]}}
    assert baseline_points(config(space)) == []
    assert baseline_points(config({"loss.temperature": {"float": [0.5, 4.0]}}, loss={"form": "exact"})) == []


def test_warm_starts_must_lie_in_the_space():
    space = {"loss.temperature": {"float": [0.5, 4.0]}}
    study = {"warm_start": [{"loss.temperature": 9.0}, {"loss.alpha": 1.0}], "known": []}
    assert [path for path, _ in space_problems(config(space, study=study))] == [
        "study.warm_start[0]",
        "study.warm_start[1]",
    ]
    study = {"warm_start": [{"loss.temperature": 3.0}], "known": []}
    assert baseline_points(config(space, study=study)) == [("warm_start", {"loss.temperature": 3.0})]


def test_a_point_fulfils_the_conditions_that_it_leaves_open():
    space = {
        "loss.objective": {"choice": ["sft", "rri"]},
        "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
        "loss.temperature": {"float": [0.5, 4.0], "when": {"loss.form": "exact"}},
    }
    study = {"known": [{"loss.temperature": 2.0}], "warm_start": [{"loss.form": "bound"}]}
    made = config(space, study=study)
    assert space_problems(made) == []
    assert [point for _, point in baseline_points(made)] == [
        {"loss.temperature": 2.0, "loss.form": "exact", "loss.objective": "rri"},
        {"loss.form": "bound", "loss.objective": "rri"},
    ]
    wrong = config(space, study={"known": [{"loss.objective": "sft", "loss.temperature": 2.0}]})
    [(path, said)] = space_problems(wrong)
    assert path == "study.known[0]"
    assert said == "loss.form exists only where loss.objective is rri, which is not so in this point; correct it"
    fixed = config({"loss.alpha": {"float": [0, 1], "when": {"loss.base": "one"}}}, study={"known": []})
    assert space_problems(fixed) == []
    fixed = config(
        {"loss.alpha": {"float": [0, 1], "when": {"loss.base": "one"}}}, study={"known": [{"loss.alpha": 0.5}]}
    )
    assert ["loss.alpha exists only where loss.base is one" in said for _, said in space_problems(fixed)] == [True]


@pytest.mark.parametrize("paths", list(itertools.permutations(["loss.temperature", "loss.form", "loss.base"])))
def test_a_point_fulfils_all_conditions_on_a_field_at_once_in_any_order(paths):
    """What each of them names first, and the file's own value, is not what the others ask for."""
    space = {
        "loss.temperature": {"float": [0.5, 2.0], "when": {"loss.objective": ["power", "rri", "sft"]}},
        "loss.objective": {"choice": ["sft", "power", "rri", "talr"]},
        "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": ["talr", "rri"]}},
        "loss.base": {"choice": ["one", "prob"], "when": {"loss.form": ["exact", "bound"]}},
    }
    values = {"loss.temperature": 1.0, "loss.form": "exact", "loss.base": "one"}
    for given in (paths, paths[:2]):
        point = {path: values[path] for path in given}
        made = config(space, study={"known": [], "warm_start": [point]}, loss={"objective": "sft"})
        assert space_problems(made) == []
        [(_, found)] = baseline_points(made)
        assert all(distributions(made)[path].active(found, made) for path in found)
        assert point.items() <= found.items()


@pytest.mark.parametrize(
    ("name", "space", "changes"),
    [
        ("paper", {"loss.form": {"choice": ["bound", "exact"]}}, {"loss": {"temperature": 0.5}}),
        ("sft", {"loss.objective": {"choice": ["sft", "rri"]}}, {"loss": {"kl_weight": 0.5}}),
    ],
)
def test_a_baseline_whose_values_the_file_changes_where_they_are_not_searched_stays_out(name, space, changes):
    """A searched field that does not exist in the baseline has the file's value there."""
    gate, searched = {"paper": ("loss.form", "loss.temperature"), "sft": ("loss.objective", "loss.kl_weight")}[name]
    other = {"loss.form": "exact", "loss.objective": "rri"}[gate]
    space = {**space, searched: {"float": [0.5, 2.0], "when": {gate: other}}}
    assert baseline_points(config(space, study={"known": [name]}, **changes)) == []
    assert known_left_out(config(space, study={"known": [name]}, **changes)).keys() == {name}
    value = {"paper": 1.0, "sft": 0.0}[name]
    same = config(space, study={"known": [name]}, loss={searched.split(".")[1]: value})
    assert [origin for origin, _ in baseline_points(same)] == [f"baseline:{name}"]
    assert known_left_out(same) == {}


def test_a_ladder_has_no_rungs_where_the_rate_is_not_searched_for_its_setting():
    space = {
        "loss.objective": {"choice": ["sft", "rri"]},
        "train.learning_rate": {"float": [1e-6, 1e-3], "log": True, "when": {"loss.objective": "rri"}},
    }
    points = baseline_points(config(space))
    assert [origin for origin, _ in points] == ["baseline:sft", "baseline:paper", "known:rates", "known:rates"]
    assert all(params["loss.objective"] == "rri" for origin, params in points if origin == "known:rates")


def test_a_condition_on_a_number_with_steps_is_met_however_it_was_rounded():
    space = {
        "loss.entropy_weight": {"float": [0, 1], "step": 0.1},
        "loss.alpha": {"float": [0, 1], "when": {"loss.entropy_weight": [0.3, 0.6, 0.7]}},
    }
    made = config(space)
    there = distributions(made)["loss.alpha"]
    met = [index for index in range(11) if there.active({"loss.entropy_weight": index * 0.1}, made)]
    assert met == [3, 6, 7]
    assert not there.active({"loss.entropy_weight": 0.30001}, made)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"int": [4, 8], "step": 0.5}, "step: got 0.5; allowed in a range of int: 1 or more, whole"),
        ({"int": [4, 8], "step": 1.5}, "step: got 1.5; allowed in a range of int: a whole number"),
        ({"int": [4, 8], "step": 100}, "step: 100 is more than the range, 4 to 8"),
        ({"int": [4, 8], "step": math.inf}, "step: got inf; allowed: a finite number above 0"),
        ({"int": [4, 8], "step": math.nan}, "step: got nan; allowed: a finite number above 0"),
        ({"float": [4, 8], "step": math.nan}, "step: got nan; allowed: a finite number above 0"),
    ],
)
def test_steps_that_make_no_grid_are_refused(entry, said):
    [(path, message)] = space_problems(config({"train.batch_size": entry}))
    assert (path, message.startswith(said)) == ("train.batch_size", True), message


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("field", ["known", "warm_start"])
def test_a_point_that_is_not_finite_is_refused(value, field):
    made = config({"train.batch_size": {"int": [4, 8]}}, study={field: [{"train.batch_size": value}]})
    assert "allowed: whole numbers, 4 to 8" in space_problems(made)[0][1]


def test_contains():
    space = distributions(
        config(
            {
                "train.max_steps": {"int": [10, 50], "step": 20},
                "loss.base": {"choice": ["one"]},
                "loss.alpha": {"float": [0, 1]},
            }
        )
    )
    assert [value for value in (10, 20, 30, 50, 70, 30.0, True) if space["train.max_steps"].contains(value)] == [
        10,
        30,
        50,
        30.0,
    ]
    assert not space["loss.base"].contains("prob")
    assert not space["loss.alpha"].contains("0.5")


def test_known_settings_in_their_order_with_a_ladder_of_rates():
    space = {**CONDITIONAL, "train.learning_rate": {"float": [1e-6, 1e-4], "log": True}}
    mine = {"loss.objective": "rri", "loss.temperature": 0.7}
    points = baseline_points(config(space, study={"known": ["paper", "rates", "sft", mine]}))
    assert [origin for origin, _ in points] == [
        "baseline:paper", "known:rates", "known:rates", "baseline:sft", "known"
    ]  # fmt: skip
    paper = points[0][1]
    assert [params for origin, params in points if origin == "known:rates"] == [
        {**paper, "train.learning_rate": pytest.approx(5e-5 / 3)},
        {**points[3][1], "train.learning_rate": pytest.approx(5e-5 / 3)},
    ], "three times the file's rate lies outside"
    assert points[-1][1] == {**mine, "loss.form": "bound"}, "what its temperature needs is added"


def test_a_ladder_without_named_settings_or_without_the_file_s_rate():
    space = {"train.learning_rate": {"float": [1e-6, 1e-3], "log": True}, "loss.temperature": {"float": [0.5, 2.0]}}
    rates = [params for _, params in baseline_points(config(space, study={"known": ["rates"]}))]
    assert rates == [
        {"train.learning_rate": pytest.approx(rate), "loss.temperature": 1.0} for rate in (1.5e-4, 5e-5 / 3)
    ]
    far = baseline_points(config(space, study={"known": ["rates"]}, train={"learning_rate": 0.1}))
    middle = [params["train.learning_rate"] for _, params in far]
    assert middle == pytest.approx([10**-4.5, 10**-5.5, 10**-3.5])
    fixed = {"loss.temperature": {"float": [0.5, 2.0]}}
    assert baseline_points(config(fixed, study={"known": ["rates"]})) == [], "the rate is not searched"


def test_the_earlier_name_of_known_is_still_read():
    assert config(study={"baselines": ["sft"]}).study.known == ["sft"]
    assert config(study={"baselines": []}).study.known == []
    with pytest.raises(ValueError, match="got known and baselines"):
        config(study={"baselines": [], "known": ["sft"]})


def test_known_points_must_lie_in_the_space():
    space = {"loss.temperature": {"float": [0.5, 4.0]}}
    problems = space_problems(config(space, study={"known": [{"loss.temperature": 9.0}], "warm_start": ["earlier"]}))
    said = "loss.temperature is 9.0; allowed: 0.5 to 4, what space: has; correct the value, or widen the range"
    assert problems == [("study.known[0]", said)]


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({}, "study.known[1]: is empty; allowed: values of loss.objective, loss.temperature, train.batch_size; give"),
        ({"loss.temprature": 1.0}, "loss.temprature is not searched (did you mean 'loss.temperature'?); allowed: loss"),
        ({"train.batch_size": 3}, "train.batch_size is 3; allowed: whole numbers, 2 to 8 in steps of 2, what space: "),
        ({"loss.objective": "dft"}, "loss.objective is 'dft'; allowed: sft, rri, what space: has; correct the value"),
    ],
)
@pytest.mark.parametrize("field", ["known", "warm_start"])
def test_a_point_that_the_space_does_not_contain_is_named_where_it_stands(tmp_path, field, point, said):
    space = {
        "loss.temperature": {"float": [0.5, 4.0]},
        "train.batch_size": {"int": [2, 8], "step": 2},
        "loss.objective": {"choice": ["sft", "rri"]},
    }
    tree = config(space).model_dump(mode="json", include={"name", "model", "data", "loss", "space"})
    lines = yaml.safe_dump(tree).splitlines()
    file = tmp_path / "a.yaml"
    points = [{"loss.temperature": 1.0}, point]
    file.write_text("\n".join([*lines, "study:", "  trials: 3", f"  {field}: {json.dumps(points)}"]))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}:{len(lines) + 3}: study.{field}[1]: ")
    assert said.replace("known", field) in str(caught.value)


def test_a_single_name_is_a_list_of_one():
    assert config(study={"known": "sft"}).study.known == ["sft"]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (
            {"loss.alpha": {"float": [0.5, 1], "when": {"loss.objective": "rrii"}}},
            r"never be 'rrii': .*did you mean 'rri'",
        ),
        ({"loss.alpha": {"float": [0.5, 1], "when": {"train.max_steps": 0}}}, r"train.max_steps can never be 0: "),
        (
            {
                "loss.objective": {"choice": ["sft", "talr"]},
                "loss.alpha": {"float": [0.5, 1], "when": {"loss.objective": "tarl"}},
            },
            r"loss.objective can never be 'tarl' in this space \(did you mean 'talr'\?\)",
        ),
        (
            {
                "loss.objective": {"choice": ["sft", "rri", "talr"]},
                "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
                "loss.alpha": {"float": [0.5, 1], "when": {"loss.form": "bound", "loss.objective": "talr"}},
            },
            "loss.objective can never be what all conditions together ask for",
        ),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(space, said):
    [(_, message)] = space_problems(config(space))
    assert re.search(said, message), message


def test_a_condition_on_another_fixed_value_is_known():
    space = {"loss.temperature": {"float": [0.5, 2], "when": {"loss.objective": "rri"}}}
    assert never_drawn(config(space, loss={"objective": "sft"})) == {
        "loss.temperature": "loss.objective is fixed to 'sft'"
    }
    assert never_drawn(config(space, loss={"objective": "rri"})) == {}


def test_a_value_is_judged_with_the_values_that_the_others_may_have():
    space = {"train.batch_size": {"choice": [3, 6]}, "train.micro_batch_size": {"choice": [3]}}
    assert space_problems(config(space)) == []
    space["train.micro_batch_size"] = {"choice": [3, 7]}
    [(path, message)] = space_problems(config(space))
    assert path == "train.micro_batch_size"
    assert message.startswith("7 is not allowed there: ")


def test_a_warm_start_that_is_refused_as_a_whole_is_found():
    space = {"train.batch_size": {"choice": [4, 8]}, "train.micro_batch_size": {"choice": [4, 8]}}
    point = {"train.batch_size": 4, "train.micro_batch_size": 8}
    [(path, message)] = space_problems(config(space, study={"warm_start": [point]}))
    assert path == "study.warm_start[0]"
    assert "a divisor of batch_size 4" in message


def test_a_choice_twice_is_refused():
    [(_, message)] = space_problems(config({"loss.objective": {"choice": ["sft", "rri", "sft"]}}))
    assert message.startswith("choice: 'sft' is there twice")


def test_published_rates_of_adapters_are_tried():
    """Where the space contains them; without adapters they say nothing."""
    from rankray.config.params import config_from

    tree = {
        "name": "x",
        "model": {"path": "m", "lora": {}},
        "data": {"train": "a.jsonl", "eval": "b.jsonl"},
        "space": {"train.learning_rate": {"float": [1e-5, 8e-4], "log": True}},
        "study": {"warm_start": "published", "known": []},
    }
    assert baseline_points(config_from(tree)) == [("warm_start:published", {"train.learning_rate": 3e-4})]
    with pytest.raises(ConfigError, match=r"^study.warm_start: published are learning rates of adapters"):
        config_from({**tree, "model": {"path": "m"}})
