"""Weights from the data in training: equal to a sum in float64 that shares no code, whatever the batches look like."""

import json
from pathlib import Path

import pytest
import torch
from fixtures.training import ROWS
from transformers import AutoModelForCausalLM, AutoTokenizer

from rankray.loss import reference

ONE_STEP = {
    "train__max_steps": 1,
    "train__batch_size": 18,
    "evaluate__every_steps": 1,
    "train__learning_rate": 1e-12,
    "data__max_length": 600,
}
"""One step on all examples of weight above 0 at once: the model in training is still the one that was loaded."""


@pytest.fixture
def weighted_tree(tree, model_dir, tmp_path):
    """A configuration on sums with weights of examples and of tokens."""

    def make(loss=None, sft=None, **changes):
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        rows = []
        for index, row in enumerate(ROWS):
            count = len(tokenizer(row["answer"])["input_ids"])
            rows.append({**row, "w": [0.25, 1.0, 3.0, 0.0][index % 4], "t": [0.5 + index / 10] * count})
        file = tmp_path / "weighted.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = tree(**{**ONE_STEP, **changes}, data__train=str(file))
        made["data"] |= {"weight_column": "w", "token_weights": "t"}
        made["loss"], made["train"]["sft"] = loss or {}, sft or {}
        return made

    return make


def wanted(made, prompt_weight=0.0, objective="rri", **knobs):
    """The loss by hand, in float64: one example at a time, the weights as the file has them."""
    path = made["model"]["path"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).double().eval(), AutoTokenizer.from_pretrained(path)
    total, count = 0.0, 0
    for row in map(json.loads, Path(made["data"]["train"]).read_text().splitlines()):
        start = len(tokenizer(row["question"] + "\n")["input_ids"])
        ids = [*tokenizer(f"{row['question']}\n{row['answer']}")["input_ids"], tokenizer.eos_token_id]
        given = [prompt_weight] * start + [*row["t"], 1.0]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        for position in range(1, len(ids)):
            weight = given[position] * row["w"]
            if weight == 0.0:
                continue
            own = reference.token_stats(logits[position - 1 : position], torch.tensor(ids[position : position + 1]))
            total += weight * float(reference.token_weights(own, objective, **knobs)) * -float(own.log_prob_N)
            count += 1
    return total / count


def test_the_loss_is_the_sum_by_hand(weighted_tree, train):
    made = weighted_tree()
    outcome, _ = train(made)
    assert outcome.metrics["train/loss"] == pytest.approx(wanted(made), rel=1e-5)
    plain = made | {"data": {k: v for k, v in made["data"].items() if k not in ("weight_column", "token_weights")}}
    other = train(plain, directory="plain")[0].metrics
    assert outcome.metrics["eval/nll"] == pytest.approx(other["eval/nll"], rel=1e-9), "evaluation is not weighted"


def test_with_the_prompt(weighted_tree, train):
    made = weighted_tree({"objective": "dft"}, data__prompt_weight=0.3)
    found = train(made)[0].metrics
    assert found["train/loss"] == pytest.approx(wanted(made, 0.3, "dft"), rel=1e-5)


@pytest.mark.parametrize(
    ("sft", "micro"),
    [({"packing": True}, 18), ({"padding_free": True}, 6), ({}, 3)],
    ids=["packing", "padding_free", "accumulation"],
)
def test_however_the_batch_is_made(weighted_tree, train, sft, micro):
    made = weighted_tree({"objective": "dft"}, sft, data__prompt_weight=0.3, train__micro_batch_size=micro)
    if "packing" in sft:
        made["train"] |= {"batch_size": 1, "micro_batch_size": 1}
    found = train(made)[0].metrics
    assert found["train/loss"] == pytest.approx(wanted(made, 0.3, "dft"), rel=1e-4)


def test_beside_the_base_models_statistics(weighted_tree, train):
    made = weighted_tree({"objective": "dft", "signal": "base"}, data__prompt_weight=0.3)
    assert train(made)[0].metrics["train/loss"] == pytest.approx(wanted(made, 0.3, "dft"), rel=1e-4)


def test_talr_over_several_parts_of_a_batch(weighted_tree, train):
    whole = train(weighted_tree({"objective": "talr"}))[0].metrics
    parts = train(weighted_tree({"objective": "talr"}, train__micro_batch_size=6), directory="parts")[0].metrics
    assert parts["train/loss"] == pytest.approx(whole["train/loss"], rel=1e-5)
