"""What training reports, `rankray evaluate` finds again: the model computes in the same precision."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from rankray.config import Config
from rankray.errors import ConfigError
from rankray.evaluate.target import evaluate_target
from rankray.model.trained import autocast_dtype, load_model

MIXED = {"train__sft": {"bf16": True}}
LORA = {"model__lora": {"rank": 2, "target_modules": ["q_proj", "v_proj"]}}
WAYS = {
    "float32": {},
    "float32 under autocast": MIXED,
    "adapters": LORA,
    "adapters under autocast": LORA | MIXED,
    "master weights": {"model__dtype": "auto"},
    "bfloat16": {"model__dtype": "bfloat16"},
    "adapters on bfloat16": {"model__dtype": "auto"} | LORA,
}


@pytest.fixture
def bfloat16_dir(model_dir, tmp_path):
    """The model, saved in bfloat16."""
    from transformers import AutoModelForCausalLM

    place = tmp_path / "bfloat16"
    shutil.copytree(model_dir, place)
    AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.bfloat16).save_pretrained(place)
    assert json.loads((place / "config.json").read_text())["dtype"] == "bfloat16"
    return place


@pytest.mark.parametrize("way", WAYS)
def test_evaluate_finds_what_training_reported(way, tree, train, model_dir, bfloat16_dir):
    asked = tree(**WAYS[way], evaluate__metrics=["nll", "token_accuracy", "accuracy", "avg@2"])
    asked["evaluate"]["max_new_tokens"] = 3
    asked["model"]["path"] = str(model_dir if way.endswith(("float32", "autocast", "adapters")) else bfloat16_dir)
    outcome, recorder = train(asked, untrained=True)
    config = Config.model_validate(asked)
    for step, checkpoint in ((0, None), (4, Path(outcome.checkpoint))):
        found = evaluate_target(config, checkpoint)
        reported = recorder.by_step[step]
        assert {name: each["value"] for name, each in found.items()} == {name: reported[name] for name in found}


def test_what_is_under_autocast(tree, bfloat16_dir, monkeypatch):
    def dtype(**changes):
        return autocast_dtype(Config.model_validate(tree(**changes)))

    assert dtype() is None
    assert dtype(train__sft={"bf16": True}) == torch.bfloat16
    master = {"model__path": str(bfloat16_dir)}
    assert dtype(**master) == torch.bfloat16
    assert dtype(**master, train__sft={"bf16": False}) is None
    assert dtype(**master, **LORA) is None
    with pytest.raises(ConfigError, match="float16 on a CPU"):
        dtype(model__dtype="float16")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert dtype(model__dtype="float16") == torch.float16


def test_weights_are_cast_once_for_all_tokens_of_an_answer(tree, monkeypatch):
    from rankray.evaluate.generate import generate_texts
    from rankray.model.resident import tokenizer_of

    config = Config.model_validate(tree(**MIXED))
    model, casts = load_model(config, None), []
    weight = model.model.layers[0].mlp.up_proj.weight

    class Casts(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].data_ptr() == weight.data_ptr():
                casts.append(function)
            return function(*args, **(kwargs or {}))

    with Casts():
        generate_texts(model, tokenizer_of(config), [[5, 6, 7]], batch_size=1, max_new_tokens=5)
    assert len(casts) == 1
