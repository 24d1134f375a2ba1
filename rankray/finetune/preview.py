"""What the model will see and be trained on: the first examples of a split, as text and tokens, and its lengths.

Examples are made and tokenised by the functions that training uses. A local model needs no torch for it.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.config import LoadedConfig
from rankray.config.schema import Config
from rankray.data.encode import Tokens, encode, light_tokenizer
from rankray.data.examples import Places
from rankray.data.left_out import LeftOut
from rankray.data.lengths import Length, LengthTable, length_table
from rankray.data.sources import Source, entries_of, is_local
from rankray.errors import ModelError
from rankray.finetune.preflight import STREAMED_ROWS
from rankray.loss.tokens import IGNORED
from rankray.model.files import context_of, local_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShownRow:
    """One example after cutting.

    Attributes:
        place: where its row stands.
        pieces: its text in order, each piece with the weight of its tokens.
        ids: its token ids.
        labels: the token ids that are trained on, -100 elsewhere.
        weights: what the weight of each token in training is multiplied with; 0 for one that is not trained on.
        full_length: its tokens before cutting.
        ends_with_stop_token: whether the last trained token, spaces aside, is one at which generation stops.
    """

    place: str
    pieces: list[tuple[str, float]]
    ids: list[int]
    labels: list[int]
    weights: list[float]
    full_length: int
    ends_with_stop_token: bool

    def as_json(self) -> dict[str, Any]:
        """Return the row as plain JSON types."""
        return {
            "place": self.place,
            "text": "".join(text for text, _ in self.pieces),
            "supervised_text": "".join(text for text, weight in self.pieces if weight),
            "tokens": len(self.ids),
            "supervised": sum(label != IGNORED for label in self.labels[1:]),
            "ends_with_stop_token": self.ends_with_stop_token,
            "cut_tokens": self.full_length - len(self.ids),
            "ids": self.ids,
            "labels": self.labels,
            "weights": self.weights,
        }


@dataclass(frozen=True)
class Preview:
    """The first examples of a split.

    Attributes:
        split: the field of `data`.
        formats: source -> the form of its rows (`rankray.data.formats`).
        unused: source -> the columns that nothing is made from.
        rows: the examples asked for.
        table: the lengths of all examples; of the first `STREAMED_ROWS` where `data.streaming` is set.
        left_out: the rows among them that no example is made from, as they have nothing to train on.
        eos: the tokenizer's EOS token; None for none.
        template: the chat template in use, the tokenizer's before that of a data set's form; None where no example is a
            conversation.
    """

    split: str
    formats: dict[str, str]
    unused: dict[str, list[str]]
    rows: list[ShownRow]
    table: LengthTable
    left_out: LeftOut
    eos: str | None
    template: str | None

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain JSON types; `format` lists the forms where there are several."""
        return {
            "split": self.split,
            "format": ", ".join(dict.fromkeys(self.formats.values())),
            "formats": self.formats,
            "unused_columns": self.unused,
            "rows": [row.as_json() for row in self.rows],
            "lengths": self.table.as_json(),
            "left_out": self.left_out.as_json(),
            "eos": self.eos,
            "template": self.template,
        }


