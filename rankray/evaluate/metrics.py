"""How each metric is computed: token sums without logits, bits per byte, and from solved answers with their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.config.evaluation import EvaluateSection, is_sampled
from rankray.data.encode import Tokens
from rankray.data.tokenize import Split
from rankray.evaluate.ranks import Ranks
from rankray.loss import LossStats
from rankray.loss.tokens import IGNORED
from rankray.model.head import HeadInputs, attach_head, plain_model, plain_totals

Figures = dict[str, float]


def token_totals(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, batch_size: int, ranks: Ranks | None = None
) -> LossStats:
    """Return the plain sums over all supervised tokens, of all workers; longest examples first, without the logits."""
    ranks = ranks or Ranks(model)
    attach_head(plain_model(model))
    examples = sorted((e for e in data.tokens if e.supervised), key=lambda e: -len(e.input_ids))
    mine = ranks.share(range(len(examples)))
    total: LossStats | None = None
    for number in range(ranks.batches(len(examples), batch_size)):
        batch = [examples[index] for index in mine[number * batch_size : (number + 1) * batch_size]]
        stats: LossStats = run_head(model, tokenizer, batch or examples[-1:], plain_totals)
        if batch:
            total = stats if total is None else total + stats
    assert examples, "load_split leaves at least one supervised example"
    if ranks.size == 1:
        assert total is not None
        return total
    if total is None:
        empty: LossStats = run_head(model, tokenizer, examples[-1:], plain_totals)
        return LossStats.from_vector(ranks.sum(empty.vector() * 0))
    vector = total.vector()
    return LossStats.from_vector(ranks.sum(vector))


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


def supervised_bytes(tokenizer: PreTrainedTokenizerBase, data: Split) -> int:
    """Return how many UTF-8 bytes of text the supervised tokens stand for.

    Those of the completion; of an example that was cut, or of which several turns are trained on, those of what its
    tokens say.
    """
    longest = max(len(example.input_ids) for example in data.tokens)
    total = 0
    for example, row in zip(data.tokens, data.rows, strict=True):
        if not example.supervised:
            continue
        text = str(row["completion"])
        if len(example.input_ids) == longest or example.spans is not None:
            kept = [token for token in example.labels[1:] if token != IGNORED]
            said = str(tokenizer.decode(kept, skip_special_tokens=True))
            text = said if example.spans is not None or len(said) < len(text.strip()) else text
        total += len(text.encode())
    return total


def bits_per_byte(stats: LossStats, byte_count: int) -> float:
    """Return -log2 p of all supervised tokens per byte of their text: the same for every tokenizer."""
    return float(stats.nll_sum) / math.log(2) / byte_count if byte_count else math.nan


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
        figures[f"eval/{name}"] = math.nan
        if (name.endswith(("accuracy", "accuracy_norm")) and not name.endswith("token_accuracy")) or is_sampled(name):
            figures |= {f"eval/{name}_stderr": math.nan, f"eval/{name}_n": 0.0}
    return figures
