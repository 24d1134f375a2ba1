"""Which part of a text is the answer, and when two answers are the same. Standard library only.

Numbers are compared as numbers: "1,000" is "1000", "5." is "5", "$3.50" is "3.5".
"""

from __future__ import annotations

import re
from functools import cache

from rankray.errors import ConfigError

MARK = "####"
NUMBER = r"[-+]?\$?(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?"


def extract(text: str, answer: str) -> str | None:
    """Return the normalised answer in a text, or None if there is none.

    Args:
        text: a completion.
        answer: `auto` (the rest of the line after the last `####`, else the last number, else the whole text), `text`
            (the whole text), or a regular expression with one group, whose last match counts.

    Raises:
        ConfigError: `answer` is not a regular expression with one group.
    """
    if answer == "text":
        return normalise(text)
    if answer == "auto":
        if MARK in text:
            return normalise(text.rsplit(MARK, 1)[1].strip().split("\n", 1)[0])
        numbers = re.findall(NUMBER, text)
        return normalise(numbers[-1]) if numbers else normalise(text)
    found = [match.group(1) for match in _pattern(answer).finditer(text)]
    return normalise(found[-1] or "") if found else None


def normalise(text: str) -> str:
    """Return a number in its shortest form, and any other text stripped and with single spaces."""
    text = " ".join(text.split())
    number = text.rstrip(".").replace(",", "").replace("$", "").removesuffix("%")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", number):
        return text
    if re.fullmatch(r"[-+]?\d+", number):
        return str(int(number)) if len(number) < 1000 else number
    value = float(number)
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


@cache
def _pattern(answer: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(answer)
    except re.error as error:
        raise ConfigError(
            f"evaluate.answer: {answer!r} is not a regular expression ({error}); allowed are auto, text and a regular "
            "expression with one group; fix the expression"
        ) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"evaluate.answer: {answer!r} has {pattern.groups} groups; allowed are auto, text and a regular expression "
            "with one group; put one pair of parentheses around the answer"
        )
    return pattern
