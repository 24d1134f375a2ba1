"""From a source to token ids and labels, tokenised once.

Prompt and completion are tokenised together, as the model will see them; the completion starts where that differs from
the prompt's tokens alone (TRL's own rule), and only its tokens get labels. A completion from a template ends in the
tokenizer's EOS token; one from chat messages ends as the chat template ends it. What is longer than `data.max_length`,
or than the context the model was made for, is cut at the end; examples that keep no supervised token are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from rankray.config.schema import DataSection
from rankray.errors import DataError, ModelError
from rankray.finetune.examples import Example, Places, common_prefix, make_examples
from rankray.finetune.head import IGNORED
from rankray.finetune.rows import Row, hub_parts, is_file_source, read_rows

TOKENISE_AT_ONCE = 1000


@dataclass(frozen=True)
class Tokens:
    """One tokenised example; everything from `start` on is the completion."""

    input_ids: list[int]
    start: int

    @property
    def labels(self) -> list[int]:
        """The completion's tokens, -100 before it."""
        return [IGNORED] * self.start + self.input_ids[self.start :]

    @property
    def supervised(self) -> bool:
        """Whether a token is left to be predicted: the first of all has nothing to be predicted from."""
        return max(self.start, 1) < len(self.input_ids)


@dataclass(frozen=True)
class Split:
    """Training or held-out examples, tokenised.

    Attributes:
        rows: the rows as read, each with its texts under `prompt` and `completion`.
        tokens: the tokens of each row, cut.
    """

    rows: list[Row]
    tokens: list[Tokens]

    @property
    def dropped(self) -> int:
        """How many examples keep no supervised token."""
        return sum(not example.supervised for example in self.tokens)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """The supervised examples with columns `input_ids` and `labels`, in memory."""
        kept = [example for example in self.tokens if example.supervised]
        return datasets.Dataset.from_dict(
            {"input_ids": [e.input_ids for e in kept], "labels": [e.labels for e in kept]}
        )


def load_split(
    split: str,
    data: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    first: int | None = None,
) -> Split:
    """Read, fill in, tokenise and cut the examples of one split.

    Args:
        split: `train` or `eval`: which field of `data` names the source.
        data: the config's `data:` block.
        tokenizer: the model's.
        limit: tokens that an example may have; at most `data.max_length`.
        first: take only so many rows; None takes all.

    Raises:
        DataError: the source cannot be read, a template does not fit, or nothing supervised is left after cutting.
        ModelError: messages are to be used and the tokenizer has no chat template.
    """
    source, where = getattr(data, split), f"data.{split}"
    rows = read_rows(source, where) if is_file_source(source) else _read_hub(source, where)
    rows = rows[:first]
    examples = make_examples(rows, data, Places(source=where))
    if data.messages is None:
        texts, tokens = examples, _tokenise_texts(examples, tokenizer)
    else:
        texts, tokens = _tokenise_chats(examples, tokenizer)
    tokens = [Tokens(example.input_ids[:limit], min(example.start, limit)) for example in tokens]
    filled = [{**row, "prompt": e.prompt, "completion": e.completion} for row, e in zip(rows, texts, strict=True)]
    loaded = Split(filled, tokens)
    if loaded.dropped == len(rows):
        raise DataError(
            f"data.max_length: {limit} leaves no completion token of any of the {len(rows)} examples of {where}; "
            "allowed is more than the shortest prompt has; raise data.max_length or shorten data.prompt"
        )
    return loaded


def _read_hub(source: str, where: str) -> list[Row]:
    name, config, split = hub_parts(source, where)
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: {source!r} cannot be loaded ({first}); allowed is hub-id:config:split of a dataset on the hub; "
            "check the three parts and the connection, or give a local file"
        ) from error
    return loaded.to_list()


def _tokenise_texts(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    tokens = []
    for begin in range(0, len(examples), TOKENISE_AT_ONCE):
        part = examples[begin : begin + TOKENISE_AT_ONCE]
        prompts = tokenizer([str(e.prompt) for e in part], verbose=False)["input_ids"]
        wholes = tokenizer([f"{e.prompt}{e.completion}" for e in part], verbose=False)["input_ids"]
        for prompt, whole in zip(prompts, wholes, strict=True):
            start = common_prefix(prompt, whole)
            if tokenizer.eos_token_id is not None and (len(whole) == start or whole[-1] != tokenizer.eos_token_id):
                whole = [*whole, tokenizer.eos_token_id]
            tokens.append(Tokens(list(whole), start))
    return tokens


def _tokenise_chats(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Example], list[Tokens]]:
    if not tokenizer.chat_template:
        raise ModelError(
            "data.messages: the model's tokenizer has no chat template; needed is one; take a chat model, or use "
            "data.prompt and data.completion"
        )
    texts: list[Example] = []
    tokens: list[Tokens] = []
    for example in examples:
        prompt: list[Any] = list(example.prompt)
        turns = [*prompt, *example.completion]
        before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False) if prompt else ""
        whole = str(tokenizer.apply_chat_template(turns, tokenize=False))
        before_ids = tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"] if before else []
        ids = tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]
        texts.append(Example(str(before), str(turns[-1]["content"])))
        tokens.append(Tokens(list(ids), common_prefix(before_ids, ids)))
    return texts, tokens
