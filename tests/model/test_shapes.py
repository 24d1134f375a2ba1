"""Shapes from a directory's headers are those of the model, for each kind of architecture."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from fixtures.families import FAMILIES
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from rankray.model.files import weight_files
from rankray.model.shapes import local_shape, saved_shapes, shape_of


def test_a_directory_says_what_the_model_has(model_dir):
    shape = local_shape(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert shape.weights == sum(each.numel() for each in model.parameters())
    assert (shape.layers, shape.hidden, shape.inner, shape.heads, shape.vocabulary) == (2, 32, 48, 2, 280)
    assert shape.linear == sum(
        each.weight.numel() for name, each in model.named_modules()
        if isinstance(each, torch.nn.Linear) and "lm_head" not in name
    )  # fmt: skip
    assert shape.head == 280 * 32
    assert not shape.is_tied
    assert shape.is_gated
    assert shape.norms == 2
    assert shape.dtype == "float32"


def test_what_cannot_be_read_is_unknown(model_dir, tmp_path):
    assert local_shape(tmp_path) is None
    copied = shutil.copytree(model_dir, tmp_path / "copied")
    (copied / "config.json").write_text(json.dumps({"vocab_size": 5}))
    assert local_shape(copied) is None
    (copied / "model.safetensors").write_bytes(b"no header")
    assert local_shape(copied) is None


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_every_family_has_a_shape_or_says_that_it_is_unsure(kind):
    config = AutoConfig.for_model(kind, **FAMILIES[kind])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(config.to_dict(), {name: tuple(each.shape) for name, each in model.named_parameters()})
    if shape is None:
        assert not getattr(config.get_text_config(), "num_attention_heads", None), "a model without attention"
        return
    assert shape.weights == sum(each.numel() for each in model.parameters())
    assert 0 < shape.linear < shape.weights
    assert shape.layers == config.get_text_config().num_hidden_layers
    is_odd = any(part in kind for part in ("mamba", "falcon_h1", "moe", "mixtral", "gpt_oss", "rwkv", "jamba", "bamba"))
    assert bool(shape.unsure) == is_odd


def test_weights_that_are_there_in_a_second_form_count_once(model_dir, tmp_path):
    """Mistral's models have `consolidated.safetensors` beside the parts that the index names."""
    copied = shutil.copytree(model_dir, tmp_path / "copied")
    shutil.copy(copied / "model.safetensors", copied / "consolidated.safetensors")
    assert local_shape(copied) == local_shape(model_dir)
    names = saved_shapes(model_dir)
    (copied / "model.safetensors").rename(copied / "model-00001-of-00001.safetensors")
    (copied / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")})
    )
    (copied / "adapter_model.safetensors").write_bytes(b"not the model's")
    assert local_shape(copied) == local_shape(model_dir)
    assert [file.name for file in weight_files(copied)] == ["model-00001-of-00001.safetensors"]


def test_what_torch_saved_has_the_same_shape(model_dir, tmp_path):
    copied = shutil.copytree(model_dir, tmp_path / "copied")
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert saved_shapes(copied) == saved_shapes(model_dir)
    assert local_shape(copied) == local_shape(model_dir)
    (copied / "pytorch_model.bin").write_bytes((copied / "pytorch_model.bin").read_bytes()[:-100])
    assert saved_shapes(copied) is None
