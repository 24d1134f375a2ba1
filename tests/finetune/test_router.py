"""Whole: the router loss of mixtures of experts, against TRL's own number for the same batch."""

from __future__ import annotations

import pytest
import torch
from fixtures.training import build_model
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)
from trl import SFTTrainer

from rankray.config import Config
from rankray.data.tokenize import load_split
from rankray.finetune.arguments import sft_arguments
from rankray.finetune.trainer import RankrayTrainer
from rankray.model.resident import fresh_model, tokenizer_of

SIZES = {
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.5,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}
FAMILIES = {
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4)),
    "qwen3-moe": lambda: Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, num_experts=4, moe_intermediate_size=24)),
    "gpt-oss": lambda: GptOssForCausalLM(
        GptOssConfig(**SIZES, num_local_experts=4, sliding_window=8, layer_types=["full_attention"] * 2)
    ),
}


@pytest.fixture(params=FAMILIES)
def experts_dir(request, tmp_path):
    directory = build_model(tmp_path / "model")
    torch.manual_seed(0)
    FAMILIES[request.param]().save_pretrained(directory)
    return directory


def losses_and_gradients(made, tmp_path):
    """The loss and gradients of one batch in two micro batches, ours and TRL's."""
    config = Config.model_validate(made)
    tokenizer = tokenizer_of(config)
    dataset = load_split("train", config.data, tokenizer, config.data.max_length).dataset
    for trainer_class, own in (
        (RankrayTrainer, {"loss": config.loss, "on_step": lambda trainer, step: ""}),
        (SFTTrainer, {}),
    ):
        trainer = trainer_class(
            model=fresh_model(config, None),
            args=sft_arguments(config, 0, str(tmp_path / "out")),
            train_dataset=dataset,
            processing_class=tokenizer,
            **own,
        )
        trainer.model.train()
        batches = iter(trainer.get_train_dataloader())
        parts = [trainer._prepare_inputs(next(batches)) for _ in range(2)]
        trainer.current_gradient_accumulation_steps = 2
        items = sum((part["labels"][:, 1:] != -100).sum() for part in parts)
        loss = sum(trainer.compute_loss(trainer.model, dict(part), num_items_in_batch=items) for part in parts)
        loss.backward()
        yield loss.item(), {name: weight.grad for name, weight in trainer.model.named_parameters()}


def test_the_router_loss_is_trls(tree, experts_dir, tmp_path):
    made = tree(model__path=str(experts_dir), train__batch_size=8, train__micro_batch_size=4, train__max_steps=1)
    made["loss"] = {"objective": "sft"}
    (ours, our_gradients), (theirs, their_gradients) = losses_and_gradients(made, tmp_path)
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, gradient in their_gradients.items():
        torch.testing.assert_close(our_gradients[name], gradient, rtol=1e-4, atol=1e-6)
    made["train"]["sft"] = {"router_aux_loss_coef": 0.0}
    (without, _), (trls, _) = losses_and_gradients(made, tmp_path)
    assert without == pytest.approx(trls, rel=1e-5)
    assert ours > without + 0.3


def test_evaluation_is_the_plain_nll(tree, train, tmp_path):
    directory = build_model(tmp_path / "model")
    torch.manual_seed(0)
    FAMILIES["mixtral"]().save_pretrained(directory)
    settings = {"train__learning_rate": 1e-12, "train__max_steps": 1, "evaluate__every_steps": 1}
    made = tree(model__path=str(directory), **settings)
    found = train(made, directory="a")[0].metrics
    made["train"]["sft"] = {"router_aux_loss_coef": 0.0}
    other = train(made, directory="b")[0].metrics
    assert found["eval/nll"] == pytest.approx(other["eval/nll"], rel=1e-6)
    assert found["train/nll"] == pytest.approx(other["train/nll"], rel=1e-6)
