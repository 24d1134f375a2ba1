"""Reading configurations, and the errors of wrong ones."""

from pathlib import Path

import pytest
import yaml

from rankray.config import Config, load_config
from rankray.config.load import load_mapping, parse_value
from rankray.errors import ConfigError

GOOD = """\
name: demo
model: {path: some/model}
data:
  train: train.jsonl
  eval: eval.jsonl
loss: {temperature: 2.0}
train: {learning_rate: 1e-4, sft: {optim: sgd}}
evaluate: {every_steps: 5, metrics: [nll, accuracy]}
space:
  loss.temperature: {float: [0.25, 8.0], log: true}
  loss.form: {choice: [bound, exact], when: {loss.objective: rri}}
study: {trials: 8}
"""


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "search.yaml"
        file.write_text(text)
        return file

    return write


def fails(file, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    return str(caught.value)


def test_a_good_file_is_read(write):
    config = load_config(write(GOOD)).config
    assert (config.name, config.loss.temperature, config.train.learning_rate) == ("demo", 2.0, 1e-4)
    assert config.train.sft == {"optim": "sgd"}
    assert config.direction == "minimize"


def test_exponents_without_a_dot_are_numbers():
    assert parse_value("1e-5") == 1e-5
    assert parse_value("{lr: 3E4}") == {"lr": 3e4}


def test_overrides_win_and_are_named_in_errors(write):
    file = write(GOOD)
    config = load_config(file, ["loss.temperature=0.5", "study.trials=12", "model.lora={rank: 4}"], name="other").config
    assert (config.loss.temperature, config.study.trials, config.model.lora.rank) == (0.5, 12, 4)
    assert config.name == "other"
    assert fails(file, ["loss.temperature=-1"]).startswith("--set loss.temperature: loss.temperature: got -1")
    assert "--set path=value" in fails(file, ["loss.temperature"])


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("lora.rank", "lora: unknown key (did you mean"),
        ("a.b.c", "a: unknown key"),
        ("train.learning_rate.x", "train.learning_rate: got {'x': 8}; allowed: a number"),
    ],
)
def test_an_override_in_a_section_that_is_not_there_names_the_option(write, path, says):
    assert fails(write(GOOD), [f"{path}=8"]).startswith(f"--set {path}: {says}")


def test_an_override_of_the_steps_takes_the_place_of_epochs(write):
    file = write(GOOD.replace("train: {", "train: {epochs: 3, "))
    assert load_config(file).config.train.epochs == 3
    for overrides in (["train.max_steps=7"], {"train.max_steps": 7}):
        train = load_config(file, overrides).config.train
        assert (train.epochs, train.max_steps) == (None, 7)
    assert load_config(file, ["train.max_steps=7", "train.epochs=1"]).config.train.epochs == 1


def test_an_error_in_an_overridden_section_is_not_said_to_be_in_the_file(write):
    text = fails(write(GOOD), ["space={loss.form: {choice: []}}"])
    assert text.startswith("--set space: space.loss.form: ")
    assert fails(write(GOOD), ["loss={temperature: -1}"]).startswith("--set loss: loss.temperature: ")


