"""How each metric is computed: token sums without logits, solved answers, pass@k."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.schema import Config
from rankray.data.tokenize import Split
from rankray.evaluate.answers import extract
from rankray.evaluate.generate import generate_texts
from rankray.loss import LossStats
from rankray.loss.tokens import IGNORED
from rankray.model.head import attach_head, plain_model, plain_totals

SAMPLING_SEED = 20_260_201
"""Seed of every pass@k evaluation: the same at each step of each trial, so that trials are comparable."""


def token_totals(model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, batch_size: int) -> LossStats:
    """Return the plain sums over all supervised tokens; longest examples first, without computing the logits."""
    attach_head(plain_model(model))
    examples = sorted((e for e in data.tokens if e.supervised), key=lambda e: -len(e.input_ids))
    total: LossStats | None = None
    for begin in range(0, len(examples), batch_size):
        batch = examples[begin : begin + batch_size]
        width = len(batch[0].input_ids)
        ids_BT = torch.full((len(batch), width), int(tokenizer.pad_token_id or 0))
        labels_BT, mask_BT = torch.full_like(ids_BT, IGNORED), torch.zeros_like(ids_BT)
        for row, example in enumerate(batch):
            length = len(example.input_ids)
            ids_BT[row, :length] = torch.tensor(example.input_ids)
            labels_BT[row, :length] = torch.tensor(example.labels)
            mask_BT[row, :length] = 1
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
        with torch.no_grad():
            stats = model(**{name: tensor.to(model.device) for name, tensor in inputs.items()}, head=plain_totals)
        total = stats if total is None else total + stats
    assert total is not None, "load_split leaves at least one supervised example"
    return total


def solved(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config, logit_temperature: float | None
) -> list[bool]:
    """Return for each row whether the model's answer is right: greedy, or sampled at a logit temperature."""
    asked = [index for index, example in enumerate(data.tokens) if example.supervised]
    texts = generate_texts(
        model,
        tokenizer,
        [data.tokens[index].input_ids[: data.tokens[index].start] for index in asked],
        batch_size=config.evaluate.batch_size,
        max_new_tokens=config.evaluate.max_new_tokens,
        logit_temperature=logit_temperature,
    )
    is_solved = [False] * len(data.rows)
    for index, text in zip(asked, texts, strict=True):
        wanted = extract(data.rows[index]["completion"], config.evaluate.answer)
        is_solved[index] = wanted is not None and extract(text, config.evaluate.answer) == wanted
    return is_solved


def pass_at_k(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config, samples: dict[str, int]
) -> dict[str, float]:
    """Return `eval/pass@k`, the share of rows solved by at least one of k samples, for each name and k in `samples`."""
    torch.manual_seed(SAMPLING_SEED)
    is_solved = [False] * len(data.rows)
    metrics: dict[str, float] = {}
    for drawn in range(1, max(samples.values()) + 1):
        again = solved(model, tokenizer, data, config, config.evaluate.sampling_temperature)
        is_solved = [one or other for one, other in zip(is_solved, again, strict=True)]
        metrics |= {f"eval/{name}": share(is_solved) for name, k in samples.items() if k == drawn}
    return metrics


def share(is_solved: list[bool]) -> float:
    """Return the share of rows that are solved."""
    return sum(is_solved) / len(is_solved)
