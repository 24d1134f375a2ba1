"""Quantized base models: what is refused, what transformers is asked for, and, where bitsandbytes is, real training.

This machine's bitsandbytes also computes on CPUs, where rankray refuses it; the last tests take that refusal away.
"""

import json

import pytest
import torch
from fixtures.training import Recorder, build_model
from transformers import AutoModelForCausalLM

from rankray.config import config_from
from rankray.errors import ConfigError, ModelError
from rankray.model import extras, quantized, resident
from rankray.model.quantized import adapters_in_float32, check_saved_form, quantization_config, weight_bytes
from rankray.model.resident import fresh_model, model_stamp
from rankray.model.trained import load_model

HAS_LIBRARY = extras.find_spec("bitsandbytes") is not None


@pytest.fixture
def quantize(tree):
    def make(quantization="4bit", **changes):
        return config_from(tree(model__lora={"rank": 2}, model__quantization=quantization, **changes))

    return make


@pytest.fixture
def anywhere(monkeypatch):
    """Quantized models load on this machine, as far as bitsandbytes can."""
    monkeypatch.setattr(quantized, "check_quantization", lambda config: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")
    yield
    resident.forget()


def test_only_below_adapters(tree):
    with pytest.raises(ConfigError, match=r"model: quantization: got 4bit where all weights are trained, .*model.lora"):
        config_from(tree(model__quantization="4bit"))
    with pytest.raises(ConfigError, match=r"model.quantization: .*'4bit'.*'8bit'"):
        config_from(tree(model__quantization="3bit", model__lora={}))
    assert config_from(tree()).model.quantization is None


def test_what_transformers_is_asked_for():
    four = quantization_config("4bit", torch.bfloat16)
    assert (four.load_in_4bit, four.load_in_8bit) == (True, False)
    assert (four.bnb_4bit_quant_type, four.bnb_4bit_use_double_quant) == ("nf4", True)
    assert four.bnb_4bit_compute_dtype == torch.bfloat16
    eight = quantization_config("8bit", torch.bfloat16)
    assert (eight.load_in_4bit, eight.load_in_8bit) == (False, True)


@pytest.mark.parametrize("quantization", ["4bit", "8bit", None])
def test_how_the_model_is_loaded(quantize, monkeypatch, anywhere, quantization):
    """Every trial loads it anew, on its own device, without sharing or casting weights afterwards."""
    calls = []
    real = AutoModelForCausalLM.from_pretrained

    def recorded(path, **given):
        calls.append(given)
        return real(path, **{name: value for name, value in given.items() if name != "quantization_config"})

    monkeypatch.setattr(resident.AutoModelForCausalLM, "from_pretrained", recorded)
    resident.forget()
    config = quantize(quantization, model__dtype="bfloat16")
    models = [fresh_model(config) for _ in range(2)]
    if quantization is None:
        [given] = calls
        assert "quantization_config" not in given
        assert "device_map" not in given
        return
    assert len(calls) == 2
    for given in calls:
        assert given["quantization_config"].to_dict() == quantization_config(quantization, torch.bfloat16).to_dict()
        assert given["device_map"] == {"": "cpu"}
        assert given["dtype"] == torch.bfloat16
    first, second = (next(model.parameters()) for model in models)
    assert first.data_ptr() != second.data_ptr()


def test_the_base_models_statistics_are_of_the_quantized_one(quantize):
    stamps = [json.dumps(model_stamp(quantize(each))) for each in (None, "4bit", "8bit")]
    assert len(set(stamps)) == 3


def test_refused_without_the_library_or_a_device(quantize, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda module: None)
    with pytest.raises(
        ConfigError, match=r"model.quantization: bitsandbytes is not installed; .*rankray\[quantization\]"
    ):
        fresh_model(quantize())
    monkeypatch.setattr(quantized, "require", lambda extra: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for load in (fresh_model, lambda config: load_model(config, None)):
        with pytest.raises(ConfigError, match=r"model.quantization: 4bit without a CUDA device; .*gpus_per_worker"):
            load(quantize())


@pytest.mark.parametrize(
    ("saved", "given", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, None, "saved in 4bit .* model.quantization is null"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "4bit", "saved in 8bit .* model.quantization is 4bit"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4bit", ""),
        ({"quant_method": "mxfp4"}, None, ""),
        (None, "8bit", ""),
    ],
)
def test_weights_that_were_saved_quantized(saved, given, said):
    class Saved:
        quantization_config = saved

    if said:
        with pytest.raises(ModelError, match=rf"model.path: the weights were {said}"):
            check_saved_form(Saved(), given)
    else:
        check_saved_form(Saved(), given)


def test_bytes_of_the_weights(model_dir):
    """2 layers of 4 attention matrices (32, 32) and 3 of (32, 48) are quantized; embedding, head and norms are not."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(resident.AutoConfig.from_pretrained(str(model_dir)))
    inside, outside = 2 * (4 * 32 * 32 + 3 * 32 * 48), 2 * 280 * 32 + 5 * 32
    assert weight_bytes(model, None, torch.bfloat16) == 2 * (inside + outside)
    assert weight_bytes(model, "8bit", torch.bfloat16) == inside + 2 * outside
    assert weight_bytes(model, "4bit", torch.float32) == round(inside * (0.5 + 1 / 64 + 1 / 4096)) + 4 * outside


def test_adapters_are_trained_in_float32():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)).to(torch.bfloat16)
    model[0].requires_grad_(False)
    before = model[1].weight.detach().clone()
    adapters_in_float32(model)
    assert [layer.weight.dtype for layer in model] == [torch.bfloat16, torch.float32]
    assert torch.equal(model[1].weight.detach(), before.float())


@pytest.mark.skipif(not HAS_LIBRARY, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("quantization", "lora"), [("4bit", {"dora": True}), ("8bit", {})])
def test_training_on_a_quantized_model(tree, train, anywhere, tmp_path, quantization, lora):
    """The untrained model predicts nearly what the whole one does, and adapters on it learn."""
    place = str(build_model(tmp_path / "wide", hidden_size=64, intermediate_size=64))  # what CPUs pack is 64 wide
    given = tree(model__path=place, model__lora={"rank": 4, **lora}, model__dtype="bfloat16", train__learning_rate=1e-2)
    recorders = []
    for form in (None, quantization):
        given["model"]["quantization"] = form
        _, recorder = train(given, Recorder(), directory=str(form), untrained=True)
        recorders.append(recorder.by_step)
    whole, small = ([reports[step]["eval/nll"] for step in (0, 4)] for reports in recorders)
    assert small[0] != whole[0]
    assert small[0] == pytest.approx(whole[0], abs=0.03)
    assert small[1] < small[0] - 0.2
