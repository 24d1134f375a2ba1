"""Weights and config.json are compared without reading the weights; the loader of a trial says the same."""

import json

import pytest
import torch
from fixtures.families import FAMILIES, build
from transformers import AutoModelForCausalLM

from rankray.config.schema import Config
from rankray.errors import ModelError
from rankray.model import resident
from rankray.model.saved import check_saved_weights


@pytest.fixture
def saved(tmp_path, tree):
    """Save a small model with another config.json; return a configuration with it."""

    def go(family="llama", **changes):
        build(family).save_pretrained(tmp_path)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return Config.model_validate(tree(model__path=str(tmp_path)))

    return go


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_fits(saved, family):
    assert check_saved_weights(saved(family)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "lack 9 of the model's tensors"),
        ({"intermediate_size": 40}, "6 of the weights .* another shape .* and 16 x 40 by config.json"),
        ({"vocab_size": 80}, r"first: lm_head.weight is 64 x 16, and 80 x 16"),
    ],
)
def test_the_check_and_the_loader_of_a_trial_refuse_the_same(saved, changes, said):
    config = saved(**changes)
    for look in (check_saved_weights, resident.fresh_model):
        with pytest.raises(ModelError, match=f"model.path: .*{said}"):
            look(config)
    resident.forget()


def test_layers_that_would_be_left_out_are_a_warning(saved):
    [warning] = check_saved_weights(saved(num_hidden_layers=1))
    assert "9 of the weights" in warning
    assert "model.layers.1" in warning


def test_no_weight_is_read(saved, monkeypatch):
    loaded = []
    original = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda *a, **k: loaded.append(original(*a, **k)) or loaded[-1],
    )
    check_saved_weights(saved())
    assert {weight.device for weight in loaded[0][0].parameters()} == {torch.device("meta")}


def test_pickled_weights_and_models_of_the_hub_are_not_looked_at(saved, tree, tmp_path):
    config = saved(num_hidden_layers=3)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert check_saved_weights(config) == []
    assert check_saved_weights(Config.model_validate(tree(model__path="nobody/none"))) == []
