"""Checkpoints as models that others load."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rankray.config import config_from
from rankray.errors import ModelError
from rankray.evaluate.run import evaluate
from rankray.model.export import export_model, is_adapter
from rankray.model.resident import split_of, tokenizer_of

LORA = {"rank": 4, "alpha": 64.0}


def nll(config, model):
    tokenizer = tokenizer_of(config)
    return evaluate(model, tokenizer, split_of("eval", config, tokenizer), config)["eval/nll"]


@pytest.fixture
def trained(train, tree):
    """Return a function that trains, and returns (configuration, checkpoint, NLL as the trial reported it)."""

    def go(**changes):
        made = tree(**changes)
        outcome, _ = train(made)
        from pathlib import Path

        return config_from(made), Path(outcome.checkpoint), outcome.metrics["eval/nll"]

    return go


def test_a_full_model_is_the_trained_one_without_its_training_state(trained, tmp_path):
    config, checkpoint, reported = trained()
    export_model(checkpoint, tmp_path / "out", config)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not names & {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "rankray.json"}
    assert nll(config, AutoModelForCausalLM.from_pretrained(tmp_path / "out")) == reported
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == tokenizer_of(config).chat_template


def test_merged_adapters_give_the_trials_own_nll(trained, tmp_path):
    """To the rounding of float32; the adapters did change the model, or this would show nothing."""
    config, checkpoint, reported = trained(model__lora=LORA, train__max_steps=8)
    untrained = nll(config, AutoModelForCausalLM.from_pretrained(config.model.path))
    assert abs(untrained - reported) > 0.01
    assert export_model(checkpoint, tmp_path / "out", config, merge=True) == "", "nothing is rounded"
    assert not is_adapter(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not isinstance(model, PeftModel)
    assert model.dtype == torch.float32
    assert nll(config, model) == pytest.approx(reported, rel=8 * torch.finfo(torch.float32).eps)
    half = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    assert export_model(checkpoint, tmp_path / "half", half, merge=True) == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_adapters_are_kept_and_loaded_onto_their_base_model(trained, tmp_path):
    config, checkpoint, reported = trained(model__lora=LORA, train__max_steps=8)
    export_model(checkpoint, tmp_path / "out", config)
    assert is_adapter(tmp_path / "out")
    assert not (tmp_path / "out" / "README.md").exists(), "peft's own card says nothing"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert nll(config, model) == pytest.approx(reported, rel=8 * torch.finfo(torch.float32).eps)


def test_what_cannot_be_merged_is_refused(trained, tmp_path):
    config, checkpoint, _ = trained()
    with pytest.raises(ModelError, match="--merge: this model has no adapters"):
        export_model(checkpoint, tmp_path / "out", config, merge=True)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="has no weights; allowed: a complete checkpoint"):
        export_model(checkpoint, tmp_path / "out", config)


def test_adapters_on_a_head_that_is_also_the_embedding_are_not_merged(tmp_path):
    """Merging them would change the embedding too: the logits tell."""
    from fixtures.training import build_model
    from peft import LoraConfig, get_peft_model

    base = build_model(tmp_path / "base", tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=64, target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    config = config_from(
        {"name": "t", "model": {"path": str(base), "lora": LORA}, "data": {"train": "a.jsonl", "eval": "a.jsonl"}}
    )
    with pytest.raises(ModelError, match="logits differ"):
        export_model(tmp_path / "adapter", tmp_path / "out", config, merge=True)


def test_a_base_model_that_is_gone_is_named(trained, tmp_path):
    config, checkpoint, _ = trained(model__lora=LORA)
    elsewhere = config.model_copy(update={"model": config.model.model_copy(update={"path": str(tmp_path / "gone")})})
    with pytest.raises(ModelError, match=r"the base model .*gone' cannot be loaded"):
        export_model(checkpoint, tmp_path / "out", elsewhere, merge=True)


def test_adapters_are_merged_into_the_commit_that_they_were_trained_on(trained, tmp_path, monkeypatch):
    """A model of the hub may have moved on since: its main branch would give other weights, and nothing would tell."""
    config, checkpoint, _ = trained(model__lora=LORA)
    asked = []
    for loader in (AutoConfig, AutoModelForCausalLM):
        monkeypatch.setattr(loader, "from_pretrained", _noting(loader.from_pretrained, asked))
    pinned = config.model_copy(update={"model": config.model.model_copy(update={"revision": "c" * 40})})
    export_model(checkpoint, tmp_path / "out", pinned, merge=True)
    assert asked[:2] == ["c" * 40] * 2


def _noting(real, asked):
    def load(*given, **options):
        asked.append(options.pop("revision", None))
        return real(*given, **options)

    return load
