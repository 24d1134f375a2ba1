"""How good a model is on held-out examples: plain NLL, answers with error bars, choices. Never a weighted loss.

    same_answer(text, reference, how)     whether a text gives the reference's answer; needs no torch
    evaluate(model, tokenizer, ...)       the metrics that `evaluate:` asks for

run          what is measured when, and the whole of it
metrics      token sums without logits, bits per byte
answers      when two answers are the same; plain, latex, math_pool
generate     greedy and sampled answers in batches, with a key-value cache
diagnose     which tokens an objective trusts, and how much noise is among them

Names load on first use: importing `rankray.evaluate` or `rankray.evaluate.answers` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.evaluate.answers import same_answer
    from rankray.evaluate.run import evaluate

__all__ = ["evaluate", "same_answer"]

_HOME = {"evaluate": "run", "same_answer": "answers"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rankray.evaluate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rankray.evaluate.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
