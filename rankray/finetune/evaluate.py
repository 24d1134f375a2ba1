"""Held-out metrics: plain NLL, token accuracy, greedy accuracy, pass@k and functions of the user's own.

None of them depends on how the training loss is weighted. An evaluation leaves no trace in training: the random
generators of Python, numpy and torch, and the model's mode, are afterwards what they were before.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.schema import Config
from rankray.errors import ConfigError, nearest
from rankray.finetune.answers import extract
from rankray.finetune.data import Split
from rankray.finetune.generate import generate_texts
from rankray.finetune.head import IGNORED, attach_head, plain_totals
from rankray.finetune.trainer import plain_model
from rankray.loss import LossStats

SAMPLING_SEED = 20_260_201
"""Seed of every pass@k evaluation, the same at each step of each trial, so that trials are compared on equal terms."""


def evaluate(model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config) -> dict[str, float]:
    """Return the metrics that `evaluate:` asks for; `eval/nll` always.

    eval/nll              plain -ln p_t, nats per supervised token
    eval/token_accuracy   share of supervised tokens that are the model's likeliest
    eval/accuracy         share of rows whose greedy answer is the right one, by exact match of the extracted answer
    eval/pass@k           share of rows that one of k answers, sampled at `sampling_temperature`, gets right
    eval/<key>            what the functions in `evaluate.functions` return

    A model whose NLL is not finite gives NaN for everything else: there is nothing to sample from. A row whose prompt
    fills `data.max_length` counts as answered wrongly.

    Args:
        model: a causal language model, LoRA or not, on any device.
        tokenizer: the model's.
        data: the held-out split.
        config: whose `evaluate:` block is read.

    Raises:
        ConfigError: an evaluation function cannot be imported or returns something else than numbers.
    """
    names = config.evaluate.metrics
    with _no_trace(model):
        stats = token_totals(model, tokenizer, data, config.evaluate.batch_size)
        metrics = {"eval/nll": stats.nll}
        if "token_accuracy" in names:
            metrics["eval/token_accuracy"] = stats.token_accuracy
        samples = {name: int(name.removeprefix("pass@")) for name in names if name.startswith("pass@")}
        if not math.isfinite(stats.nll):
            return metrics | {f"eval/{name}": math.nan for name in names if name != "nll"}
        if "accuracy" in names:
            metrics["eval/accuracy"] = _share(_solved(model, tokenizer, data, config, None))
        if samples:
            metrics |= _pass_at_k(model, tokenizer, data, config, samples)
        for name in config.evaluate.functions:
            metrics |= _call(name, model, tokenizer, data)
    return metrics


def token_totals(model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, batch_size: int) -> LossStats:
    """Return the plain sums over all supervised tokens, longest examples first, logits never held."""
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


def _solved(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config, logit_temperature: float | None
) -> list[bool]:
    asked = [index for index, example in enumerate(data.tokens) if example.supervised]
    texts = generate_texts(
        model,
        tokenizer,
        [data.tokens[index].input_ids[: data.tokens[index].start] for index in asked],
        batch_size=config.evaluate.batch_size,
        max_new_tokens=config.evaluate.max_new_tokens,
        logit_temperature=logit_temperature,
    )
    solved = [False] * len(data.rows)
    for index, text in zip(asked, texts, strict=True):
        wanted = extract(data.rows[index]["completion"], config.evaluate.answer)
        solved[index] = wanted is not None and extract(text, config.evaluate.answer) == wanted
    return solved


def _pass_at_k(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config, samples: dict[str, int]
) -> dict[str, float]:
    torch.manual_seed(SAMPLING_SEED)
    solved = [False] * len(data.rows)
    metrics: dict[str, float] = {}
    for drawn in range(1, max(samples.values()) + 1):
        again = _solved(model, tokenizer, data, config, config.evaluate.sampling_temperature)
        solved = [one or other for one, other in zip(solved, again, strict=True)]
        metrics |= {f"eval/{name}": _share(solved) for name, k in samples.items() if k == drawn}
    return metrics


def _share(solved: list[bool]) -> float:
    return sum(solved) / len(solved)


def _call(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, data: Split) -> dict[str, float]:
    found = load_function(name)(model, tokenizer, [dict(row) for row in data.rows])
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise ConfigError(
            f"evaluate.functions: {name} returned {found!r}; allowed is a dict of name: number; mend the function"
        )
    return {f"eval/{key}": float(value) for key, value in found.items()}


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Raises:
        ConfigError: there is no such module or function, or importing the module fails.
    """
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"evaluate.functions: {name}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "allowed is a module on the Python path; check PYTHONPATH"
        ) from error
    if not callable(getattr(module, function, None)):
        raise ConfigError(
            f"evaluate.functions: {name}: {module_name} has no function {function!r}{nearest(function, dir(module))}; "
            "allowed is one of its functions; mend the name"
        )
    return getattr(module, function)


@contextmanager
def _no_trace(model: Any) -> Iterator[None]:
    """Run in eval mode, then put mode and random generators back as they were."""
    training = {module for module in model.modules() if module.training}
    python, numbers = random.getstate(), np.random.get_state()
    devices = [model.device.index or 0] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
            random.setstate(python)
            np.random.set_state(numbers)
