"""The estimate against what autograd really saves, and how it follows from the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from fixtures.families import SIZES
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from rankray.config.schema import Config
from rankray.model.memory import Batch, estimate
from rankray.model.shapes import ModelShape, shape_of

WIDTHS = {**SIZES, "hidden_size": 64, "intermediate_size": 160, "head_dim": 16, "num_attention_heads": 4}
ROWS, TOKENS = 2, 24
BATCH = Batch(8, 64)


def config(**model: Any) -> Config:
    made = {"name": "x", "model": {"path": "x", **model}, "data": {"train": "a", "eval": "b"}}
    return Config.model_validate(made)


def built(kind: str, layers: int, dtype: str = "float32") -> tuple[Any, ModelShape]:
    settings = AutoConfig.for_model(kind, **{**WIDTHS, "num_hidden_layers": layers}, dtype=dtype)
    model = AutoModelForCausalLM.from_config(settings).to(getattr(torch, dtype))
    shape = shape_of(settings.to_dict(), {name: tuple(each.shape) for name, each in model.named_parameters()})
    assert shape is not None
    return model, shape


def saved_bytes(model: Any, autocast: bool) -> int:
    """Return the bytes of all tensors that a forward pass saves for backward, but the weights."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask = ids.clone()
    mask[0, -3:] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        out = model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
    del out
    return sum(each.untyped_storage().nbytes() for each in kept.values())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "phi3", "olmo2"])
@pytest.mark.parametrize("how", ["float32", "autocast", "bfloat16", "lora", "lora of bfloat16"])
def test_activations_are_what_autograd_saves(kind: str, how: str) -> None:
    """Of two layers more, so that embedding and head do not count."""
    dtype = "float32" if how in ("float32", "lora") else "bfloat16"
    settings = config(lora={"rank": 4}) if "lora" in how else config(dtype="bfloat16" if how == "bfloat16" else "auto")
    saved, estimated = [], []
    for layers in (1, 3):
        model, shape = built(kind, layers, dtype)
        if how == "autocast":
            model = model.float()
        if "lora" in how:
            model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
        saved.append(saved_bytes(model, how == "autocast"))
        found = estimate(settings, shape, Batch(ROWS, TOKENS), on_gpu=True)
        estimated.append(found.parts["activations"])
    assert estimated[1] - estimated[0] == pytest.approx(saved[1] - saved[0], rel=0.12)


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return built("llama", 2)[1]


def test_weights_gradients_and_optimizer_follow_from_the_weights(shape: ModelShape) -> None:
    full = estimate(config(), shape, Batch(4, 32)).parts
    assert full["weights"] == full["gradients"] == shape.weights * 4
    assert full["optimizer"] == shape.weights * 8
    half = replace(shape, dtype="bfloat16")
    assert estimate(config(), half, Batch(4, 32)).parts["weights"] == shape.weights * 4, "float32 masters"
    assert estimate(config(dtype="bfloat16"), half, Batch(4, 32)).parts["optimizer"] == shape.weights * 4
    on_gpu = estimate(config(lora={"rank": 4}), half, Batch(4, 32), on_gpu=True)
    adapters = sum(4 * (one + other) for _, one, other in shape.matrices)
    assert on_gpu.parts["weights"] == shape.weights * 2 + adapters * 4
    assert on_gpu.parts["optimizer"] == adapters * 8
    assert estimate(config(lora={"rank": 4}), half, Batch(4, 32)).parts["weights"] == adapters * 4, (
        "a CPU maps the base"
    )
    named = estimate(config(lora={"rank": 4, "target_modules": ["q_proj"]}), half, Batch(4, 32))
    assert named.parts["gradients"] == 2 * 4 * (64 + 64) * 4
    four = estimate(config(lora={"rank": 4}, quantization="4bit"), half, Batch(4, 32), on_gpu=True)
    assert four.parts["weights"] < on_gpu.parts["weights"]


def test_each_knob_moves_it_in_its_direction(shape: ModelShape) -> None:
    def peak(batch: Batch = BATCH, **changes: Any) -> int:
        tree = config().model_dump(mode="json")
        for path, value in changes.items():
            section, _, name = path.partition("__")
            tree[section][name] = value
        return estimate(Config.model_validate(tree), shape, batch, on_gpu=True, workers=4).peak

    base = peak()
    assert peak(Batch(4, 64)) < base < peak(Batch(8, 128))
    assert peak(Batch(8, 64, parts=2)) > base, "gradients wait for the second part"
    assert peak(train__sft={"gradient_checkpointing": True}) < base
    assert peak(train__sft={"optim": "sgd"}) < peak(train__sft={"optim": "adamw_8bit"}) < base
    assert peak(train__parallelism="fsdp", loss__kl_weight=0.0) < base
    assert peak(loss__kl_weight=0.1) > base
    assert peak(model__attn_implementation="eager") > base
    assert peak(model__lora={"rank": 2}) < base
    assert peak(evaluate__batch_size=4096, evaluate__metrics=["accuracy"]) > base


def test_what_it_cannot_know_it_says(shape: ModelShape) -> None:
    assert estimate(config(), shape, Batch(1, 8)).unsure == ()
    assert estimate(config(lora={"dora": True}), shape, Batch(1, 8)).unsure == ("DoRA",)
    tree = config().model_dump(mode="json")
    tree["train"]["sft"] = {"optim": "something_new", "packing": True}
    found = estimate(Config.model_validate(tree), shape, Batch(1, 8)).unsure
    assert found == ("the optimizer something_new", "rows without padding")
