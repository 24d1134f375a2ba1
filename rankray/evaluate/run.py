"""Held-out metrics: plain NLL, token accuracy, greedy accuracy, pass@k and the user's own functions.

None of them depends on how the training loss is weighted. An evaluation does not affect training: afterwards the random
generators of Python, numpy and torch, and the model's mode, are restored.
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
from rankray.data.tokenize import Split
from rankray.errors import ConfigError, nearest
from rankray.evaluate.metrics import pass_at_k, share, solved, token_totals


def evaluate(model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config) -> dict[str, float]:
    """Return the metrics that `evaluate:` asks for; `eval/nll` always.

    eval/nll              plain -ln p_t, nats per supervised token
    eval/token_accuracy   share of supervised tokens that the model ranks first
    eval/accuracy         share of rows whose greedy answer is right, by exact match of the extracted answer
    eval/pass@k           share of rows solved by at least one of k answers sampled at `sampling_temperature`
    eval/<key>            what the functions in `evaluate.functions` return

    If the NLL is not finite, everything else is NaN, because there is nothing to sample from. A row whose prompt fills
    `data.max_length` counts as a wrong answer.

    Args:
        model: a causal language model, with or without LoRA, on any device.
        tokenizer: the model's.
        data: the held-out split.
        config: its `evaluate:` block is used.

    Raises:
        ConfigError: an evaluation function cannot be imported or returns something other than numbers.
    """
    names = config.evaluate.metrics
    with _unchanged(model):
        stats = token_totals(model, tokenizer, data, config.evaluate.batch_size)
        metrics = {"eval/nll": stats.nll}
        if "token_accuracy" in names:
            metrics["eval/token_accuracy"] = stats.token_accuracy
        samples = {name: int(name.removeprefix("pass@")) for name in names if name.startswith("pass@")}
        if not math.isfinite(stats.nll):
            return metrics | {f"eval/{name}": math.nan for name in names if name != "nll"}
        if "accuracy" in names:
            metrics["eval/accuracy"] = share(solved(model, tokenizer, data, config, None))
        if samples:
            metrics |= pass_at_k(model, tokenizer, data, config, samples)
        for name in config.evaluate.functions:
            metrics |= _call_function(name, model, tokenizer, data)
    return metrics


def _call_function(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, data: Split) -> dict[str, float]:
    found = load_function(name)(model, tokenizer, [dict(row) for row in data.rows])
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise ConfigError(
            f"evaluate.functions: {name} returned {found!r}; allowed is a dict of name: number; fix the function"
        )
    return {f"eval/{key}": float(value) for key, value in found.items()}


def load_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Raises:
        ConfigError: there is no such module or function, or the module cannot be imported.
    """
    module_name, _, function = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(
            f"evaluate.functions: {name}: module {module_name!r} cannot be imported ({type(error).__name__}: {error}); "
            "allowed is a module on the Python path; check PYTHONPATH"
        ) from error
    found: Callable[..., Any] | None = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(
            f"evaluate.functions: {name}: {module_name} has no function {function!r}{nearest(function, dir(module))}; "
            "allowed is one of its functions; fix the name"
        )
    return found


@contextmanager
def _unchanged(model: Any) -> Iterator[None]:
    """Run in eval mode, then restore the mode and the random generators."""
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