def test_an_override_of_the_space_names_the_whole_path(write):
    config = load_config(write(GOOD), ["space.train.learning_rate={float: [1e-5, 1e-3], log: true}"]).config
    assert config.space["train.learning_rate"] == {"float": [1e-5, 1e-3], "log": True}


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("temperature: 2.0", "temprature: 2.0"), 6, ["loss.temprature", "unknown key", "did you mean 'temperature'"]),
        (("temperature: 2.0", "temperature: 0"), 6, ["loss.temperature", "got 0", "greater than 0"]),
        (("temperature: 2.0", "objective: rr1"), 6, ["got 'rr1'", "did you mean 'rri'", "talr", "WEIGHTS"]),
        (("  loss.temperature:", "  loss.temprature:"), 10, ["names no configuration field", "'loss.temperature'"]),
        (("[0.25, 8.0]", "[8.0, 0.25]"), 10, ["low 8.0 is not below high 0.25"]),
        (("[0.25, 8.0]", "[-1.0, 8.0]"), 10, ["log: true needs low > 0"]),
        (("[bound, exact]", "[bound, exat]"), 11, ["'exat' is not allowed there"]),
        (("loss.objective: rri}", "loss.objectiv: rri}"), 11, ["when:", "'loss.objective'"]),
        (("study: {trials: 8}", "study: {metric: train/loss}"), 12, ["weighted by the very settings", "eval/nll"]),
        (("study: {trials: 8}", "study: {metric: eval/token_accuracy}"), 12, ["not measured", "evaluate.metrics"]),
        (("temperature: 2.0", "temperature: .inf"), 6, ["loss.temperature: got inf", "finite number"]),
        (("temperature: 2.0", "talr_temperature: aut"), 6, ["loss.talr_temperature: got 'aut'", "did you mean 'auto'"]),
        (("study: {trials: 8}", "study: {known: [sft, papre]}"), 12, ["known.1", "did you mean 'paper'"]),
        (("study: {trials: 8}", "study: {known: [null]}"), 12, ["known.0", "text or a mapping"]),
        (("study: {trials: 8}", "study: {warm_start: [5]}"), 12, ["warm_start.0", "text or a mapping"]),
        (("study: {trials: 8}", "resources: {workers: [2, x]}"), 12, ["resources.workers: got"]),
        (("study: {trials: 8}", "study: {trials: 0}"), 12, ["study.trials", "got 0"]),
        (("name: demo", "name: ../demo"), 1, ["name: got '../demo'"]),
        (("[nll, accuracy]", "[nll, bleu]"), 8, ["unknown metric 'bleu'", "pass@k"]),
        (("study: {trials: 8}", "name: demo"), 12, ["given twice"]),
        (("model: {path: some/model}", "model: {path: some/model"), 3, ["not valid YAML"]),
    ],
)
def test_each_mistake_is_named_with_its_line(write, change, line, words):
    assert change[0] in GOOD
    file = write(GOOD.replace(*change, 1))
    message = fails(file)
    assert message.startswith(f"{file}:{line}: "), message
    for word in words:
        assert word in message


def test_all_mistakes_are_reported_together(write):
    message = fails(write(GOOD.replace("temperature: 2.0", "temperature: 0").replace("trials: 8", "trials: 0")))
    assert len(message.splitlines()) == 2


def test_a_missing_file_names_the_nearest(write):
    file = write(GOOD)
    assert "did you mean 'search.yaml'" in fails(file.with_name("serch.yaml"))


def test_a_missing_section_says_what_is_needed(write):
    assert "data.eval: missing" in fails(write(GOOD.replace("  eval: eval.jsonl\n", "")))


def test_the_space_may_be_a_file(write, tmp_path):
    (tmp_path / "space.yaml").write_text(
        "# what?\nloss.alpha: {float: [0.0, 2.0]}\nloss.entropy_wight: {float: [0, 2]}\n"
    )
    file = write(GOOD[: GOOD.index("space:")] + "space: space.yaml\n")
    message = fails(file)
    assert message.startswith(f"{tmp_path / 'space.yaml'}:3: ")
    (tmp_path / "space.yaml").write_text("loss.alpha: {float: [0.0, 2.0]}\n")
    assert list(load_config(file).config.space) == ["loss.alpha"]


def test_a_file_is_never_its_own_space(write):
    file = write(GOOD[: GOOD.index("space:")] + "space: quickstart.yaml\n")
    file = file.rename(file.with_name("quickstart.yaml"))
    assert "loss.objective" in load_config(file).config.space


def test_a_missing_space_file_lists_those_there_are(write):
    message = fails(write(GOOD[: GOOD.index("space:")] + "space: quikstart.yaml\n"))
    assert "did you mean 'quickstart.yaml'" in message


def test_the_store_comes_from_the_environment(write, monkeypatch):
    monkeypatch.setenv("RANKRAY_STORE", "sqlite:///elsewhere.db")
    assert load_config(write(GOOD)).config.store == f"sqlite:///{Path.cwd()}/elsewhere.db"


def test_the_name_comes_from_the_file(write):
    assert load_config(write(GOOD.replace("name: demo\n", ""))).config.name == "search"


