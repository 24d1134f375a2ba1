"""What a worker gets of a trial: everything it needs, and no way to the store."""

import json
from types import SimpleNamespace

import pytest
import yaml

from rankray.config import config_from, load_config
from rankray.contracts import TrialSpec
from rankray.errors import ConfigError
from rankray.search.specs import spec_maker, worker_config

URL = "postgresql://user:planted-password@host/db"


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "sums.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
    tree = {
        "name": "tiny",
        "model": {"path": "model"},
        "data": {"train": "sums.jsonl", "eval": "sums.jsonl", "prompt": "{question}", "completion": "{answer}"},
        "space": {"loss.temperature": {"float": [0.25, 8.0]}},
        "resources": {"cpus_per_worker": 3},
        "store": URL,
        "storage": "runs",
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return load_config(tmp_path / "tiny.yaml").config


def test_parameters_are_applied_paths_absolute_and_the_store_left_out(config, tmp_path):
    tree = worker_config(config, {"loss.temperature": 2.5})
    assert tree["loss"]["temperature"] == 2.5
    assert tree["store"] == "worker://"
    assert tree["storage"] == str(tmp_path / "runs")
    assert tree["model"]["path"] == str(tmp_path / "model")
    assert tree["data"]["train"] == tree["data"]["eval"] == str(tmp_path / "sums.jsonl")
    assert tree["train"]["threads"] == 3


def test_a_ticket_becomes_a_spec_without_the_password(config):
    ticket = SimpleNamespace(
        number=7,
        params={"loss.temperature": 0.5},
        checkpoint="place",
        history=[{"step": 10, "eval/nll": 3.0}],
        untrained=True,
        earlier=(),
    )
    spec = spec_maker(config, lambda number: f"trial-{number}")(ticket)
    assert (spec.number, spec.directory, spec.checkpoint) == (7, "trial-7", "place")
    assert spec.history == ticket.history
    assert spec.untrained
    assert "planted-password" not in spec.to_json()
    assert TrialSpec.from_json(json.dumps(json.loads(spec.to_json()))) == spec


def test_a_combination_that_the_configuration_refuses_is_no_spec(config):
    config = config_from(config.model_dump(mode="json") | {"train": {"batch_size": 12, "micro_batch_size": 4}})
    ticket = SimpleNamespace(number=7, params={"train.batch_size": 11}, checkpoint=None, history=[])
    with pytest.raises(ConfigError, match="micro_batch_size 4; allowed: a divisor of batch_size 11"):
        spec_maker(config, str)(ticket)
