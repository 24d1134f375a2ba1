"""What is shown of a study that another version made with what this one refuses."""

import copy
import json
import warnings

import pytest

from rankray.config import Config, apply_params
from rankray.config.lenient import UNREADABLE, params_of, readable, unfit
from rankray.config.params import get_path, set_path

URL = "sqlite:////somewhere/store.db"
BASE = {
    "name": "s",
    "model": {"path": "org/model"},
    "data": {"train": "train.jsonl", "eval": "eval.jsonl"},
    "train": {"batch_size": 8},
    "space": {"loss.temperature": {"float": [0.5, 4.0]}, "train.batch_size": {"choice": [8, 16]}},
    "storage": "/somewhere/runs",
}


def stored(path=None, value=None):
    """Return what is kept of a study whose version allowed a value at a path."""
    tree = json.loads(Config.model_validate(BASE | {"store": URL}).model_dump_json(exclude={"store"}))
    if path is not None:
        set_path(tree, path, value)
    return tree


def test_what_this_version_takes_is_read_as_ever():
    config, refused = readable(stored(), URL)
    assert (config, refused, unfit("s", refused)) == (Config.model_validate(stored() | {"store": URL}), [], "")
    params = {"loss.temperature": 2.0, "train.batch_size": 16}
    assert params_of(config, params) == apply_params(config, params)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("evaluate.samples", 20_000),
        ("evaluate.metrics", ["nll", "pass@20000"]),
        ("evaluate.metrics", ["nll", "blurb"]),
        ("loss.objective", "gone"),
        ("train.schedule", "gone"),
        ("train.micro_batch_size", 3),
        ("study.known", ["sft", "gone"]),
        ("study.metric", "eval/gone"),
        ("logging", ["wandb", "comet"]),
        ("resources.workers", [3, 2]),
    ],
)
def test_a_value_that_is_not_allowed_any_more_stays(path, value):
    """It is what the study trained with; only what opens it to work on it refuses it."""
    before = stored(path, value)
    kept = copy.deepcopy(before)
    config, refused = readable(before, URL)
    found = get_path(config, path)
    assert (list(found) if isinstance(value, list) else found) == value
    assert [line.split(":")[0] for line in refused] == [path]
    assert repr(value)[:40] in refused[0]
    assert before == kept, "what was read is not changed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Pydantic serializer warnings")
        assert json.loads(params_of(config, {"loss.temperature": 2.0}).model_dump_json())["loss"]["temperature"] == 2.0
    assert {**stored(), **json.loads(config.model_dump_json(exclude={"store"}))}.keys() == stored().keys()


@pytest.mark.parametrize(
    ("path", "value", "instead"),
    [
        ("train.gone", 1, None),
        ("gone", {"a": 1}, None),
        ("resources.workers", "many", 1),
        ("train.max_steps", "long", 200),
        ("evaluate.also", {"arc": {"data": "d", "gone": 1}}, {}),
        ("data.train", [{"path": "x", "gone": 1}], UNREADABLE),
        ("train", 5, None),
    ],
)
def test_what_is_unknown_or_of_another_kind_is_left_out(path, value, instead):
    config, refused = readable(stored(path, value), URL)
    assert [line.split(":")[0] for line in refused] == [path]
    if instead is not None:
        assert get_path(config, path) == instead
    assert config.loss == Config.model_validate(BASE | {"store": URL}).loss, "all else is as it was"
    assert unfit("s", refused).startswith("s: another version of rankray made it, with what this one refuses: " + path)


def test_several_things_at_once_are_all_said():
    tree = stored("train.gone", 1)
    set_path(tree, "evaluate.samples", 20_000)
    set_path(tree, "train.micro_batch_size", 3)
    config, refused = readable(tree, URL)
    assert sorted(line.split(":")[0] for line in refused) == [
        "evaluate.samples",
        "train.gone",
        "train.micro_batch_size",
    ]
    assert (config.evaluate.samples, config.train.micro_batch_size) == (20_000, 3)


def test_a_field_that_every_study_has_may_be_missing():
    tree = stored()
    del tree["model"]["path"]
    config, refused = readable(tree, URL)
    assert config.model.path == UNREADABLE
    assert refused == ["model.path: None"]


@pytest.mark.parametrize(
    ("path", "entry"),
    [("loss.gone", {"float": [0, 1]}), ("train.seed", {"uniform": [0, 1]}), ("train.seed", [0, 1])],
)
def test_of_a_space_what_can_be_read_is_left(path, entry):
    tree = stored()
    tree["space"] = {path: entry, **tree["space"]}
    config, refused = readable(tree, URL)
    assert list(config.search_space.distributions) == list(stored()["space"])
    assert [line.split(":")[0] for line in refused] == [f"space.{path}"]


def test_no_secret_is_shown():
    """A version before may have taken what this one knows as a secret."""
    tree = stored("train.sft", {"hub_token": "hf_PLANTEDPLANTEDPLANTEDPLANTED"})
    config, refused = readable(tree, URL)
    assert "PLANTED" not in config.model_dump_json() + " ".join(refused)
    assert refused[0].startswith("train.sft")
