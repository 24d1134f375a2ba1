"""From a source to token ids and labels (`rankray.data.encode`), tokenised once on each node.

An example that is longer than `data.max_length`, or than the model's context, is cut at the end; examples that keep no
supervised token are dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import datasets
import pyarrow.compute
import transformers
from transformers import PreTrainedTokenizerBase

from rankray.config.sections import DataSection
from rankray.data.cache import WEIGHTS, Columns, about_table, shared_table, table_in_memory
from rankray.data.chat import Example
from rankray.data.encode import Tokens, encode, measured
from rankray.data.files import FORMS
from rankray.data.hub import HubOrigin
from rankray.data.left_out import LeftOut
from rankray.data.lengths import Length, LengthTable, length_table
from rankray.data.parse import Row
from rankray.data.sources import Source
from rankray.data.turns import rendered
from rankray.data.weights import uses_columns
from rankray.errors import DataError

logger = logging.getLogger(__name__)

ROWS_PER_PART = 1000
RULES = 4
"""Raised where the same row becomes other tokens than before, so that nothing older is read from the cache."""
LENGTHS = ("tokens", "supervised", "kept")
"""Fields of `Length`; each is a column of the table, with `length_` before its name."""
TRAINED_COLUMNS = ["input_ids", "labels"]
FORM_FIELDS = ("format", "prompt", "completion", "messages", "train_on")
"""Fields of `data` that say what a row becomes; with source, tokenizer and limit, all that the tokens depend on, unless
the data give weights."""


@dataclass(frozen=True)
class Split:
    """Training or held-out examples, tokenised.

    Attributes:
        table: a row for each example, columns as in `rankray.data.cache`; mapped from a file where one could be
            written.
        read: reads the rows, each with its texts, for callers who need more than tokens.
        limit: the most tokens an example may have.
        left_out: rows that no example was made from, as they had nothing to train on.
    """

    table: datasets.Dataset
    read: Callable[[], list[tuple[Row, Example]]]
    limit: int = 0
    left_out: LeftOut = field(default_factory=LeftOut)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the source, each with its texts added as `prompt` and `completion`.

        Raises:
            DataError: the source has changed since it was tokenised, or can no longer be read.
        """
        return [{**row, "prompt": text.prompt, "completion": text.completion} for row, text in self._read]

    @cached_property
    def own_rows(self) -> list[Row]:
        """The rows of the source, with the texts where the source has no column `prompt` or `completion` of its own.

        Raises:
            DataError: as `rows`.
        """
        return [{"prompt": text.prompt, "completion": text.completion, **row} for row, text in self._read]

    @cached_property
    def _read(self) -> list[tuple[Row, Example]]:
        return self.read()

    @cached_property
    def tokens(self) -> list[Tokens]:
        """The tokens of each row, cut to the limit."""
        columns = (self.table.data[name].to_pylist() for name in ("input_ids", "start", "labels"))
        return [Tokens.from_labels(ids, start, labels) for ids, start, labels in zip(*columns, strict=True)]

    def first_tokens(self, count: int) -> list[Tokens]:
        """Return the tokens of the first rows, cut to the limit."""
        return replace(self, table=self.table.select(range(min(count, len(self.table))))).tokens

    @property
    def largest_token(self) -> int:
        """The largest token id; 0 where there is none."""
        chunks = self.table.data["input_ids"].chunks
        return max((pyarrow.compute.max(chunk.flatten()).as_py() or 0 for chunk in chunks), default=0)

    @property
    def dropped(self) -> int:
        """How many examples keep no supervised token."""
        return len(self.table) - int(pyarrow.compute.sum(self.table.data["supervised"]).as_py() or 0)

    def lengths(self) -> LengthTable:
        """Return how long the examples are, and what cutting leaves of them."""
        columns = [self.table.data[f"length_{name}"].to_pylist() for name in LENGTHS]
        return length_table(map(Length, *columns), self.limit)

    @cached_property
    def weighted(self) -> bool:
        """Whether the data give weights to tokens."""
        if WEIGHTS not in self.table.column_names:
            return False
        column = self.table.data[WEIGHTS]
        return bool(column.null_count < len(column))

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """The supervised examples with columns `input_ids` and `labels`, and with `weights` where there are any."""
        table = self.table.select_columns([*TRAINED_COLUMNS, *([WEIGHTS] if self.weighted else [])])
        if not self.dropped:
            return table
        supervised = self.table.data["supervised"].to_pylist()
        return table.select([index for index, kept in enumerate(supervised) if kept], keep_in_memory=True)


