"""What a configuration means, in words."""

import json

import pytest

from rankray.config import LoadedConfig, all_fields, config_from
from rankray.errors import ConfigError
from rankray.loss import WEIGHTS
from rankray.report.explain import check_lines, explain_json, explain_lines


def test_a_field_says_what_is_allowed_and_its_default():
    lines = explain_lines("loss.temperature")
    assert lines[0] == "loss.temperature: float, above 0; default 1.0"
    assert "Rank-mapping temperature" in lines[1]
    assert explain_lines("loss.form")[0] == "loss.form: bound | exact; default 'bound'"
    assert explain_lines("study.known")[0].startswith("study.known: list of sft | paper | rates")
    assert "required" in explain_lines("data.train")[0]


def test_the_objectives_are_those_there_are(monkeypatch):
    monkeypatch.setitem(WEIGHTS, "mine", lambda stats, knobs: 1 / stats.rank_N)
    allowed = explain_lines("loss.objective")[0]
    assert (
        allowed
        == "loss.objective: rri | sft | dft | talr | eaft | power | threshold | deft | iw_sft | mine; default 'rri'"
    )


def test_a_section_lists_its_fields_and_a_last_name_is_enough():
    assert any(line.startswith("loss.entropy_weight") for line in explain_lines("loss"))
    assert explain_lines("warmup_ratio")[0].startswith("train.warmup_ratio")
    assert len(explain_lines()) > 40


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match=r"did you mean 'loss\.temperature'"):
        explain_lines("loss.temprature")


@pytest.mark.parametrize(
    ("key", "first"),
    [
        ("lora.rank", "model.lora.rank: int"),
        ("rate", "train.learning_rate: float"),
        ("lr", "train.learning_rate: float"),
        ("train.lr", "train.learning_rate: float"),
        ("n_trials", "study.trials: int"),
        ("peft_config", "model.lora.rank "),
        ("lora", "model.lora.rank "),
        ("train.sft.optim", "train.sft: dict"),
        ("weight", "data.prompt_weight "),
    ],
)
def test_an_end_a_word_and_another_tools_name_are_enough(key, first):
    assert explain_lines(key)[0].startswith(first)
    assert next(iter(explain_json(key))) == first.split(":")[0].split()[0]


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("rnk", "rank"),
        ("temprature", "temperature"),
        ("lora.rnk", "model.lora.rank"),
        ("loss.lr", "train.learning_rate"),
    ],
)
def test_a_misspelt_end_names_the_nearest(key, near):
    for explain in (explain_lines, explain_json):
        with pytest.raises(ConfigError, match=rf"explain: no field '{key}' \(did you mean '{near}'\?\); allowed: "):
            explain(key)


def test_check_shows_the_step_of_a_range_and_short_numbers():
    config = config_from(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "train": {"learning_rate": 1e-4},
            "space": {
                "train.warmup_ratio": {"float": [0, 0.3], "step": 0.1},
                "train.batch_size": {"int": [8, 2048], "step": 8},
                "train.weight_decay": {"choice": [0.1 + 0.2, 0.5]},
                "train.learning_rate": {"float": [1e-5, 9e-4], "log": True},
            },
            "study": {"known": ["rates"]},
        }
    )
    lines = [line.strip() for line in check_lines(LoadedConfig(config, "s.yaml"))]
    assert "searches train.warmup_ratio: 0 to 0.3 in steps of 0.1" in lines
    assert "searches train.batch_size: whole numbers, 8 to 2048 in steps of 8" in lines
    assert "searches train.weight_decay: 0.3, 0.5" in lines
    assert any("learning_rate=0.0003 " in f"{line} " for line in lines)
    assert not any("00000" in line for line in lines)


@pytest.mark.parametrize(
    ("metric", "objective", "space", "noted"),
    [
        ("eval/nll", "rri", {}, True),
        ("eval/nll", "sft", {}, False),
        ("eval/nll", "sft", {"loss.objective": {"choice": ["sft", "dft"]}}, True),
        ("eval/accuracy", "rri", {}, False),
    ],
)
def test_check_says_that_nll_favours_plain_sft(metric, objective, space, noted):
    config = config_from(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "loss": {"objective": objective},
            "evaluate": {"metrics": ["nll", "accuracy"]},
            "space": space,
            "study": {"metric": metric},
        }
    )
    assert any("favours plain SFT" in line for line in check_lines(LoadedConfig(config, "f.yaml"))) == noted


@pytest.mark.parametrize(
    ("trials", "study", "says"),
    [
        (8, {}, "  then 2 that study.sampler auto proposes"),
        (8, {"sampler": {"name": "tpe", "n_startup_trials": 2}}, "  then 2 that study.sampler tpe proposes"),
        (6, {}, "  nothing is searched: study.trials is 6, and 6 settings are known; raise it"),
        (6, {"warm_start": "s0"}, "  then the best of s0; what is left of 6 trials, study.sampler auto proposes"),
        (6, {"known": ["sft", "sft"]}, "  then 5 that study.sampler auto proposes"),
    ],
)
def test_check_says_how_much_is_searched_and_for_what(trials, study, says):
    config = config_from(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "loss": {"objective": "rri"},
            "train": {"learning_rate": 1e-3},
            "evaluate": {"metrics": ["nll", "accuracy"]},
            "space": {
                "loss.objective": {"choice": ["sft", "rri"]},
                "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
            },
            "study": {"trials": trials, "metrics": ["eval/accuracy", "eval/nll"], **study},
        }
    )
    lines = check_lines(LoadedConfig(config, "f.yaml"))
    assert lines[1] == f"study s: {trials} trials, maximize eval/accuracy and minimize eval/nll"
    assert says in lines


def test_fields_for_programs():
    assert json.loads(json.dumps(explain_json())).keys() == all_fields().keys()
    found = explain_json("loss.temperature")["loss.temperature"]
    assert (found["default"], found["required"]) == (1.0, False)
    assert found["allowed"] == "float, above 0"
    assert explain_json("data")["data.train"]["required"]
    assert explain_json("temperature") == {"loss.temperature": found}
    with pytest.raises(ConfigError, match=r"did you mean 'loss.temperature'"):
        explain_json("loss.temprature")


@pytest.mark.parametrize(("metric", "direction", "warned"), [
    ("eval/nll", "maximize", True), ("eval/nll", "minimize", False), ("eval/nll", None, False),
    ("eval/accuracy", "minimize", True), ("eval/mine", "minimize", False),
])  # fmt: skip
def test_check_says_that_the_worst_model_would_win(metric, direction, warned):
    tree = {"name": "s", "model": {"path": "m"}, "data": {"train": "a.jsonl", "eval": "b.jsonl"}}
    tree |= {"evaluate": {"metrics": ["nll", "accuracy"], "functions": ["a:mine"]}}
    tree |= {"study": {"metric": metric, "direction": direction}}
    lines = check_lines(LoadedConfig(config_from(tree), "f.yaml"))
    assert any("the worst model would win" in line for line in lines) == warned
