"""From rows to prompts and completions: by templates, or in one of the forms of `rankray.data.formats`.

A template is text with `{column}` fields; literal braces are doubled. A field is the plain name of a column: no
attributes, indices, conversions or format specifications, so a template can read nothing but the row. `{column?}` is
empty where a row has no value. What a column holds must be text, a number, true or false, a date or a time; of a list,
say, a template would only show how Python writes it. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from string import Formatter
from typing import Any, NamedTuple

from rankray.config.sections import DataSection
from rankray.data import formats
from rankray.data.chat import Example
from rankray.data.files import place_of
from rankray.data.parse import Row
from rankray.errors import DataError, listed, nearest, shown

TEXTUAL = (str, int, float, Decimal, date, time)
"""What a template may show; bool is an int, and a datetime a date."""


class Places(NamedTuple):
    """How error messages about a data section begin."""

    source: str = "data.train"
    prompt: str = "data.prompt"
    completion: str = "data.completion"
    messages: str = "data.messages"
    weight_column: str = "data.weight_column"
    token_weights: str = "data.token_weights"

    def with_own(self, places: Mapping[str, str]) -> Places:
        """Return these places, some of them others, by their fields."""
        return self._replace(**places)

    @classmethod
    def at(cls, where: Callable[[str], str], split: str) -> Places:
        """Return the places of a file, given the function from a field to its `file:line`."""
        names = [f"data.{name}" for name in list(cls.__annotations__)[1:]]
        return cls(*(f"{where(name)}: {name}" for name in (f"data.{split}", *names)))


def make_examples(rows: Sequence[Row], data: DataSection, places: Places) -> list[Example]:
    """Return the example of every row, in the form that `formats.recognise` finds.

    Raises:
        DataError: no form is recognised, a template is malformed or names a column that does not exist, a row has no
            value for it, or a row's messages are not a conversation with an assistant turn.
    """
    form = formats.recognise(rows, data, places.source)
    if form == "columns":
        found = _from_templates(rows, data, places)
        return [formats.as_turns(str(e.prompt), str(e.completion)) for e in found] if data.chat else found
    column = formats.chat_column(rows, data)
    if data.messages is not None and form in ("messages", "sharegpt"):
        _check_columns([column], rows, places.messages, places.source)
    where = places.messages if form in ("messages", "sharegpt") and data.messages is not None else places.source
    reading = formats.Reading(where, places.source, column, data.chat)
    return [formats.example_of(form, row, place_of(rows, index), reading) for index, row in enumerate(rows)]


def _from_templates(rows: Sequence[Row], data: DataSection, places: Places) -> list[Example]:
    prompt = _parse(data.prompt, places.prompt)
    completion = _parse(data.completion, places.completion)
    for parts, where in ((prompt, places.prompt), (completion, places.completion)):
        _check_columns([name for _, name in parts if name and not name.endswith("?")], rows, where, places.source)
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
                f"{where}: the field {{{name}}} of {template!r} is not a column name; allowed is {{column}}, or "
                "{{column?}} where it may be empty; literal braces are doubled"
            )
    return [(text, name) for text, name, _, _ in parts]


def _render(parts: list[tuple[str, str | None]], row: Row) -> str:
    return "".join(text + _value(row, name) for text, name in parts)


def _value(row: Row, name: str | None) -> str:
    if name is None:
        return ""
    if name.endswith("?"):
        value = row.get(name[:-1])
        return "" if _is_missing(value) else str(value)
    return str(row[name])


def _check_texts(name: str, rows: Sequence[Row], where: str) -> None:
    """Refuse values that have no text of their own: lists, mappings, bytes and other objects."""
    column = name.removesuffix("?")
    for index, row in enumerate(rows):
        value = row.get(column)
        if not isinstance(value, TEXTUAL) and not (value is None and name.endswith("?")):
            raise DataError(
                f"{where}: {place_of(rows, index)}: column {column!r} holds a {type(value).__name__}: "
                f"{shown(value, most=60)}; allowed is text, a number, true or false, a date; make a text of it, or "
                "name chat messages with data.messages"
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