def preview(loaded: LoadedConfig, split: str = "train", count: int = 3) -> Preview:
    """Return the first examples of a split as the model will see them.

    Args:
        loaded: the configuration.
        split: `train`, `eval`, or another field of `data` that names a source.
        count: how many examples.

    Raises:
        DataError: the data cannot be read, recognised or rendered.
        ModelError: the tokenizer cannot be loaded, or lacks a chat template that is needed.
    """
    config = loaded.config
    given = getattr(config.data, split)
    tokenizer, limit = tokenizer_and_limit(loaded)
    source = Source(
        split,
        config.data,
        hub=None if is_local(given) else _hub(config.data.streaming),
        places=Places.at(loaded.where, split),
        tokenizer=tokenizer,
    )
    placed = list(islice(source.placed(), max(count, STREAMED_ROWS) if config.data.streaming else None))
    found = encode([p.example for p in placed], tokenizer, config.data, [p.place for p in placed])
    cut = [tokens.cut(limit) for tokens in found]
    stops = _stop_ids(config, tokenizer)
    rows = [
        _shown(place, whole, kept, tokenizer, stops, config.data.prompt_weight)
        for place, whole, kept in zip([p.place for p in placed][:count], found, cut, strict=False)
    ]
    lengths = [
        Length(len(whole.input_ids), whole.supervised_tokens, kept.supervised_tokens)
        for whole, kept in zip(found, cut, strict=True)
    ]
    own = {p.example.template for p in placed if p.example.is_chat}
    template = next(iter(own - {None}), None) if None not in own else tokenizer.chat_template
    eos = None if tokenizer.eos_token is None else str(tokenizer.eos_token)
    table = length_table(lengths, limit)
    return Preview(split, source.forms, source.unused, rows, table, source.left_out, eos, template and str(template))


def sources_of(config: Config, split: str) -> list[str]:
    """Return the paths and hub ids of a split."""
    return [entry.path for entry in entries_of(getattr(config.data, split))]


def _shown(
    place: str,
    whole: Tokens,
    kept: Tokens,
    tokenizer: PreTrainedTokenizerBase,
    stops: frozenset[int],
    prompt_weight: float,
) -> ShownRow:
    ids, labels = kept.input_ids, kept.labels
    weights = [float(label != IGNORED) for label in labels]
    if kept.weights is not None:
        weights = [weight if weight >= 0 else -weight * prompt_weight for weight in kept.weights]
    pieces: list[tuple[str, float]] = []
    end = 0
    for weight, run in groupby(weights):
        begin, end = end, end + len(list(run))
        before, text = _decoded(tokenizer, ids[:begin]), _decoded(tokenizer, ids[:end])
        pieces.append((text[len(before) :] if text.startswith(before) else _decoded(tokenizer, ids[begin:end]), weight))
    trained_ids = [label for label in labels if label != IGNORED]
    while trained_ids and trained_ids[-1] not in stops and not _decoded(tokenizer, trained_ids[-1:]).strip():
        trained_ids.pop()
    ends = bool(trained_ids) and trained_ids[-1] in stops
    return ShownRow(place, pieces, ids, labels, weights, len(whole.input_ids), ends)


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _stop_ids(config: Config, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the tokens at which generation stops: the tokenizer's EOS, and those of a local generation_config.json."""
    found = {tokenizer.eos_token_id}
    directory = local_model(config.model.path)
    file = None if directory is None else directory / "generation_config.json"
    if file is not None and file.is_file():
        try:
            given = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            found |= set(given if isinstance(given, list) else [given])
        except (OSError, ValueError, AttributeError) as error:
            logger.debug("%s cannot be read: %s", file, error)
    return frozenset(stop for stop in found if isinstance(stop, int))


def tokenizer_and_limit(loaded: LoadedConfig) -> tuple[PreTrainedTokenizerBase, int]:
    """Return the model's tokenizer, without torch where that can be, and the most tokens an example may have.

    That is `data.max_length`, or the context of a local model where it is shorter.

    Raises:
        ModelError: the tokenizer or the model's configuration cannot be read; says where the model is named.
    """
    config = loaded.config
    try:
        directory = local_model(config.model.path)
        light = None if directory is None else light_tokenizer(Path(directory), config.data.chat_template)
        context = None if directory is None else context_of(directory)
        limit = min(config.data.max_length, context or config.data.max_length)
        if light is not None:
            return light, limit
        from rankray.model.resident import tokenizer_of

        return tokenizer_of(config), limit
    except ModelError as error:
        raise ModelError(f"{loaded.where('model.path')}: {error}") from error


def _hub(streaming: bool) -> Any:
    from rankray.data.hub import HubOrigin

    return partial(HubOrigin, streaming=streaming)
