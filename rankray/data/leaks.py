"""Held-out prompts that also stand in the training data. Standard library only.

A leak is counted once, under the strictest heading that fits:

    exact        the whole prompt is that of a training example
    normalised   the same without case, punctuation and spacing
    13-gram      13 words in a row, normalised, that stand in a training prompt or completion; of a prompt with fewer
                 words, all of them in a row, if there are at least `FEWEST_WORDS`

Source: arXiv:2005.14165, appendix C (13-grams).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from rankray.config.sections import DataSection
from rankray.data.chat import Example
from rankray.data.sources import Source, is_local

WORDS = 13
FEWEST_WORDS = 8


def count_leaks(train: Sequence[Example], held_out: Sequence[Example]) -> dict[str, int]:
    """Return how many held-out prompts leak: `prompts`, `exact`, `normalised`, `13-gram`.

    Args:
        train: what is trained on.
        held_out: evaluation or test examples.
    """
    prompts = [text_of(example.prompt) for example in held_out]
    known = {text_of(example.prompt) for example in train}
    known_normal = {" ".join(words(text)) for text in known}
    asked = [words(text) for text in prompts]
    sizes = {min(WORDS, len(each)) for each in asked if len(each) >= FEWEST_WORDS}
    grams = {size: set(_grams((words(_whole(example)) for example in train), size)) for size in sizes}
    found = {"prompts": len(prompts), "exact": 0, "normalised": 0, "13-gram": 0}
    for text, each in zip(prompts, asked, strict=True):
        size = min(WORDS, len(each))
        if text in known:
            found["exact"] += 1
        elif " ".join(each) in known_normal:
            found["normalised"] += 1
        elif size in grams and any(gram in grams[size] for gram in _grams([each], size)):
            found["13-gram"] += 1
    return found


def leaks_of(data: DataSection) -> dict[str, dict[str, int]]:
    """Return the leaks of each held-out split that is a file, by its name; nothing where the training data are none.

    Raises:
        DataError: a file cannot be read, or a template does not fit.
    """
    splits = [split for split in ("train", "eval", "test") if getattr(data, split) is not None]
    local = [split for split in splits if is_local(getattr(data, split))]
    if "train" not in local:
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
    """Return a text's words in lower case; punctuation is not among them."""
    return re.findall(r"\w+", text.casefold())


def text_of(part: str | list[dict[str, Any]]) -> str:
    """Return a prompt as one text; that of a conversation is its turns but the system's."""
    if isinstance(part, str):
        return part
    return "\n".join(str(turn["content"]) for turn in part if turn.get("role") != "system")


def _whole(example: Example) -> str:
    return f"{text_of(example.prompt)} {text_of(example.completion)}"


def _grams(texts: Iterable[list[str]], size: int) -> Iterable[int]:
    """Yield a hash of every run of so many words."""
    for each in texts:
        for begin in range(len(each) - size + 1):
            yield hash(tuple(each[begin : begin + size]))
