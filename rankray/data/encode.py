"""From examples to token ids and labels, the same way for training, `check` and `preview`. Needs no torch.

Prompt and completion are tokenised together, as the model will see them. The completion starts at the first token that
differs from the tokens of the prompt alone (TRL's own rule), and only its tokens get labels. A completion from texts
ends with the tokenizer's EOS token; one from chat turns ends as the chat template ends it. With `train_on: all` every
assistant turn gets labels, from where the template opens it to where it closes it (`rankray.data.turns`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rankray.config.sections import DataSection
from rankray.data.chat import Example
from rankray.data.examples import common_prefix
from rankray.data.lengths import Length
from rankray.data.turns import rendered, trained_spans
from rankray.loss.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tokens:
    """One tokenised example.

    Attributes:
        input_ids: of the whole example.
        start: where the last completion starts; what an answer is generated from ends here.
        spans: the tokens with labels, as (first, one after the last); None: all from `start` on.
    """

    input_ids: list[int]
    start: int
    spans: Spans | None = None

    @classmethod
    def from_labels(cls, input_ids: list[int], start: int, labels: list[int]) -> Tokens:
        """Return the example that has these labels."""
        kept = [label != IGNORED for label in labels]
        if kept == [index >= start for index in range(len(labels))]:
            return cls(input_ids, start)
        edges = [i for i, (one, other) in enumerate(zip([False, *kept], [*kept, False], strict=True)) if one != other]
        return cls(input_ids, start, tuple(zip(edges[::2], edges[1::2], strict=True)))

    @property
    def labels(self) -> list[int]:
        """The tokens that are trained on, -100 elsewhere."""
        labels = [IGNORED] * len(self.input_ids)
        for begin, end in self.spans if self.spans is not None else ((self.start, len(self.input_ids)),):
            labels[begin:end] = self.input_ids[begin:end]
        return labels

    @property
    def supervised_tokens(self) -> int:
        """How many tokens there are to predict; the very first token cannot be predicted."""
        if self.spans is None:
            return max(0, len(self.input_ids) - max(self.start, 1))
        return sum(label != IGNORED for label in self.labels[1:])

    @property
    def supervised(self) -> bool:
        """Whether any token is left to predict."""
        return self.supervised_tokens > 0

    def cut(self, limit: int) -> Tokens:
        """Return what is left of it when it is cut at the end to `limit` tokens."""
        spans = self.spans
        if spans is not None:
            spans = tuple((begin, min(end, limit)) for begin, end in spans if begin < limit)
        return Tokens(self.input_ids[:limit], min(self.start, limit), spans)


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, data: DataSection, places: Sequence[str] = ()
) -> list[Tokens]:
    """Return the tokens of each example, not cut.

    Args:
        examples: of one split, or a part of it.
        tokenizer: the model's.
        data: the config's `data:` block.
        places: where the row of each example stands, for errors; counted as rows where nothing is given.

    Raises:
        DataError: the chat template cannot render a conversation, or does not show which tokens are the assistant's.
        ModelError: there are conversations, and the tokenizer has no chat template.
    """
    texts = iter(_encode_texts([e for e in examples if not e.is_chat], tokenizer))
    return [
        _encode_chat(example, tokenizer, data, places[i] if places else f"row {i + 1}")
        if example.is_chat
        else next(texts)
        for i, example in enumerate(examples)
    ]


def measure(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    data: DataSection,
    limit: int,
    places: Sequence[str] = (),
) -> list[Length]:
    """Return how long each example is, for `rankray.data.lengths.length_table`; arguments and errors as in `encode`."""
    return measured(encode(examples, tokenizer, data, places), limit)


def measured(whole: Sequence[Tokens], limit: int) -> list[Length]:
    """Return how long each tokenised example is, and what is left of it when it is cut to `limit` tokens."""
    return [Length(len(each.input_ids), each.supervised_tokens, each.cut(limit).supervised_tokens) for each in whole]


def light_tokenizer(model: Path) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a local model without importing torch (two seconds), or None where that needs more.

    It is the class that reads `tokenizer.json`; a model without that file needs `AutoTokenizer`, which imports torch.
    """
    if not (model / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    tokenizer: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(str(model))
    return tokenizer


def _encode_texts(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    if not examples:
        return []
    prompts = tokenizer([str(e.prompt) for e in examples], verbose=False)["input_ids"]
    wholes = tokenizer([f"{e.prompt}{e.completion}" for e in examples], verbose=False)["input_ids"]
    tokens = []
    for prompt, whole in zip(prompts, wholes, strict=True):
        start = common_prefix(prompt, whole)
        if tokenizer.eos_token_id is not None and (len(whole) == start or whole[-1] != tokenizer.eos_token_id):
            whole = [*whole, tokenizer.eos_token_id]
        tokens.append(Tokens(list(whole), start))
    return tokens


def _encode_chat(example: Example, tokenizer: PreTrainedTokenizerBase, data: DataSection, place: str) -> Tokens:
    whole = rendered(tokenizer, example.turns, example.tools, place)
    ids = _ids(tokenizer, whole)

    def tokens_before(position: int) -> int:
        return len(ids) if position == len(whole) else common_prefix(_ids(tokenizer, whole[:position]), ids)

    every = data.train_on == "all"
    spans = trained_spans(tokenizer, example, whole, tokens_before, place, every)
    start = spans[-1][0]
    if spans == [(start, len(ids))]:
        return Tokens(ids, start)
    return Tokens(ids, start, tuple((begin, end) for begin, end in spans if begin < end))


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []
