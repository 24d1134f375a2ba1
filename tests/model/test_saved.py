"""Weights and config.json are compared without reading the weights; the loader of a trial says the same."""

import json

import pytest
import torch
from fixtures.families import FAMILIES, build
from safetensors.torch import load_file
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


def pickle_weights(directory, parts=1):
    """Save a directory's weights as `torch.save` does, in one file or in several with an index."""
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    if parts == 1:
        torch.save(weights, directory / "pytorch_model.bin")
        return
    files = [f"pytorch_model-{part:05}-of-{parts:05}.bin" for part in range(parts)]
    held = {name: files[at % parts] for at, name in enumerate(sorted(weights))}
    for file in files:
        torch.save({name: weights[name] for name in held if held[name] == file}, directory / file)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": held}))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_fits(saved, family):
    assert check_saved_weights(saved(family)) == []


@pytest.mark.parametrize("parts", [1, 3])
def test_what_torch_saved_fits(saved, tmp_path, parts):
    config = saved()
    pickle_weights(tmp_path, parts)
    assert check_saved_weights(config) == []


@pytest.mark.parametrize("pickled", [0, 1, 3])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "lack 9 of the model's tensors"),
        ({"intermediate_size": 40}, "6 of the weights .* another shape .* and 16 x 40 by config.json"),
        ({"vocab_size": 80}, r"first: lm_head.weight is 64 x 16, and 80 x 16"),
    ],
)
def test_the_check_and_the_loader_of_a_trial_refuse_the_same(saved, tmp_path, changes, said, pickled):
    config = saved(**changes)
    if pickled:
        pickle_weights(tmp_path, pickled)
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


def test_what_is_no_file_of_weights_and_models_of_the_hub_are_not_looked_at(saved, tree, tmp_path):
    config = saved(num_hidden_layers=3)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert check_saved_weights(config) == []
    assert check_saved_weights(Config.model_validate(tree(model__path="nobody/none"))) == []
