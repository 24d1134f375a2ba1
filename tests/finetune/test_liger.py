"""Liger's kernels for layers; the library itself needs a GPU and is not needed here."""

import pytest
import transformers.trainer
import yaml
from fixtures.training import Recorder

from rankray.config import config_from, load_config
from rankray.errors import ConfigError
from rankray.finetune.arguments import sft_arguments
from rankray.finetune.liger import check_kernels, layer_kernels
from rankray.finetune.preflight import preflight
from rankray.finetune.sft_fields import check_sft_fields


def of_llama(rope=True, cross_entropy=False, fused_linear_cross_entropy=True, rms_norm=True, swiglu=True, model=None):
    """The arguments of `apply_liger_kernel_to_llama` of liger-kernel 0.8."""


TABLE = {"llama": of_llama, "qwen2": of_llama}


def test_the_losses_stay_off():
    off = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    assert layer_kernels(None) == off
    assert layer_kernels({"rope": False, "cross_entropy": True}) == off | {"rope": False}


def test_kernels_that_the_architecture_has():
    check_kernels(TABLE, "llama", {"rope": False, "fused_linear_cross_entropy": False})
    with pytest.raises(
        ConfigError, match=r"use_liger_kernel: got true, and Liger has no kernels for opt; allowed are llama"
    ):
        check_kernels(TABLE, "opt", {})
    with pytest.raises(
        ConfigError, match=r"liger_kernel_config: got 'rms', .*allowed: rope, rms_norm, swiglu; correct"
    ):
        check_kernels(TABLE, "llama", {"rms": False})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"use_liger_kernel": True, "liger_kernel_config": {"cross_entropy": True}},
            "cross_entropy: got true, and the",
        ),
        ({"use_liger_kernel": True, "liger_kernel_config": "rope"}, "got 'rope'; allowed is a mapping of kernels"),
        ({"liger_kernel_config": {"rope": False}}, "has no effect without train.sft.use_liger_kernel"),
    ],
)
def test_settings_that_are_refused(fields, said):
    with pytest.raises(ConfigError, match=rf"^train.sft.liger_kernel_config: {said}"):
        check_sft_fields(fields)


def test_it_cannot_be_searched(tree, tmp_path):
    """A process that had the kernels once has them in the next trial as well."""
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(tree() | {"space": {"train.sft.use_liger_kernel": {"choice": [True, False]}}}))
    with pytest.raises(ConfigError, match=r"search.yaml:\d+: space.train.sft.use_liger_kernel: cannot be searched"):
        preflight(load_config(file))


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["all weights", "adapters"])
def test_transformers_applies_them_to_the_layers_alone(tree, train, monkeypatch, lora):
    """What the model gets when training starts; the loss then works as before."""
    given = tree(model__lora=lora, train__sft={"use_liger_kernel": True, "liger_kernel_config": {"rope": False}})
    applied = []
    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", lambda model, kernels: applied.append(kernels))
    outcome, _ = train(given, Recorder(), directory="with")
    assert applied == [{"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False}]
    given["train"]["sft"] = {}
    assert train(given, Recorder(), directory="without")[0].metrics == outcome.metrics
    assert sft_arguments(config_from(given), 0, "unused", cpu=True).liger_kernel_config is None
