"""What is printed to be copied: a shell and rankray read it as it was meant."""

import shlex

import pytest

from rankray.config import load_config
from rankray.config.load import parse_value
from rankray.report.commands import resume_command, retrain_command, store_option, training_commands

FILE = """
model: {path: m}
data: {train: t.jsonl, eval: e.jsonl, prompt: "{q}\\n", completion: "{a}"}
loss: {objective: rri, temperature: 2.0}
train: {max_steps: 100}
space: {train.learning_rate: {float: [1.0e-5, 1.0e-2], log: true}}
"""


def origin(**more):
    made = {"study": "s", "store": "sqlite:///s.db", "file": "f.yaml", "overrides": {}}
    made |= {"confirms": None, "metric": "eval/nll"}
    return made | more


def pairs(command):
    """The path and the value, as YAML reads it, of each `--set` of a command."""
    words = shlex.split(command)
    given = [words[at + 1].partition("=") for at, word in enumerate(words) if word == "--set"]
    return {path: parse_value(value) for path, _, value in given}


def test_a_store_with_a_password_is_named_by_its_variable():
    """What is printed can be copied: `***` in place of a password would not work."""
    assert store_option("postgresql://u:***@h/d") == "--store env:RANKRAY_STORE"
    assert shlex.split(store_option("sqlite:////my place/r.db")) == ["--store", "sqlite:////my place/r.db"]


def test_the_retrain_command_survives_a_shell_and_yaml():
    params = {"loss.temperature": 1.25, "loss.form": "bound", "train.sft.x": None, "a.b": True, "c": "it's"}
    command = retrain_command(origin(file="my file.yaml"), params)
    assert shlex.split(command)[:3] == ["rankray", "train", "my file.yaml"]
    assert pairs(command) == params


@pytest.mark.parametrize(
    "value",
    [
        "1",
        "true",
        "null",
        "",
        "a: b",
        "# x",
        "{q}\\n",
        "it's",
        "1e-5",
        1e-5,
        3e-05,
        True,
        None,
        [1, "é 😀"],
        {"a": None},
    ],
)
def test_every_value_is_read_back_as_what_it_is(value):
    command = retrain_command(origin(overrides={"data.x": value}), {"a.b": value})
    assert pairs(command) == {"data.x": value, "a.b": value}


def test_what_the_search_was_given_is_given_again(tmp_path):
    """The command trains what the trial trained; the file alone would not."""
    file = tmp_path / "f.yaml"
    file.write_text(FILE)
    overrides = {"train.max_steps": 20, "train.learning_rate": 1e-3, "loss": {"objective": "dft"}, "study.trials": 3}
    searched = load_config(file, overrides).config
    command = retrain_command(origin(file=str(file), overrides=overrides), {"train.learning_rate": 2.5e-4})
    assert pairs(command).keys() == {"train.max_steps", "loss", "train.learning_rate"}
    again = load_config(file, [word for word in shlex.split(command)[3:] if word != "--set"]).config
    assert again.train == searched.train.model_copy(update={"learning_rate": 2.5e-4})
    assert again.loss == searched.loss


def test_the_commits_that_a_study_was_pinned_to_are_given_again():
    pins = {"model.revision": "a" * 40, "data.revision": {"org/set": "b" * 40, "org/other@v1": "c" * 40}}
    command = retrain_command(
        origin(pins=pins, overrides={"model.revision": "v1", "train.max_steps": 3}), {"train.seed": 1}
    )
    assert pairs(command) == {"train.max_steps": 3, **pins, "train.seed": 1}
    assert command.count("model.revision") == 1


def test_without_a_file_the_configuration_comes_from_the_store():
    command = retrain_command(origin(file=None, study="my study"), {"loss.objective": "sft"})
    stored, train = command.split(" && ")
    assert stored == "rankray best 'my study' --yaml --store sqlite:///s.db > 'my study.yaml'"
    assert train == "rankray train 'my study.yaml' --set loss.objective=sft"
    command = retrain_command(origin(file=None), {"loss.objective": "rri"}, recommended=True)
    assert command.endswith(" > s.yaml && rankray train s.yaml"), "`best --yaml` has these settings"
    assert "--set loss.objective=rri" in retrain_command(origin(), {"loss.objective": "rri"}, recommended=True)


@pytest.mark.parametrize("given", [{"study.seeds": 2, "study.trials": 3}, {"study": {"seeds": 2, "trials": 3}}])
def test_a_mean_over_seeds_is_trained_again_as_one(given):
    assert pairs(retrain_command(origin(overrides=given), {"loss.form": "exact"})) == {
        "study.seeds": 2,
        "loss.form": "exact",
    }


def test_a_search_is_resumed_as_it_was_begun():
    given = {"name": "s", "study.trials": 3, "space.loss.temperature": {"float": [0.5, 2.0], "log": True}}
    command = resume_command(origin(overrides=given))
    assert shlex.split(command)[:5] == ["rankray", "search", "f.yaml", "--name", "s"]
    assert shlex.split(command)[-2:] == ["--store", "sqlite:///s.db"]
    assert pairs(command) == {path: value for path, value in given.items() if path != "name"}
    for study, label in (("s.confirm", ""), ("s.confirm-two", " --metric eval/nll --label two"), ("other", "")):
        found = resume_command(origin(study=study, confirms="s"))
        assert found == f"rankray confirm s{label} --store sqlite:///s.db"
    given = {"study.budget.money": 4.0, "study.budget.gpu_hours": None, "train.max_steps": 20, "study.trials": 9}
    found = resume_command(origin(study="s.confirm", confirms="s", overrides={**given, "resources": {"gpus": 1}}))
    assert pairs(found) == {"study.budget.money": 4.0, "resources": {"gpus": 1}}
    assert resume_command(origin(file=None)).startswith("rankray search FILE ")


def test_no_command_grants_what_the_store_says():
    """A store is input: nobody may copy a line of it that lets a model or a data set run code."""
    overrides = {
        "model": {"path": "m", "trust_remote_code": True},
        "model.trust_remote_code": True,
        "evaluate.allow_code_execution": True,
        "evaluate.functions": ["os:system"],
        "evaluate.every_steps": 5,
    }
    for command in (retrain_command(origin(overrides=overrides), {}), resume_command(origin(overrides=overrides))):
        assert pairs(command) == {"model": {"path": "m"}, "evaluate.every_steps": 5}


RRI = {"params": {"loss.objective": "rri", "train.learning_rate": 0.01}}
SFT = {"params": {"loss.objective": "sft", "train.learning_rate": 0.002}, "plain_sft": True}


@pytest.mark.parametrize(
    ("best", "word", "order"),
    [
        (RRI, None, ["rri"]),
        (RRI, "better", ["rri"]),
        (RRI, "under-powered", ["rri"]),
        (RRI, "indistinguishable", ["rri", "sft"]),
        (RRI, "worse", ["sft", "rri"]),
        (SFT, "worse", ["sft"]),
        ({**SFT, "params": {**SFT["params"], "train.learning_rate": 0.02}}, "worse", ["sft", "sft"]),
    ],
)
def test_what_is_to_be_trained_comes_the_better_first_and_plain_sft_at_one_rate_once(best, word, order):
    baseline = {"params": {**SFT["params"], "loss.kl_weight": 0.0}}
    verdicts = [] if word is None else [{"verdict": {"word": word}, "baseline": baseline}]
    found = training_commands(origin(), best, verdicts)
    assert [pairs(command)["loss.objective"] for _, command in found] == order
    assert len({what for what, _ in found}) == len(order)
    assert ("which is better" in found[0][0]) == (order == ["sft", "rri"])