def test_where_points_at_the_line(write):
    loaded = load_config(write(GOOD))
    assert loaded.where("data.train").endswith(":4")
    assert loaded.where("data.max_length").endswith(":3")
    assert loaded.where("resources.workers") == loaded.file


def test_overrides_may_be_a_mapping(write):
    loaded = load_config(write(GOOD), {"train.max_steps": 7, "space.loss.alpha": {"float": [0.5, 1.0]}})
    assert loaded.config.train.max_steps == 7
    assert loaded.config.space["loss.alpha"] == {"float": [0.5, 1.0]}
    with pytest.raises(ConfigError, match=r"^overrides: train.max_stesp: train.max_stesp: unknown key"):
        load_config(write(GOOD), {"train.max_stesp": 7})


@pytest.mark.parametrize("value", ["yes", "true", "on", "'true'"])
@pytest.mark.parametrize("path", ["study.trials", "train.learning_rate", "resources.concurrency", "resources.workers"])
def test_a_truth_is_no_number(write, path, value):
    with pytest.raises(ConfigError, match=rf"--set {path}: {path}: got .*; allowed: "):
        load_config(write(GOOD), [f"{path}={value}"])


@pytest.mark.parametrize("value", ["1", "0", "'yes'", "2.0"])
def test_a_number_is_no_truth(write, value):
    with pytest.raises(ConfigError, match=r"model.trust_remote_code: got .*; allowed: true or false"):
        load_config(write(GOOD), [f"model.trust_remote_code={value}"])


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("é.yaml", "e"),
        ("mein größter.yaml", "mein-groter"),
        ("日本.yaml", "study"),
        ("_-x.yaml", "x"),
        (f"{'a' * 150}.yaml", "a" * 100),
    ],
)
def test_a_name_is_made_of_the_files_name(tmp_path, write, file, name):
    path = tmp_path / file
    path.write_text(write(GOOD).read_text().replace("name:", "#"))
    assert load_config(path).config.name == name


def test_pruning_is_on_a_metric_that_is_measured():
    tree = {
        "name": "s",
        "model": {"path": "m"},
        "data": {"train": "a.jsonl", "eval": "b.jsonl"},
        "evaluate": {"metrics": ["nll", "accuracy"]},
        "study": {"metric": "eval/accuracy"},
    }
    config = Config.model_validate(tree)
    assert (config.study.prune_on, config.prune_direction, config.direction) == ("eval/nll", "minimize", "maximize")
    other = Config.model_validate({**tree, "study": {"metric": "eval/nll", "prune_on": "eval/accuracy"}})
    assert other.prune_direction == "maximize"
    with pytest.raises(
        ValueError, match=r"study\.prune_on: 'eval/acuracy' is not measured; allowed: eval/nll, eval/acc"
    ):
        Config.model_validate({**tree, "study": {"metric": "eval/nll", "prune_on": "eval/acuracy"}})


