"""The tokenizer that `check` and `preview` take is the one that trains."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import AutoTokenizer

from rankray.data.encode import light_tokenizer

TEXT = "Once upon a time\nTom had 12 apples, and 3 were  green."


@pytest.mark.parametrize(
    "changes", [{}, {"add_bos_token": False}, {"add_eos_token": True}, {"add_prefix_space": False}]
)
@pytest.mark.parametrize(
    "name",
    [
        "TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizer", "LlamaTokenizerFast", "GPT2TokenizerFast",
        "Qwen2Tokenizer", "GemmaTokenizerFast", "NoSuchTokenizer",
    ],
)  # fmt: skip
def test_a_tokenizer_is_of_the_class_that_the_model_names(assets, tmp_path, name, changes):
    """Some classes replace the rules of tokenizer.json, and training has always gone by them."""
    model = tmp_path / "model"
    shutil.copytree(assets / "models" / "stories260K", model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": name, **changes}))
    light, training = light_tokenizer(model), AutoTokenizer.from_pretrained(model)
    assert light(TEXT)["input_ids"] == training(TEXT)["input_ids"]
    assert light.eos_token_id == training.eos_token_id


def test_a_byte_level_tokenizer_that_is_called_llama_s_is_read_as_it_is(model_dir, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_dir, model)
    rules = json.loads((model / "tokenizer.json").read_text())
    rules["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (model / "tokenizer.json").write_text(json.dumps(rules))
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "LlamaTokenizerFast"}))
    assert light_tokenizer(model)(TEXT)["input_ids"] == AutoTokenizer.from_pretrained(model)(TEXT)["input_ids"]
