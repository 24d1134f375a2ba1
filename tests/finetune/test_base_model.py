"""What `check` says about the base model: memory, one-time cost, and what cannot have a reference."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from rankray.cli.app import app
from rankray.config import Config, load_config
from rankray.errors import ConfigError
from rankray.finetune.base_model import base_model_lines, check_base_model


def lines_of(tree):
    return base_model_lines(Config.model_validate(tree))


def test_plain_training_has_nothing_to_say(tree):
    assert lines_of(tree()) == []


def test_a_frozen_copy_has_a_size(tree, model_dir):
    made = tree(loss__kl_weight=0.1)
    size = (model_dir / "model.safetensors").stat().st_size
    assert lines_of(made) == [f"loss.kl_weight: each worker holds a frozen copy of the base model, {size / 1e6:.2g} MB"]
    made["model"]["lora"] = {}
    assert lines_of(made) == ["loss.kl_weight: the reference is the model with its adapters off, which takes no memory"]


def test_what_a_space_may_choose_counts(tree):
    made = tree() | {
        "space": {"loss.kl_weight": {"float": [0.0, 1.0]}, "loss.objective": {"choice": ["sft", "iw_sft"]}}
    }
    kl, base = lines_of(made)
    assert kl.startswith("loss.kl_weight: each worker")
    assert "once for all trials on a node; 24 examples forward, about 0.25 of one trial's 32 forward" in base
    assert lines_of(tree(loss__signal="base", loss__objective="sft")) == []


def test_master_weights_are_named(tree, model_dir, tmp_path):
    import shutil

    shutil.copytree(model_dir, tmp_path / "half")
    file = tmp_path / "half" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dtype": "bfloat16"}))
    made = tree(model__path=str(tmp_path / "half"))
    assert lines_of(made)[0].startswith("weights are trained in float32 and computed with in 16 bits")
    assert lines_of(tree(model__path=str(tmp_path / "half"), model__dtype="bfloat16")) == []
    assert lines_of(tree(model__path="org/name", loss__kl_weight=1.0)) == [
        "loss.kl_weight: each worker holds a frozen copy of the base model"
    ]


def test_a_reference_beside_shards_is_refused(tree, tmp_path):
    made = tree(loss__kl_weight=0.1, train__parallelism="fsdp")
    made["resources"] = {"workers": 2, "gpus_per_worker": 1}
    file = tmp_path / "sharded.yaml"
    file.write_text(yaml.safe_dump(made))
    with pytest.raises(ConfigError, match=r"sharded.yaml:\d+: loss.kl_weight with train.parallelism fsdp.*: ddp"):
        check_base_model(load_config(file))
    made["resources"]["workers"] = 1
    file.write_text(yaml.safe_dump(made))
    check_base_model(load_config(file))


def test_check_prints_it(tree, tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(tree(loss__signal="base")))
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code == 0, done.output
    assert "base model's statistics: 32 bytes a supervised token" in " ".join(done.output.split())