def load_split(
    split: str,
    data: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
    first: int | None = None,
) -> Split:
    """Read, tokenise and cut the examples of one split, or map the file that another process made from the same source.

    Args:
        split: `train`, `eval` or `test`, the field of `data` that names the source.
        data: the config's `data:` block.
        tokenizer: the model's.
        limit: the most tokens an example may have; at most `data.max_length`.
        first: take only this many rows; None takes all.

    Raises:
        DataError: the source cannot be read, a template does not fit, or no supervised token is left after cutting.
        ModelError: `data.messages` is set and the tokenizer has no chat template.
    """
    where = f"data.{split}"
    if getattr(data, split) is None:
        raise DataError(f"{where}: there is none; allowed is {FORMS}; give {where} a file or a dataset")
    source = Source(split, data, first, hub=partial(HubOrigin, streaming=data.streaming), tokenizer=tokenizer)
    form = {name: getattr(data, name) for name in FORM_FIELDS} | ({"chat": True} if data.chat else {})
    if split == "train" and uses_columns(data):
        form |= {"prompt": [data.prompt, "trained"] if data.prompt_weight else data.prompt}
        form |= {"weight_column": data.weight_column, "token_weights": data.token_weights}
    if data.streaming and data.format == "auto":
        form |= {"recognised_by": "the first rows"}
    rules = _tokenizer_fingerprint(tokenizer)

    def make() -> Iterator[Columns]:
        found, count, is_any = source.placed(), 0, False
        while part := list(islice(found, ROWS_PER_PART)):
            whole = encode([e.example for e in part], tokenizer, data, [e.place for e in part])
            columns = _columns(whole, limit)
            count, is_any = count + len(part), is_any or any(columns["supervised"])
            yield columns
        if not is_any:
            raise DataError(
                f"data.max_length: {limit} leaves no completion token of any of the {count} examples of {where}; "
                "allowed is more than the shortest prompt has; raise data.max_length or shorten data.prompt"
            )

    def read() -> list[tuple[Row, Example]]:
        return [(e.row, _texts(e.example, tokenizer, e.place)) for e in source.placed()]

    if rules is None:
        logger.debug("%s has no fingerprint, tokens stay in memory", type(tokenizer).__name__)
        return Split(table_in_memory(make()), read, limit, source.left_out)

    def about() -> Any:
        return source.left_out.as_json() if source.left_out.count else None

    made_from = [source.stamp, form, limit, rules, transformers.__version__, RULES]
    table = shared_table(made_from, make, about)
    if WEIGHTS not in table.column_names and _may_read_more(data):
        made_from = [*made_from, "turns"]
        table = shared_table(made_from, make, about)
    left_out = source.left_out if source.left_out.rows else LeftOut.from_json(about_table(made_from))
    return Split(table, read, limit, left_out)


def _may_read_more(data: DataSection) -> bool:
    """Whether examples may be of a form of which earlier versions did not read everything: marks of turns, contexts."""
    is_templated = (data.prompt, data.completion) != ("{prompt}", "{completion}") and data.messages is None
    return data.format not in ("columns", "text") and not (data.format == "auto" and is_templated)


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a hash of everything a tokenizer's results depend on, or None for one that cannot be serialised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    for call in ("padding", "truncation"):  # settings of the last call, not of the tokenizer
        rules.pop(call, None)
    parts = [type(tokenizer).__name__, rules, tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token]
    named = {
        name: token for name, token in tokenizer.special_tokens_map.items() if name in str(tokenizer.chat_template)
    }
    parts += [named, bool(getattr(tokenizer, "split_special_tokens", False))]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _columns(whole: Sequence[Tokens], limit: int) -> Columns:
    """Return the columns of the table for a part of a split, cut to `limit` tokens."""
    part = [example.cut(limit) for example in whole]
    names = ("input_ids", "labels", "start", "supervised", WEIGHTS)
    columns: Columns = {name: [getattr(example, name) for example in part] for name in names}
    lengths = measured(whole, limit)
    return columns | {f"length_{name}": [getattr(length, name) for length in lengths] for name in LENGTHS}


def _texts(example: Example, tokenizer: PreTrainedTokenizerBase, place: str) -> Example:
    """Return prompt and completion of a conversation as texts; the prompt ends where the template opens the answer."""
    if not example.is_chat:
        return example
    before = rendered(tokenizer, example, example.asked, place, opens=True)
    last: Any = example.completion[-1]
    return Example(before, str(last["content"]))
