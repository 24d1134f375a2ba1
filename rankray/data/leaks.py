"""Held-out prompts that also stand in the training data. Standard library only.

A leak is counted once, under the strictest heading that fits:

    exact        the whole prompt is that of a training example
    normalised   the same without case, punctuation and spacing
    13-gram      13 words in a row, normalised, that stand in a training prompt or completion; of a prompt with fewer
                 words, all of them in a row, if there are at least `FEWEST_WORDS`. Left out before: the words of a
                 template or a phrase, `FEWEST_WORDS` in a row that stand in more than `COMMON` training examples, or in
                 all of several

In Chinese and Japanese, which are written without spaces, each character is a word. An example without a prompt, as of
plain text, is compared by what is trained on.

Source: arXiv:2005.14165, appendix C (13-grams, and that those of more than ten documents are ignored).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rankray.config.sections import DataSection
from rankray.data.chat import Example
from rankray.data.sources import Source, is_local

WORDS = 13
FEWEST_WORDS = 8
COMMON = 10
NO_SPACES = "\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of Chinese and Japanese, which are written without spaces."""
WORD = re.compile(rf"[{NO_SPACES}]|[^\W{NO_SPACES}]+|[-+*/^=<>×÷−](?=\s*\d)")


def count_leaks(train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, int]:
    """Return how many held-out prompts leak: `prompts`, `exact`, `normalised`, `13-gram`.

    Args:
        train: what is trained on.
        held_out: evaluation or test examples.
    """
    prompts = [_asked(example) for example in held_out]
    known = {_asked(example) for example in train}
    known_normal = {" ".join(words(text)) for text in known}
    asked = [words(text) for text in prompts]
    texts = [words(_whole(example)) for example in train]
    common = _common(asked, texts)
    own = [_own_words(each, common) for each in asked]
    sizes = {min(WORDS, len(part)) for parts in own for part in parts}
    grams = {size: {gram for text in texts for gram in _grams(text, size)} for size in sizes}
    found = {"prompts": len(prompts), "exact": 0, "normalised": 0, "13-gram": 0}
    for text, each, parts in zip(prompts, asked, own, strict=True):
        if text in known:
            found["exact"] += 1
        elif each and " ".join(each) in known_normal:
            found["normalised"] += 1
        elif any(not grams[min(WORDS, len(part))].isdisjoint(_grams(part, min(WORDS, len(part)))) for part in parts):
            found["13-gram"] += 1
    return found


def leaks_of(data: DataSection) -> dict[str, dict[str, int]]:
    """Return the leaks of each held-out split that is a file, by its name; nothing where the training data are none, or
    are streamed.

    Raises:
        DataError: a file cannot be read, or a template does not fit.
    """
    splits = [split for split in ("train", "eval", "test") if getattr(data, split) is not None]
    local = [split for split in splits if is_local(getattr(data, split))]
    if "train" not in local or data.streaming:
        return {}
    examples = {split: [placed.example for placed in Source(split, data).examples()] for split in local}
    return {split: count_leaks(examples["train"], examples[split]) for split in local if split != "train"}


def leaks_line(split: str, found: dict[str, int]) -> str:
    """Return a warning about the leaks of a split, or an empty string where there are none."""
    if not (found["exact"] or found["normalised"] or found["13-gram"]):
        return ""
    kinds = ", ".join(f"{found[kind]} {said}" for kind, said in _SAID.items() if found[kind])
    return (
        f"data.{split}: of {found['prompts']} prompts {kinds} also stand in data.train; a metric on them measures "
        "memory; remove them from one of the two"
    )


_SAID = {"exact": "exactly", "normalised": "but for case and punctuation", "13-gram": "with 13 words in a row"}


def words(text: str) -> list[str]:
    """Return a text's words in lower case; punctuation is not among them, the sign before a number is: 3 + 4, 3 - 4."""
    return WORD.findall(unicodedata.normalize("NFC", text.casefold()))


def text_of(part: str | list[dict[str, Any]]) -> str:
    """Return a prompt as one text; that of a conversation is its turns but the system's."""
    if isinstance(part, str):
        return part
    return "\n".join(str(turn["content"]) for turn in part if turn.get("role") != "system")


def _whole(example: Example) -> str:
    return f"{text_of(example.prompt)} {text_of(example.completion)}"


def _asked(example: Example) -> str:
    """Return an example's prompt; where it has none, what is trained on."""
    return text_of(example.prompt) or text_of(example.completion)


def _common(prompts: Iterable[list[str]], train: Sequence[list[str]]) -> set[int]:
    """Return the runs of `FEWEST_WORDS` words of the prompts that stand in too many training examples to tell."""
    wanted = {gram for each in prompts for gram in _grams(each, FEWEST_WORDS)}
    counts = Counter(gram for text in train for gram in wanted.intersection(_grams(text, FEWEST_WORDS)))
    everywhere = len(train) if len(train) > 1 else COMMON + 1
    return {gram for gram, count in counts.items() if count > COMMON or count >= everywhere}


def _own_words(prompt: list[str], common: set[int]) -> list[list[str]]:
    """Return the parts of a prompt between common runs, as far as they are long enough to tell anything."""
    shared: set[int] = set()
    for begin, gram in enumerate(_grams(prompt, FEWEST_WORDS)):
        if gram in common:
            shared.update(range(begin, begin + FEWEST_WORDS))
    parts: list[list[str]] = [[]]
    for index, word in enumerate(prompt):
        if index in shared:
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if len(part) >= FEWEST_WORDS]


def _grams(text: list[str], size: int) -> list[int]:
    """Return a hash of every run of so many words, in order."""
    return [hash(tuple(text[begin : begin + size])) for begin in range(len(text) - size + 1)]
