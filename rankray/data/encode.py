"""From examples to token ids and labels, the same way for training, `check` and `preview`. Needs no torch.

Prompt and completion are tokenised together, as the model will see them. The completion starts at the first token that
differs from the tokens of the prompt alone (TRL's own rule), and only its tokens get labels. A text begins with one BOS
token where the tokenizer adds one, whether or not it has its own. A completion from texts ends with the tokenizer's EOS
token, as its own or added; one from chat turns ends as the chat template ends it. With `train_on: all` every
assistant turn gets labels, from where the template opens it to where it closes it (`rankray.data.turns`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rankray.config.sections import DataSection
from rankray.data.chat import Example, trained_turns
from rankray.data.chat_template import use_template
from rankray.data.examples import common_prefix
from rankray.data.lengths import Length
from rankray.data.turns import rendered, trained_spans
from rankray.data.weights import has_characters, token_weights, within_completion
from rankray.errors import ModelError, first_line, shown
from rankray.loss.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Tokens:
    """One tokenised example.

    Attributes:
        input_ids: of the whole example.
        start: where the last completion starts; what an answer is generated from ends here.
        spans: the tokens with labels, as (first, one after the last); None: all from `start` on.
        weights: of each token, as `rankray.data.weights` says: 0 has no label, and below 0 is the prompt's, which has
            one outside of the spans; None: 1 in the spans, 0 elsewhere.
    """

    input_ids: list[int]
    start: int
    spans: Spans | None = None
    weights: tuple[float, ...] | None = None

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
        if self.weights is not None:
            return [token if weight else IGNORED for token, weight in zip(self.input_ids, self.weights, strict=True)]
        labels = [IGNORED] * len(self.input_ids)
        for begin, end in self.spans if self.spans is not None else ((self.start, len(self.input_ids)),):
            labels[begin:end] = self.input_ids[begin:end]
        return labels

    @property
    def supervised_tokens(self) -> int:
        """How many tokens there are to predict; the very first token cannot be predicted, and prompts do not count."""
        if self.weights is not None:
            return sum(weight > 0 for weight in self.weights[1:])
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
        weights = None if self.weights is None else self.weights[:limit]
        return Tokens(self.input_ids[:limit], min(self.start, limit), spans, weights)


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
    named = places or [f"row {i + 1}" for i in range(len(examples))]
    plain = [i for i, example in enumerate(examples) if not example.is_chat]
    texts = iter(_encode_texts([examples[i] for i in plain], tokenizer, [named[i] for i in plain]))
    return [
        _encode_chat(example, tokenizer, data, named[i]) if example.is_chat else next(texts)
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


def light_tokenizer(model: Path, template: str | None = None) -> PreTrainedTokenizerBase | None:
    """Return the tokenizer of a local model without importing torch (two seconds), or None where that needs more.

    It is of the class that its configuration names, as `AutoTokenizer`, which imports torch, has it: some classes put a
    rule of their own in place of one in `tokenizer.json`. A model without that file needs `AutoTokenizer`.

    Args:
        model: its directory.
        template: `data.chat_template`.

    Raises:
        ModelError: its files cannot be read, or do not fit together.
    """
    if not (model / "tokenizer.json").is_file():
        return None
    try:
        tokenizer: PreTrainedTokenizerBase = _tokenizer_class(model).from_pretrained(str(model))
    except Exception as error:  # files that do not fit together raise anything
        logger.debug("the tokenizer of %s cannot be loaded", model, exc_info=True)
        first = first_line(error)
        raise ModelError(
            f"model.path: the tokenizer of {str(model)!r} cannot be loaded ({shown(first)}); needed is one that "
            "save_pretrained wrote; save the tokenizer again"
        ) from error
    use_template(tokenizer, template)
    return tokenizer


def _tokenizer_class(model: Path) -> Any:
    """Return the class of a tokenizer that reads `tokenizer.json`: the one that the model names, or the general one."""
    import transformers

    general = transformers.PreTrainedTokenizerFast
    name = ""
    for file in ("tokenizer_config.json", "config.json"):
        if not name and (model / file).is_file():
            tree = json.loads((model / file).read_bytes())
            name = str(tree.get("tokenizer_class") or "").removesuffix("Fast") if isinstance(tree, dict) else ""
    named = getattr(transformers, name, None) if name.endswith("Tokenizer") else None
    if not isinstance(named, type) or not issubclass(named, general):
        return general
    if name == "LlamaTokenizer":  # a byte-level tokenizer that is called so is read as it is
        rules = json.loads((model / "tokenizer.json").read_bytes())
        if "'ByteLevel'" in str([rules.get("pre_tokenizer"), rules.get("decoder")]):
            return general
    return named


def _encode_texts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, places: Sequence[str]
) -> list[Tokens]:
    if not examples:
        return []
    prompts = _texts_ids(tokenizer, [str(e.prompt) for e in examples])
    wholes = _texts_ids(tokenizer, [f"{e.prompt}{e.completion}" for e in examples])
    tokens = []
    for example, prompt, whole, place in zip(examples, prompts, wholes, places, strict=True):
        start = common_prefix(prompt, whole)
        ends = tokenizer.eos_token_id is not None and (len(whole) == start or whole[-1] != tokenizer.eos_token_id)
        if ends:
            whole = [*whole, tokenizer.eos_token_id]
        found = Tokens(list(whole), start)
        if example.given is not None:
            text, shift = f"{example.prompt}{example.completion}", len(str(example.prompt))
            characters = _Characters(tokenizer, text, shift, str(example.completion), special=True)
            found = _with_weights(found, example, [(start, len(whole))], [1.0], [], ends, characters, place)
        tokens.append(found)
    return tokens


def _encode_chat(example: Example, tokenizer: PreTrainedTokenizerBase, data: DataSection, place: str) -> Tokens:
    whole = rendered(tokenizer, example, example.turns, place)
    is_text = example.template is not None  # which begins and ends as any text does
    ids = text_ids(tokenizer, whole, is_text)

    def tokens_before(position: int) -> int:
        if position == len(whole):
            return len(ids)
        return common_prefix(text_ids(tokenizer, whole[:position], is_text), ids)

    def spans_of(indices: Sequence[int]) -> list[tuple[int, int]]:
        return trained_spans(tokenizer, example, whole, tokens_before, place, indices)

    wanted = trained_turns(example.turns, data.train_on == "all")
    spans = spans_of(wanted)
    start = spans[-1][0]
    is_plain = spans == [(start, len(ids))]
    found = Tokens(ids, start, None if is_plain else tuple((begin, end) for begin, end in spans if begin < end))
    if example.given is None:
        return found
    marked = [i for i, turn in enumerate(example.turns) if turn.get("weight") == 0.0]
    untrained = spans_of(marked) if marked and example.given.prompt else []
    characters = _Characters(tokenizer, whole, None, str(example.turns[-1]["content"]), special=is_text)
    weights = [float(example.turns[i].get("weight", 1.0)) for i in wanted]
    return _with_weights(found, example, spans, weights, untrained, False, characters, place)


class _Characters(NamedTuple):
    """Where the text of a completion lies in the whole text; `begin` is None where a chat template has put it."""

    tokenizer: PreTrainedTokenizerBase
    whole: str
    begin: int | None
    text: str
    special: bool


def _with_weights(
    tokens: Tokens,
    example: Example,
    spans: Sequence[tuple[int, int]],
    turn_weights: Sequence[float],
    untrained: Sequence[tuple[int, int]],
    ends: bool,
    characters: _Characters,
    place: str,
) -> Tokens:
    """Return an example's tokens with the weights that its row gives; `ends`: its last token was added to end it."""
    given = example.given
    assert given is not None
    count = sum(end - begin for begin, end in spans)
    offsets = _offsets(tokens, spans, characters) if has_characters(given) else None
    within = within_completion(given, count, ends, offsets, characters.text, f"data.token_weights: {place}")
    weights = token_weights(given, spans, turn_weights, untrained, len(tokens.input_ids), within)
    return replace(tokens, weights=weights)


