"""A directory that is evaluated has its own tokenizer, chat template and context, whatever the file's model has."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankray.config import Config
from rankray.errors import ConfigError
from rankray.evaluate.target import evaluate_target, with_own_tokenizer
from tests.fixtures.training import CHAT_TEMPLATE, build_model

LORA = {"rank": 2, "alpha": 4, "target_modules": ["q_proj"]}


@pytest.fixture
def config(tree):
    return Config.model_validate(tree())


@pytest.fixture
def renumbered(model_dir, tmp_path):
    """The same model, with other numbers for its tokens."""
    place = tmp_path / "renumbered"
    shutil.copytree(model_dir, place)
    number = torch.cat([torch.arange(3), 3 + torch.randperm(277, generator=torch.Generator().manual_seed(0))])
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    with torch.no_grad():
        for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
            weight[number] = weight.clone()
    model.save_pretrained(place)
    rules = json.loads((place / "tokenizer.json").read_text())
    rules["model"]["vocab"] = {token: int(number[old]) for token, old in rules["model"]["vocab"].items()}
    (place / "tokenizer.json").write_text(json.dumps(rules))
    return place


def nll(config, checkpoint):
    return evaluate_target(*with_own_tokenizer(config, checkpoint))["eval/nll"]["value"]


def test_a_whole_model_is_evaluated_with_its_own_tokenizer(config, renumbered):
    text = "3 plus 2 is?"
    ids = [AutoTokenizer.from_pretrained(place)(text)["input_ids"] for place in (config.model.path, renumbered)]
    assert ids[0] != ids[1]
    assert nll(config, renumbered) == pytest.approx(nll(config, None), rel=1e-5)
    for file in renumbered.glob("tokenizer*"):
        file.unlink()
    assert with_own_tokenizer(config, renumbered) == (config, renumbered), "it has none: the file's"


def test_a_whole_model_has_its_own_context(config, tmp_path):
    short = build_model(tmp_path / "short", max_position_embeddings=16)
    found = evaluate_target(*with_own_tokenizer(config, short))
    own = config.model_copy(update={"model": config.model.model_copy(update={"path": str(short)})})
    assert found == evaluate_target(own, None)


def test_what_was_trained_from_the_files_model_stays_a_checkpoint(tree, config, train):
    checkpoint = Path(train(tree())[0].checkpoint)
    assert with_own_tokenizer(config, checkpoint) == (config, checkpoint)
    assert with_own_tokenizer(config, None) == (config, None)


def test_adapters_need_the_tokenizer_they_were_trained_with(tree, train, renumbered):
    asked = tree(model__lora=LORA)
    config, checkpoint = Config.model_validate(asked), Path(train(asked)[0].checkpoint)
    assert with_own_tokenizer(config, checkpoint) == (config, checkpoint)
    asked["model"]["path"] = str(renumbered)
    with pytest.raises(ConfigError, match=r"have another tokenizer than .*; set model.path to it"):
        with_own_tokenizer(Config.model_validate(asked), checkpoint)
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    assert with_own_tokenizer(Config.model_validate(asked), checkpoint)[1] == checkpoint


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_checkpoint_has_the_chat_template_it_was_trained_with(tree, train, lora):
    asked = tree(model__lora=lora, data__chat_template="plain")
    checkpoint = Path(train(asked)[0].checkpoint)
    config, _ = with_own_tokenizer(Config.model_validate(tree(model__lora=lora)), checkpoint)
    assert config.data.chat_template not in (None, "plain", CHAT_TEMPLATE)
    assert "'\\n\\n' if messages" in config.data.chat_template
    named = Config.model_validate(tree(model__lora=lora, data__chat_template=CHAT_TEMPLATE))
    assert with_own_tokenizer(named, checkpoint)[0] == named, "the file's, where it names one"
