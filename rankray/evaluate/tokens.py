"""What a model makes of the supervised tokens of a split: sums per example, and ratios of them with their errors.

The tokens of one example are not independent, so every error is clustered by example. Shapes: Q examples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankray.data.tokenize import Split
from rankray.evaluate.metrics import Figures, run_head
from rankray.evaluate.ranks import Ranks
from rankray.loss.tokens import IGNORED
from rankray.model.head import HeadInputs, attach_head, plain_model, sequence_totals


@dataclass(frozen=True)
class TokenSums:
    """Sums over the supervised tokens of each example that has some, in the order of the split.

    Attributes:
        nll_Q: -ln p_t, nats.
        tokens_Q: how many tokens.
        first_Q: how many of them the model ranks first.
    """

    nll_Q: list[float]
    tokens_Q: list[float]
    first_Q: list[float]

    def figures(self, names: Iterable[str], bytes_Q: Sequence[int] = ()) -> Figures:
        """Return those of `nll`, `token_accuracy` and `bits_per_byte` that are among the names, with their errors.

        Args:
            names: which metrics.
            bytes_Q: of the text of each example; needed for `bits_per_byte`.
        """
        bits_Q = [nll / math.log(2) for nll in self.nll_Q]
        parts: dict[str, tuple[Sequence[float], Sequence[float]]] = {
            "nll": (self.nll_Q, self.tokens_Q),
            "token_accuracy": (self.first_Q, self.tokens_Q),
            "bits_per_byte": (bits_Q, bytes_Q),
        }
        figures: Figures = {}
        for name in dict.fromkeys(names):
            if name in parts:
                figures |= ratio_with_error(name, *parts[name])
        return figures


def token_sums(
    model: Any, tokenizer: PreTrainedTokenizerBase, data: Split, batch_size: int, ranks: Ranks | None = None
) -> TokenSums:
    """Return the plain sums of all examples, of all workers; longest examples first, without the logits."""
    ranks = ranks or Ranks(model)
    attach_head(plain_model(model))
    examples = [example for example in data.tokens if example.supervised]
    assert examples, "load_split leaves at least one supervised example"
    mine = ranks.share([len(example.input_ids) for example in examples])
    found_Q3 = torch.zeros(len(examples), 3, dtype=torch.float64)
    for number in range(ranks.batches(len(mine), len(examples), batch_size)):
        chosen = mine[number * batch_size : (number + 1) * batch_size]
        batch = [examples[index] for index in chosen] or [min(examples, key=lambda each: len(each.input_ids))]
        rows_B3 = run_head(model, tokenizer, batch, _totals_of(len(batch)))
        found_Q3[chosen] = rows_B3[: len(chosen)]
    nll_Q, tokens_Q, first_Q = ranks.sum(found_Q3).T.tolist()
    return TokenSums(nll_Q, tokens_Q, first_Q)


def _totals_of(rows: int) -> Any:
    def head(given: HeadInputs) -> torch.Tensor:
        return sequence_totals(given, rows)

    return head


def text_bytes(tokenizer: PreTrainedTokenizerBase, data: Split) -> list[int]:
    """Return how many UTF-8 bytes of text the supervised tokens of each example stand for that has some.

    Those of the completion; of an example that was cut, or of which several turns are trained on, those of what its
    tokens say.
    """
    longest = max(len(example.input_ids) for example in data.tokens)
    found: list[int] = []
    for example, row in zip(data.tokens, data.rows, strict=True):
        if not example.supervised:
            continue
        text = str(row["completion"])
        if len(example.input_ids) == longest or example.spans is not None:
            kept = [token for token in example.labels[1:] if token != IGNORED]
            said = str(tokenizer.decode(kept, skip_special_tokens=True))
            text = said if example.spans is not None or len(said) < len(text.strip()) else text
        found.append(len(text.encode()))
    return found


def ratio_with_error(name: str, above_Q: Sequence[float], below_Q: Sequence[float]) -> Figures:
    """Return a ratio of sums over examples with its `_stderr` and `_n`; NaN where there is none.

    The error is that of the linearised ratio r, same value as
    `std(above_Q - r * below_Q, ddof=1) * sqrt(Q) / below_Q.sum()`.

    Source: Cochran, Sampling Techniques, 3rd edition, section 2.11.
    """
    below, count = math.fsum(below_Q), len(below_Q)
    ratio = math.fsum(above_Q) / below if below else math.nan
    error = math.nan
    if count > 1 and math.isfinite(ratio):
        squares = math.fsum((above - ratio * each) ** 2 for above, each in zip(above_Q, below_Q, strict=True))
        error = math.sqrt(squares * count / (count - 1)) / below
    return {name: ratio, f"{name}_stderr": error, f"{name}_n": float(count)}
