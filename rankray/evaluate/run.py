"""Held-out metrics: what is measured when, none of it depending on how the training loss is weighted.

An evaluation does not affect training: afterwards the random generators of Python, numpy and torch, and the model's
mode, are restored. The workers of a trial share the examples; all of them get the whole result.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import is_sampled
from rankray.config.schema import Config
from rankray.data.tokenize import Split
from rankray.errors import ConfigError
from rankray.evaluate.also import also_figures
from rankray.evaluate.answers import load_function
from rankray.evaluate.metrics import Figures, missing, sampled_figures, with_error
from rankray.evaluate.ranks import Ranks
from rankray.evaluate.solve import Solver
from rankray.evaluate.tokens import text_bytes, token_sums


def evaluate(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, config: Config, *, last: bool = True
) -> Figures:
    """Return the metrics that `evaluate:` asks for; `eval/nll` always.

    eval/nll                plain -ln p_t, nats per supervised token
    eval/bits_per_byte      -log2 of the probability of the supervised tokens, per byte of their text
    eval/token_accuracy     share of supervised tokens that the model ranks first
    eval/accuracy           share of examples whose greedy answer is right
    eval/pass@k             chance that one of k answers sampled at `sampling_temperature` is right
    eval/avg@k              share of right ones among k sampled answers
    eval/<set>/<metric>     of the sets in `evaluate.also`
    eval/<key>              what the functions in `evaluate.functions` return
    ..._stderr, ..._n       of each of these but your own functions': standard error, clustered by example, and number
                            of examples
    eval/answer_timeouts    answers that could not be judged in time, and count as wrong; only with `answer: math` or
                            `code`

    If the NLL is not finite, everything else is NaN, because there is nothing to sample from: your own functions are
    not called, and of what they return only the metrics that `study:` names are known, and NaN. An example whose prompt
    fills `data.max_length` counts as a wrong answer.

    Args:
        model: a causal language model, with or without LoRA, on any device.
        tokenizer: the model's.
        data: the held-out split.
        config: its `evaluate:` block is used.
        last: whether this is the last evaluation of a run; else `evaluate.rungs` says what is left out.

    Raises:
        ConfigError: an evaluation function cannot be imported or returns something other than numbers.
    """
    section = config.evaluate
    names = section.metrics if last or section.rungs.sampled else [n for n in section.metrics if not is_sampled(n)]
    greedy = None if last else section.rungs.answers
    if greedy == 0:
        names = [name for name in names if name != "accuracy"]
    with _unchanged(model):
        ranks = Ranks(model)
        sums = token_sums(model, tokenizer, data, section.batch_size, ranks)
        bytes_Q = text_bytes(tokenizer, data) if "bits_per_byte" in names else ()
        metrics = {f"eval/{name}": value for name, value in sums.figures(["nll", *names], bytes_Q).items()}
        if not math.isfinite(metrics["eval/nll"]):
            also = [name.removeprefix("eval/") for name in section.measured if name.count("/") == 2]
            metrics |= missing([name for name in names if name != "nll"] + also)
            return dict.fromkeys(_named_by_study(config), math.nan) | metrics
        solver = Solver(model, tokenizer, data, section, ranks)
        if "accuracy" in names:
            metrics |= with_error("eval/accuracy", [float(row[0]) for row in solver.right(first=greedy)])
        sampled = [name for name in names if is_sampled(name)]
        if sampled:
            samples = section.samples or max(section.k_of(name) for name in sampled)
            metrics |= sampled_figures("eval/", sampled, solver.right(samples))
        if section.answer in ("math", "code") and ("accuracy" in names or sampled):
            metrics["eval/answer_timeouts"] = float(solver.timeouts)
        metrics |= also_figures(model, tokenizer, config, ranks, last)
        for name in section.functions:
            metrics |= _call_function(name, model, tokenizer, data)
    return metrics


def _named_by_study(config: Config) -> list[str]:
    """Return the held-out metrics that trials are compared or pruned on: one that is missing would stop no trial."""
    study = config.study
    return [name for name in (study.metric, *study.metrics, study.prune_on) if name.startswith("eval/")]


def _call_function(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, data: Split) -> Figures:
    found = load_function(name, "evaluate.functions")(model, tokenizer, [dict(row) for row in data.own_rows])
    if not isinstance(found, dict) or not all(isinstance(value, int | float) for value in found.values()):
        raise ConfigError(
            f"evaluate.functions: {name} returned {found!r}; allowed is a dict of name: number; fix the function"
        )
    return {f"eval/{key}": float(value) for key, value in found.items()}


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
