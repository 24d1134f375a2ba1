"""Where a study's configuration came from, as commands need it."""

import shutil
from pathlib import Path

import pytest

from rankray.cli.lineage import lineage
from rankray.config import load_config
from rankray.report.commands import retrain_command
from rankray.store import attach, open_study
from rankray.store.confirmation import CONFIRMS
from rankray.store.origin import origin, storages
from store.helpers import make_config

FILE = """
model: {path: m}
data: {train: t.jsonl, eval: e.jsonl, prompt: "{q}", completion: "{a}"}
loss: {objective: rri}
space: {train.learning_rate: {float: [1.0e-5, 1.0e-2], log: true}}
study: {trials: 2}
"""
NARROW = {"float": [1e-4, 1e-3], "log": True}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("given", ["options", "mapping"])
def test_all_that_was_given_in_place_of_the_file(file, sqlite_url, given):
    overrides = {"train.max_steps": 20, "train.sft": {"optim": "sgd"}, "space.train.learning_rate": NARROW}
    overrides |= {"loss": {"objective": "dft"}, "store": sqlite_url}
    texts = ["train.max_steps=20", "train.sft={optim: sgd}", f"store={sqlite_url}", "loss={objective: dft}"]
    texts.append("space.train.learning_rate={float: [1e-4, 1e-3], log: true}")
    loaded = load_config(file, texts if given == "options" else overrides, name="mine")
    found = origin(open_study(sqlite_url, loaded.config, provenance=lineage(loaded)))
    assert found["study"] == "mine"
    assert found["file"] == str(file)
    assert found["confirms"] is None
    wanted = {path: value for path, value in overrides.items() if path != "store"} | {"name": "mine"}
    assert {path: found["overrides"][path] for path in wanted if "space" not in path} == {
        path: value for path, value in wanted.items() if "space" not in path
    }
    space = found["overrides"]["space.train.learning_rate"]
    again = load_config(file, {"space.train.learning_rate": space}).config
    assert again.space == loaded.config.space
    assert found["overrides"].keys() == wanted.keys()


def test_a_budget_that_was_raised_since(file, sqlite_url):
    for number in (2, 4):
        loaded = load_config(file, {"study.trials": number})
        open_study(sqlite_url, loaded.config, provenance=lineage(loaded))
    assert origin(attach(sqlite_url, loaded.config.name))["overrides"] == {"study.trials": 4}
    loaded = load_config(file, {"study.trials": 6})
    assert origin(open_study(sqlite_url, loaded.config, provenance={}))["overrides"] == {"study.trials": 6}


def test_a_study_without_a_file(sqlite_url):
    found = origin(open_study(sqlite_url, make_config(), provenance={CONFIRMS: "first"}))
    assert (found["file"], found["confirms"], found["overrides"]) == (None, "first", {})


def test_a_name_in_place_of_a_file_is_none(sqlite_url):
    """An earlier version stored the name of a study that was made without a file."""
    assert origin(open_study(sqlite_url, make_config(), provenance={"file": "s"}))["file"] is None


def test_what_is_malformed_in_the_store_is_left_out(sqlite_url):
    places = {"no.such": "--set no.such", "train.max_steps": 3, "study": ["x"], "loss.form": "f.yaml:3"}
    study = open_study(sqlite_url, make_config(), provenance={"file": "/\x1b[2Jx", "places": places})
    found = origin(study)
    assert found["overrides"] == {}
    assert "\x1b" not in found["file"]
    other = open_study(sqlite_url, make_config(name="other"), provenance={"places": "text"})
    assert origin(other)["overrides"] == {}


def test_a_storage_that_was_moved_is_the_study_s_and_so_is_the_first(sqlite_url, tmp_path):
    """Checkpoints of trials that ended before lie in the first one."""
    first, second = str(tmp_path / "one"), str(tmp_path / "two")
    for place in (first, second):
        open_study(sqlite_url, make_config(storage=place))
    study = attach(sqlite_url, make_config().name)
    assert study.config.storage == second
    assert storages(study) == [second, first]


def test_commits_that_the_file_does_not_name(file, sqlite_url):
    """A branch moves: to train the same again takes the commit that the study was pinned to."""
    text = FILE.replace("model: {path: m}", "model: {path: org/model, revision: v1}")
    file.write_text(text.replace("train: t.jsonl, eval: e.jsonl", "train: 'org/set::train', eval: 'org/set::test'"))
    commits = {"model.revision": "a" * 40, "data.revision": {"org/set": "b" * 40}}
    pinned = load_config(file, commits)
    asked = {"model_revision": "v1", "data_revisions": {"org/set": "main"}}
    found = origin(open_study(sqlite_url, pinned.config, provenance=asked))
    assert found["pins"] == commits
    again = load_config(file, found["pins"]).config
    assert (again.model, again.data) == (pinned.config.model, pinned.config.data)
    named = {"model_revision": "a" * 40, "data_revisions": {"org/set": "b" * 40}}
    other = pinned.config.model_copy(update={"name": "other"})
    assert origin(open_study(sqlite_url, other, provenance=named))["pins"] == {}, "the file names them"
    third = make_config(name="third")
    assert origin(open_study(sqlite_url, third, provenance={}))["pins"] == {}


def test_the_loss_that_a_study_of_an_earlier_version_keeps(file, tmp_path, sqlite_url):
    """What is printed to train a trial again trains with its loss: neither field was in a file of that time."""
    kept = {"loss.low_entropy": "bound", "loss.min_competence": 0.0}
    shutil.copy(Path(__file__).parent / "fixtures" / "schema-0.db", tmp_path / "old.db")
    assert origin(attach(f"sqlite:///{tmp_path}/old.db", "s"))["pins"] == kept
    confirmation = load_config(file, dict.fromkeys(["name"], "s.confirm") | kept).config
    loaded = load_config(file)
    study = open_study(sqlite_url, confirmation, provenance=lineage(loaded) | {CONFIRMS: "s"})
    assert origin(study)["pins"] == kept
    assert retrain_command(origin(study), {"loss.low_entropy": "bound"}).endswith(
        " --set loss.min_competence=0.0 --set loss.low_entropy=bound"
    )


@pytest.mark.parametrize("given", [{"loss.low_entropy": "bound"}, {"loss": {"low_entropy": "bound"}}, {}])
def test_a_loss_that_is_given_is_not_one_of_an_earlier_version(file, sqlite_url, given):
    if not given:
        file.write_text(FILE.replace("rri}", "rri, low_entropy: bound}"))
    loaded = load_config(file, given)
    assert loaded.config.loss.low_entropy == "bound"
    assert origin(open_study(sqlite_url, loaded.config, provenance=lineage(loaded)))["pins"] == {}
