"""Secrets in configurations."""

from typing import Any

import pytest

from rankray.config import load_config
from rankray.config.schema import Config
from rankray.config.secrets import is_secret_name, note_store, store_variables, variable_of_store
from rankray.errors import ConfigError

PLANTED = "plantedX9"
CONFIG: dict[str, Any] = {"name": "s", "model": {"path": "m"}, "data": {"train": "t.jsonl", "eval": "e.jsonl"}}
REFUSED = [
    ("train.sft.hub_token", {"train": {"sft": {"hub_token": PLANTED}}}),
    ("train.sft.push_to_hub_token", {"train": {"sft": {"push_to_hub_token": PLANTED}}}),
    ("train.sft.model_init_kwargs.token", {"train": {"sft": {"model_init_kwargs": {"token": PLANTED}}}}),
    ("train.sft.accelerator_config.API-KEY", {"train": {"sft": {"accelerator_config": {"API-KEY": PLANTED}}}}),
    ("train.sft.x", {"train": {"sft": {"x": ["a", f"hf_{PLANTED}abcdefghijk"]}}}),
    ("model.path", {"model": {"path": f"https://u:{PLANTED}@hub/x"}}),
    ("data.train", {"data": {"train": f"https://h/x?token={PLANTED}", "eval": "e"}}),
    ("data.eval", {"data": {"train": "t", "eval": f"s3%3A//k:{PLANTED}@b"}}),
    ("space.train.sft.hub_token", {"space": {"train.sft.hub_token": {"choice": [PLANTED]}}}),
    ("study.sampler.password", {"study": {"sampler": {"name": "random", "password": PLANTED}}}),
    ("storage", {"storage": f"s3://b/runs?endpoint_override=http://k:{PLANTED}@h:9000"}),
    ("storage", {"storage": f"s3://b/runs?endpoint_override=http%3A%2F%2Fk%3A{PLANTED}%40h"}),
    ("storage", {"storage": f"s3://b/runs?endpoint_override=h/x?secret_key={PLANTED}"}),
    ("storage", {"storage": f"s3://b/runs?secret_key={PLANTED}"}),
]


@pytest.mark.parametrize(("path", "change"), REFUSED, ids=[str(index) for index in range(len(REFUSED))])
def test_secrets_are_refused_and_not_shown(path, change, tmp_path):
    import json

    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(CONFIG | change))
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert PLANTED not in str(refused.value)
    if not path.startswith("space."):
        assert path in str(refused.value)


def test_what_is_no_secret_is_allowed():
    sft = {"eos_token": "<eos>", "pad_token": "<pad>", "include_num_input_tokens_seen": True, "hub_token": None}
    tree = CONFIG | {"train": {"sft": sft}, "storage": "s3://b/runs?endpoint_override=http://h:9000&region=x"}
    assert Config.model_validate(tree).train.sft["eos_token"] == "<eos>"
    assert not any(map(is_secret_name, ("max_tokens", "eval/token_accuracy", "study.keep_best", "dataset_key")))


@pytest.mark.parametrize("given", [["postgresql://u:plantedX9@h/d"], {"url": "plantedX9"}, 7])
def test_a_store_of_the_wrong_type_is_not_shown(given, tmp_path):
    import json

    file = tmp_path / "s.yaml"
    file.write_text(json.dumps(CONFIG | {"store": given}))
    with pytest.raises(ConfigError, match="store: got a value that is not shown") as refused:
        load_config(file)
    assert PLANTED not in str(refused.value)


def test_the_variables_that_hold_a_store_are_known(monkeypatch):
    """Whatever they are called: their names are printed in commands, and processes of Ray are started without them."""
    shown, url = "postgresql://u:***@h/d", "postgresql://u:word@h/d"
    monkeypatch.delenv("RANKRAY_STORE", raising=False)
    assert variable_of_store(shown) == "RANKRAY_STORE"
    note_store(shown, url)
    assert (store_variables(), variable_of_store(shown)) == ([], "RANKRAY_STORE")
    monkeypatch.setenv("TEAM_STORE", url)
    assert (store_variables(), variable_of_store(shown)) == (["TEAM_STORE"], "TEAM_STORE")
    assert variable_of_store("postgresql://u:***@other/d") == "RANKRAY_STORE"
    monkeypatch.setenv("RANKRAY_STORE", url)
    assert variable_of_store(shown) == "RANKRAY_STORE"
