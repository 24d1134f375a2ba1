"""From a source to token ids and labels, tokenised once on each node.

Prompt and completion are tokenised together, as the model will see them. The completion starts at the first token that
differs from the tokens of the prompt alone (TRL's own rule), and only its tokens get labels. A completion from a
template ends with the tokenizer's EOS token; one from chat messages ends as the chat template ends it. An example that
is longer than `data.max_length`, or than the model's context, is cut at the end; examples that keep no supervised token
are dropped.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import datasets.fingerprint
import pyarrow.compute
import transformers
from transformers import PreTrainedTokenizerBase

from rankray.config.sections import DataSection
from rankray.data.cache import Columns, shared_table, table_in_memory
from rankray.data.examples import Example, Places, common_prefix, make_examples
from rankray.data.files import Row, Rows, hub_parts, is_file_source, read_rows
from rankray.data.summary import SplitSummary, summarise
from rankray.errors import DataError, ModelError, listed, shown
from rankray.loss.tokens import IGNORED

logger = logging.getLogger(__name__)

ROWS_PER_PART = 1000
TRAINED_COLUMNS = ["input_ids", "labels"]


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
        """Whether any token is left to predict; the very first token cannot be predicted."""
        return max(self.start, 1) < len(self.input_ids)


@dataclass(frozen=True)
class Split:
    """Training or held-out examples, tokenised.

    Attributes:
        table: a row for each example, columns as in `rankray.data.cache`; mapped from a file where one could be
            written.
        read: reads the rows, for callers who need more than tokens.
        limit: the most tokens an example may have.
    """

    table: datasets.Dataset
    read: Callable[[], list[Row]]
    limit: int = 0

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the source, each with its texts added as `prompt` and `completion`.

        Raises:
            DataError: the source has changed since it was tokenised, or can no longer be read.
        """
        return self.read()

    @cached_property
    def tokens(self) -> list[Tokens]:
        """The tokens of each row, cut to the limit."""
        columns = self.table.data
        pairs = zip(columns["input_ids"].to_pylist(), columns["start"].to_pylist(), strict=True)
        return [Tokens(ids, start) for ids, start in pairs]

    @property
    def dropped(self) -> int:
        """How many examples keep no supervised token."""
        return len(self.table) - int(pyarrow.compute.sum(self.table.data["supervised"]).as_py() or 0)

    def summary(self) -> SplitSummary:
        """Return how many rows and supervised tokens there are, and what cutting takes away."""
        columns = self.table.data
        first = pyarrow.compute.max_element_wise(columns["start"], 1)
        kept = pyarrow.compute.subtract(pyarrow.compute.list_value_length(columns["input_ids"]), first)
        supervised = pyarrow.compute.sum(pyarrow.compute.max_element_wise(kept, 0)).as_py()
        return summarise(columns["length"].to_pylist(), self.limit, int(supervised or 0), self.dropped)

    @cached_property
    def dataset(self) -> datasets.Dataset:
        """The supervised examples with columns `input_ids` and `labels`."""
        table = self.table.select_columns(TRAINED_COLUMNS)
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
        split: `train` or `eval`, the field of `data` that names the source.
        data: the config's `data:` block.
        tokenizer: the model's.
        limit: the most tokens an example may have; at most `data.max_length`.
        first: take only this many rows; None takes all.

    Raises:
        DataError: the source cannot be read, a template does not fit, or no supervised token is left after cutting.
        ModelError: `data.messages` is set and the tokenizer has no chat template.
    """
    source, where = getattr(data, split), f"data.{split}"
    origin = _FileOrigin(source, where) if is_file_source(source) else _HubOrigin(source, where)
    templates = {"prompt": data.prompt, "completion": data.completion, "messages": data.messages}
    rules = _tokenizer_fingerprint(tokenizer)

    def examples() -> tuple[list[Row], list[Example]]:
        rows = origin.rows().first(first)
        return rows, make_examples(rows, data, Places(source=where))

    def make() -> Iterator[Columns]:
        _, found = examples()
        parts = [found[begin : begin + ROWS_PER_PART] for begin in range(0, len(found), ROWS_PER_PART)]
        tokenise = _tokenise_texts if data.messages is None else _tokenise_chats
        tables = [_columns(tokenise(part, tokenizer), limit) for part in parts]
        if not any(any(table["supervised"]) for table in tables):
            raise DataError(
                f"data.max_length: {limit} leaves no completion token of any of the {len(found)} examples of {where}; "
                "allowed is more than the shortest prompt has; raise data.max_length or shorten data.prompt"
            )
        yield from tables

    def read() -> list[Row]:
        rows, found = examples()
        texts = found if data.messages is None else [_chat_texts(example, tokenizer) for example in found]
        return [{**row, "prompt": e.prompt, "completion": e.completion} for row, e in zip(rows, texts, strict=True)]

    if rules is None:
        logger.debug("%s has no fingerprint, tokens stay in memory", type(tokenizer).__name__)
        return Split(table_in_memory(make()), read, limit)
    made_from = [origin.stamp, templates, limit, first, rules, transformers.__version__]
    return Split(shared_table(made_from, make), read, limit)


class _FileOrigin:
    """A data file; later reads are refused if it has changed since the first look."""

    def __init__(self, source: str, where: str) -> None:
        self._source, self._where = source, where
        self.stamp = self._look()

    def rows(self) -> Rows:
        if self._look() != self.stamp:
            raise DataError(
                f"{self._where}: {self._source!r} was changed while it was in use; a search needs data that do "
                "not change; start it again"
            )
        return read_rows(self._source, self._where)

    def _look(self) -> Any:
        path = Path(self._source)
        if not path.is_file():
            read_rows(self._source, self._where)
        state = path.stat()
        return [str(path.resolve()), state.st_size, state.st_mtime_ns]


class _HubOrigin:
    """A dataset of the hub, in the cache of `datasets`."""

    def __init__(self, source: str, where: str) -> None:
        self._source, self._loaded = source, _load_hub(source, where)
        self.stamp = self._look(source)

    def rows(self) -> Rows:
        return Rows(self._loaded.to_list(), self._source)

    def _look(self, source: str) -> Any:
        """Return the cache files, whose paths hold the dataset's revision; a hash of the rows where there are none."""
        files = [Path(file["filename"]) for file in self._loaded.cache_files]
        if not files:
            return [source, datasets.fingerprint.Hasher.hash(self._loaded.to_list())]
        return [source, *([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _load_hub(source: str, where: str) -> datasets.Dataset:
    name, config, split = hub_parts(source, where)
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: {source!r} cannot be loaded ({first}); allowed is hub-id:config:split of a dataset on the hub; "
            "check the three parts and the connection, or give a local file"
        ) from error


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return a hash of everything a tokenizer's results depend on, or None for one that cannot be serialised."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    for call in ("padding", "truncation"):  # settings of the last call, not of the tokenizer
        rules.pop(call, None)
    parts = [type(tokenizer).__name__, rules, tokenizer.chat_template, tokenizer.eos_token, tokenizer.bos_token]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _columns(whole: Sequence[Tokens], limit: int) -> Columns:
    """Return the columns of the table for a part of a split, cut to `limit` tokens."""
    part = [Tokens(example.input_ids[:limit], min(example.start, limit)) for example in whole]
    names = ("input_ids", "labels", "start", "supervised")
    columns: Columns = {name: [getattr(example, name) for example in part] for name in names}
    return columns | {"length": [len(example.input_ids) for example in whole]}


def _tokenise_texts(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    prompts = tokenizer([str(e.prompt) for e in examples], verbose=False)["input_ids"]
    wholes = tokenizer([f"{e.prompt}{e.completion}" for e in examples], verbose=False)["input_ids"]
    tokens = []
    for prompt, whole in zip(prompts, wholes, strict=True):
        start = common_prefix(prompt, whole)
        if tokenizer.eos_token_id is not None and (len(whole) == start or whole[-1] != tokenizer.eos_token_id):
            whole = [*whole, tokenizer.eos_token_id]
        tokens.append(Tokens(list(whole), start))
    return tokens


def _tokenise_chats(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> list[Tokens]:
    tokens = []
    for example in examples:
        before = str(_chat_texts(example, tokenizer).prompt)
        whole = _template(tokenizer, [*example.prompt, *example.completion])
        before_ids = tokenizer(before, add_special_tokens=False, verbose=False)["input_ids"] if before else []
        ids = tokenizer(whole, add_special_tokens=False, verbose=False)["input_ids"]
        tokens.append(Tokens(list(ids), common_prefix(before_ids, ids)))
    return tokens


def _chat_texts(example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Return prompt and completion of a conversation as texts; the prompt ends where the template opens the answer."""
    if not tokenizer.chat_template:
        raise ModelError(
            "data.messages: the model's tokenizer has no chat template; needed is one; take a chat model, or use "
            "data.prompt and data.completion"
        )
    prompt: list[Any] = list(example.prompt)
    before = _template(tokenizer, prompt, add_generation_prompt=True) if prompt else ""
    last: Any = example.completion[-1]
    return Example(str(before), str(last["content"]))


def _template(tokenizer: PreTrainedTokenizerBase, turns: list[Any], **options: Any) -> str:
    """Return a conversation as the model's chat template writes it.

    Raises:
        ModelError: the template is no template, or refuses this conversation.
    """
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))
    except Exception as error:  # jinja2's errors, and whatever a template calls
        logger.debug("the chat template failed", exc_info=True)
        first = (str(error).splitlines() or [type(error).__name__])[0]
        roles = listed(turn.get("role") for turn in turns)
        raise ModelError(
            f"data.messages: the tokenizer's chat template refuses a conversation of {roles} ({type(error).__name__}: "
            f"{shown(first)}); allowed is a template that takes every conversation of the data; fix the template, or "
            "these rows"
        ) from error
