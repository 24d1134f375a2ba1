"""How metrics are computed: batches for a head function, and figures of solved answers with their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import EvaluateSection
from rankray.data.encode import Tokens
from rankray.loss.tokens import IGNORED
from rankray.model.head import HeadInputs

Figures = dict[str, float]


def run_head(
    model: Any, tokenizer: PreTrainedTokenizerBase, batch: Sequence[Tokens], head: Callable[[HeadInputs], Any]
) -> Any:
    """Return what a head function makes of the supervised tokens of one batch, padded on the right."""
    width = max(len(example.input_ids) for example in batch)
    ids_BT = torch.full((len(batch), width), int(tokenizer.pad_token_id or 0))
    labels_BT, mask_BT = torch.full_like(ids_BT, IGNORED), torch.zeros_like(ids_BT)
    for row, example in enumerate(batch):
        length = len(example.input_ids)
        ids_BT[row, :length] = torch.tensor(example.input_ids)
        labels_BT[row, :length] = torch.tensor(example.labels)
        mask_BT[row, :length] = 1
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "labels": labels_BT}
    with torch.no_grad():
        return model(**{name: each.to(model.device) for name, each in inputs.items()}, head=head)


def mean_with_error(values: Sequence[float]) -> tuple[float, float, int]:
    """Return mean, standard error and number of values, one for each example; the error of a single one is NaN."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan, count
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1) / count), count


def with_error(name: str, values: Sequence[float]) -> Figures:
    """Return a metric with its `_stderr` and `_n`, from one value per example."""
    mean, error, count = mean_with_error(values)
    return {name: mean, f"{name}_stderr": error, f"{name}_n": float(count)}


def sampled_figures(prefix: str, names: Sequence[str], is_right_QS: Sequence[Sequence[bool]]) -> Figures:
    """Return `pass@k` and `avg@k` with their errors.

    Q questions, S samples each. Of c right ones among n samples, `pass@k` is 1 - C(n - c, k) / C(n, k), which is
    unbiased; `avg@k` is the mean of the first k. The error is that of the mean over questions, so that samples of one
    question do not count as independent.

    Args:
        prefix: `eval/`, or that of a further set.
        names: such as `pass@4`.
        is_right_QS: which answers are right; every question has at least as many as the largest k.

    Source: arXiv:2107.03374, eq. 1 (pass@k).
    """
    figures: Figures = {}
    for name in names:
        k = EvaluateSection.k_of(name)
        if name.startswith("avg@"):
            values = [sum(row[:k]) / k for row in is_right_QS]
        else:
            values = [pass_at_k(len(row), sum(row), k) for row in is_right_QS]
        figures |= with_error(prefix + name, values)
    return figures


def pass_at_k(n: int, c: int, k: int) -> float:
    """Return the chance that at least one of k answers is right that are drawn from n, of which c are right."""
    assert 1 <= k <= n
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def missing(names: Sequence[str]) -> Figures:
    """Return NaN for every figure of these metrics, where there is nothing to measure."""
    figures: Figures = {}
    for name in names:
        figures |= {f"eval/{name}": math.nan, f"eval/{name}_stderr": math.nan, f"eval/{name}_n": 0.0}
    return figures