def test_a_mapping_is_read_as_a_file_is(write, tmp_path, monkeypatch):
    """Overrides below the space, a file of the space, the default store and storage, where a value was given."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKRAY_STORE", "sqlite:///named.db")
    overrides = {"space.train.learning_rate": {"float": [1e-5, 1e-3], "log": True}, "train.max_steps": 7}
    file, tree = write(GOOD), yaml.safe_load(GOOD)
    tree["train"]["learning_rate"] = 1e-4  # which YAML itself reads as text
    as_file, as_mapping = load_config(file, overrides), load_mapping(tree, overrides)
    assert as_mapping.config == as_file.config
    assert (as_mapping.is_from_file, as_file.is_from_file) == (False, True)
    assert list(as_mapping.config.space) == ["loss.temperature", "loss.form", "train.learning_rate"]
    assert as_mapping.config.store == f"sqlite:///{tmp_path}/named.db"
    assert as_mapping.where("train.max_steps") == as_file.where("train.max_steps") == "overrides: train.max_steps"
    assert load_mapping(tree | {"space": "ranktuner.yaml"}, {}).config.space == load_config(
        file, {"space": "ranktuner.yaml"}
    ).config.space  # fmt: skip
    with pytest.raises(ConfigError, match=r"^mapping: loss.temprature: unknown key \(did you mean 'temperature'"):
        load_mapping(tree | {"loss": {"temprature": 1}}, {})
    with pytest.raises(ConfigError, match=r"^overrides: study.trials: study.trials: got 'many'"):
        load_mapping(tree, {"study.trials": "many"})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("train.batch_size=99999999999999", "train.batch_size: got 99999999999999; allowed: at most 2147483647"),
        ("train.threads=99999", "train.threads: got 99999; allowed: less than or equal to 4096"),
        ("resources.cpus_per_worker=.inf", "resources.cpus_per_worker: got inf; allowed: a finite number"),
    ],
)
def test_numbers_that_the_libraries_cannot_take_are_refused(write, given, says):
    assert says in fails(write(GOOD), [given])
    load_config(write(GOOD), ["train.batch_size=2147483647", "train.threads=4096"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("logging=[mlflow, wandb, mlflow]", "logging: got 'mlflow' twice; allowed: each name once; leave one out"),
        ("evaluate.metrics=[nll, accuracy, nll]", "evaluate.metrics: got 'nll' twice; allowed: each name once"),
        ("evaluate.functions=[a:b, a:b]", "evaluate.functions: got 'a:b' twice; allowed: each name once"),
        ("evaluate.also={x: {data: x.jsonl, metrics: [nll, nll]}}", "got 'nll' twice; allowed: each name once"),
        ("model.lora={target_modules: [q_proj, v_proj, q_proj]}", "got 'q_proj' twice; allowed: each name once"),
        ("evaluate.metrics=[pass@99999999999]", "got 'pass@99999999999', for which k answers would be sampled"),
        ("evaluate.metrics=[avg@10001]", "allowed: a k of at most 10000; lower it"),
        ("evaluate.samples=10001", "evaluate.samples: got 10001; allowed: less than or equal to 10000"),
    ],
)
def test_names_that_are_there_twice_and_more_answers_than_can_be_sampled_are_refused(write, given, says):
    said = fails(write(GOOD), [given])
    assert said.startswith(f"--set {given.partition('=')[0]}: ")
    assert says in said
    load_config(write(GOOD), ["logging=[mlflow, wandb]", "evaluate.metrics=[nll, pass@10000, avg@4]"])


@pytest.mark.parametrize(
    ("given", "named", "shown"),
    [
        ("train.sft={max_grad_norm: .inf}", "train.sft.max_grad_norm", "inf"),
        ("study.pruner={name: successive_halving, min_resource: .inf}", "study.pruner.min_resource", "inf"),
        ("data.where={score: .nan}", "data.where.score", "nan"),
        ("data.where={day: !!timestamp 2024-01-31}", "data.where.day", r"datetime.date\(2024, 1, 31\)"),
        ("data.where={name: [a, !!binary /w==]}", "data.where.name", r"b'\\xff'"),
        ("data.train=[{path: a.jsonl, where: {score: -.inf}}]", "data.train.where.score", "-inf"),
    ],
)
def test_what_a_study_cannot_store_is_refused(write, given, named, shown):
    """JSON has no infinity: workers got null instead, and every trial failed."""
    with pytest.raises(ConfigError, match=rf"^--set \S+: {named}: got {shown}; allowed: text, finite numbers"):
        load_config(write(GOOD), [given])


def test_a_choice_is_finite(write):
    said = fails(write(GOOD), ["space.train.sft.max_grad_norm={choice: [1.0, .inf]}"])
    assert said.startswith(
        "--set space.train.sft.max_grad_norm: space.train.sft.max_grad_norm: choice inf is not finite"
    )


def test_a_number_that_begins_with_zero_is_decimal(write):
    """YAML 1.1 takes 0100 for 64."""
    loaded = load_config(write(GOOD), ["train.max_steps=0100", "train.seed=08", "data.where={code: 007}"])
    assert (loaded.config.train.max_steps, loaded.config.train.seed) == (100, 8)
    assert loaded.config.data.where == {"code": "007"}


def test_an_override_fills_a_space_that_is_empty(write):
    text = GOOD[: GOOD.index("space:")] + "space:\n  # loss.alpha: {float: [0.5, 1.0]}\n"
    loaded = load_config(write(text), ["space.loss.temperature={float: [1, 2]}"])
    assert loaded.config.space == {"loss.temperature": {"float": [1, 2]}}
