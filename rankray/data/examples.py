"""From rows to prompts and completions, by templates or from a column of chat messages. Standard library only.

A template is text with `{column}` fields; literal braces are doubled. A field is the plain name of a column: no
attributes, indices, conversions or format specifications, so a template can read nothing but the row. What a column
holds must be text, a number, true or false, a date or a time; of a list, say, a template would only show how Python
writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date, time
from decimal import Decimal
from string import Formatter
from typing import Any, NamedTuple

from rankray.config.sections import DataSection
from rankray.data.files import Row, place_of
from rankray.errors import DataError, listed, nearest, shown

Turn = dict[str, Any]
TEXTUAL = (str, int, float, Decimal, date, time)
"""What a template may show; bool is an int, and a datetime a date."""


class Example(NamedTuple):
    """Prompt and completion: two texts, or for chat two lists of turns (the completion is one assistant turn)."""

    prompt: str | list[Turn]
    completion: str | list[Turn]


class Places(NamedTuple):
    """How error messages about a data section begin."""

    source: str = "data.train"
    prompt: str = "data.prompt"
    completion: str = "data.completion"
    messages: str = "data.messages"


def make_examples(rows: Sequence[Row], data: DataSection, places: Places) -> list[Example]:
    """Return the example of every row.

    Raises:
        DataError: a template is malformed or names a column that does not exist, a row has no value for it, or a row's
            messages are not a conversation with an assistant turn.
    """
    if data.messages is not None:
        _check_columns([data.messages], rows, places.messages, places.source)
        return [
            _split_messages(row[data.messages], place_of(rows, index), places.messages)
            for index, row in enumerate(rows)
        ]
    prompt = _parse(data.prompt, places.prompt)
    completion = _parse(data.completion, places.completion)
    _check_columns([name for _, name in prompt if name], rows, places.prompt, places.source)
    _check_columns([name for _, name in completion if name], rows, places.completion, places.source)
    for where, parts in ((places.prompt, prompt), (places.completion, completion)):
        for name in dict.fromkeys(name for _, name in parts if name):
            _check_texts(name, rows, where)
    return [Example(_render(prompt, row), _render(completion, row)) for row in rows]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share: where the completion of a tokenised pair starts."""
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length


def _parse(template: str, where: str) -> list[tuple[str, str | None]]:
    try:
        parts = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise DataError(
            f"{where}: {template!r} is not a template ({error}); fields are {{column}}, literal braces are doubled; "
            "fix the braces"
        ) from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion or any(sign in name for sign in ".[]")):
            raise DataError(
                f"{where}: the field {{{name}}} of {template!r} is not a column name; allowed is {{column}} and "
                "nothing else inside the braces; literal braces are doubled"
            )
    return [(text, name) for text, name, _, _ in parts]


def _render(parts: list[tuple[str, str | None]], row: Row) -> str:
    return "".join(text + (str(row[name]) if name else "") for text, name in parts)


def _check_texts(name: str, rows: Sequence[Row], where: str) -> None:
    """Refuse values that have no text of their own: lists, mappings, bytes and other objects."""
    for index, row in enumerate(rows):
        if not isinstance(row[name], TEXTUAL):
            raise DataError(
                f"{where}: {place_of(rows, index)}: column {name!r} holds a {type(row[name]).__name__}: "
                f"{_short(row[name])}; allowed is text, a number, true or false, a date; make a text of it, or name "
                "chat messages with data.messages"
            )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_columns(names: list[str], rows: Sequence[Row], where: str, source_where: str) -> None:
    for name in names:
        lacking = [index for index, row in enumerate(rows) if _is_missing(row.get(name))]
        if not lacking:
            continue
        columns = list(dict.fromkeys(column for row in rows for column in row))
        if name not in columns:
            raise DataError(
                f"{where}: no column {name!r}{nearest(name, columns)}; columns are {listed(columns)}; name one of them"
            )
        raise DataError(
            f"{source_where}: {place_of(rows, lacking[0])} has no value in column {name!r} ({len(lacking)} of "
            f"{len(rows)} rows); every row needs one; fill or remove these rows"
        )


def _split_messages(messages: Any, place: str, where: str) -> Example:
    allowed = "a list of {role, content} with an assistant turn"
    if not isinstance(messages, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in messages
    ):
        raise DataError(f"{where}: {place} holds {_short(messages)}; allowed is {allowed}; fix that row")
    last = max((i for i, turn in enumerate(messages) if turn["role"] == "assistant"), default=None)
    if last is None:
        roles = listed(turn["role"] for turn in messages) or "none"
        raise DataError(f"{where}: {place} has no assistant turn (roles: {roles}); allowed is {allowed}; add one")
    return Example(messages[:last], [messages[last]])


def _short(value: Any) -> str:
    return shown(value, most=60)