def _offsets(
    tokens: Tokens, spans: Sequence[tuple[int, int]], characters: _Characters
) -> list[tuple[int, int] | None] | None:
    """Return which characters of the completion's text each token of the spans has; None: that is not known."""
    if not characters.tokenizer.is_fast:
        return None
    made = characters.tokenizer(
        characters.whole, add_special_tokens=characters.special, return_offsets_mapping=True, verbose=False
    )
    own = _own(made["input_ids"], _added(characters.tokenizer)) if characters.special else slice(None)
    offsets = made["offset_mapping"][own]
    begin = characters.begin
    if begin is None:
        solid = characters.text.strip()
        place = characters.whole.find(solid, offsets[spans[-1][0]][0])
        if place < 0:
            return None
        begin = place - characters.text.find(solid)
    end = begin + len(characters.text)
    found = [(first - begin, last - begin) if first < end and last > begin else None for first, last in offsets]
    found += [None] * (len(tokens.input_ids) - len(found))
    return [found[index] for first, last in spans for index in range(first, last)]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = True) -> list[int]:
    """Return the tokens of a text.

    Args:
        tokenizer: the model's.
        text: one text.
        special: it begins with the BOS token that the tokenizer adds, but not beside its own, and an EOS token that the
            tokenizer adds is left out; else nothing is added, as to what a chat template has written.
    """
    if special:
        return _texts_ids(tokenizer, [text])[0]
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def _texts_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    adds = _added(tokenizer)
    return [list(ids)[_own(ids, adds)] for ids in tokenizer(list(texts), verbose=False)["input_ids"]]


def _added(tokenizer: PreTrainedTokenizerBase) -> tuple[bool, bool]:
    """Return whether a tokenizer adds a BOS token to texts, and an EOS token."""
    probe = tokenizer("a", verbose=False)["input_ids"]
    return probe[:1] == [tokenizer.bos_token_id], len(probe) > 1 and probe[-1] == tokenizer.eos_token_id


def _own(ids: Sequence[int], adds: tuple[bool, bool]) -> slice:
    """Return which of the tokens that the tokenizer makes of a text are kept."""
    adds_bos, adds_eos = adds
    return slice(int(adds_bos and len(ids) > 1 and ids[0] == ids[1]), len(ids) - adds_eos)
