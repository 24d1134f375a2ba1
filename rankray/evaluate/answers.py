"""What of a text is the answer, and when two answers are the same. Standard library.

Numbers are compared as numbers: "1,000" is "1000", "5." is "5", "$3.50" is "3.5".
"""

from __future__ import annotations

import re
from functools import cache

from rankray.errors import ConfigError

MARK = "####"
NUMBER = r"[-+]?\$?(?:\d[\d,]*)?\.?\d+(?:[eE][-+]?\d+)?"


def extract(text: str, answer: str) -> str | None:
    """Return the normalised answer in a text, or None where there is none.

    Args:
        text: a completion.
        answer: `auto` (the line after the last `####`, else the last number, else all of it), `text` (all of it), or a
            regular expression with one group, whose last match counts.

    Raises:
        ConfigError: `answer` is no regular expression with one group.
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
    """Return a text stripped and with its inner spaces made single, or the shortest form of the number it is."""
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
            f"evaluate.answer: {answer!r} is no regular expression ({error}); allowed are auto, text and a regular "
            "expression with one group; mend it"
        ) from error
    if pattern.groups != 1:
        raise ConfigError(
            f"evaluate.answer: {answer!r} has {pattern.groups} groups; allowed are auto, text and a regular expression "
            "with one group; put one pair of parentheses round the answer"
        )
    return pattern
