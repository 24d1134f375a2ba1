"""From rows to prompts and completions: by templates, or in one of the forms of `rankray.data.formats`.

What a column that a template names holds must be text, a number, true or false, a date or a time; of a list, say, a
template would only show how Python writes it. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rankray.config.sections import DataSection
from rankray.data import formats
from rankray.data.chat import Example
from rankray.data.files import place_of
from rankray.data.left_out import Unusable, is_missing
from rankray.data.parse import TEXTUAL, Row
from rankray.data.templates import fields, parse, render
from rankray.errors import DataError, listed, nearest, shown


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
        Unusable: a row has the shape of that form and nothing to train on.
        DataError: see `try_examples`.
    """
    found = try_examples(rows, data, places)
    for each in found:
        if isinstance(each, Unusable):
            raise each
    return [each for each in found if isinstance(each, Example)]


def try_examples(
    rows: Sequence[Row], data: DataSection, places: Places, must_exist: bool = True
) -> list[Example | Unusable]:
    """Return for every row its example, or why there is none in it.

    Args:
        rows: of one file, or the next part of one.
        data: says which form they have, or that their columns do.
        places: how errors begin.
        must_exist: whether a column that no row has is refused.

    Raises:
        DataError: no form is recognised, a template is malformed or names a column that does not exist, a row holds
            something without a text, or its messages are no turns.
    """
    form = formats.recognise(rows, data, places.source)
    if form == "columns":
        found = _from_templates(rows, data, places, must_exist)
        return [e if isinstance(e, Unusable) or not data.chat else _as_turns(e) for e in found]
    column = formats.chat_column(rows, data)
    is_named = data.messages is not None and form in ("messages", "sharegpt")
    if is_named and must_exist:
        _check_columns([column], rows, places.messages)
    reading = formats.Reading(places.messages if is_named else places.source, places.source, column, data.chat)
    return [_attempt(form, row, place_of(rows, index), reading) for index, row in enumerate(rows)]


def _as_turns(example: Example) -> Example:
    return formats.as_turns(str(example.prompt), str(example.completion))


def _attempt(form: str, row: Row, place: str, reading: formats.Reading) -> Example | Unusable:
    try:
        return formats.example_of(form, row, place, reading)
    except Unusable as error:
        return error


def _from_templates(
    rows: Sequence[Row], data: DataSection, places: Places, must_exist: bool
) -> list[Example | Unusable]:
    prompt, completion = parse(data.prompt, places.prompt), parse(data.completion, places.completion)
    needed: list[str] = []
    for parts, where in ((prompt, places.prompt), (completion, places.completion)):
        required = [field.column for field in fields(parts) if not field.optional]
        needed += [name for name in required if name not in needed]
        if must_exist:
            _check_columns(required, rows, where)
        for field in fields(parts):
            _check_texts(field.column, rows, where)
    lacking = {name: sum(is_missing(row.get(name)) for row in rows) for name in needed}
    found: list[Example | Unusable] = []
    for index, row in enumerate(rows):
        lacks = next((name for name in needed if lacking[name] and is_missing(row.get(name))), None)
        if lacks is None:
            texts = render(prompt, row), render(completion, row)
            found.append(formats.with_text(*texts, f"{places.source}: {place_of(rows, index)}"))
            continue
        text = (
            f"{places.source}: {place_of(rows, index)} has no value in column {lacks!r} ({lacking[lacks]} of "
            f"{len(rows)} rows); every row needs one; fill or remove these rows"
        )
        found.append(Unusable(text, f"with no value in column {lacks!r}"))
    return found


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many leading tokens two sequences share: where the completion of a tokenised pair starts."""
    length = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        length += 1
    return length


def _check_texts(column: str, rows: Sequence[Row], where: str) -> None:
    """Refuse values that have no text of their own: lists, mappings, bytes and other objects."""
    for index, row in enumerate(rows):
        value = row.get(column)
        if not isinstance(value, TEXTUAL) and value is not None:
            raise DataError(
                f"{where}: {place_of(rows, index)}: column {column!r} holds a {type(value).__name__}: "
                f"{shown(value, most=60)}; allowed is text, a number, true or false, a date; make a text of it, or "
                "name chat messages with data.messages"
            )


def _check_columns(names: list[str], rows: Sequence[Row], where: str) -> None:
    for name in names:
        if not rows or any(name in row for row in rows):
            continue
        columns = list(dict.fromkeys(column for row in rows for column in row))
        source = getattr(rows, "source", "")
        raise DataError(
            f"{where}: no column {name!r}{nearest(name, columns)}; columns are {listed(columns)}"
            f"{f', in {source}' if source else ''}; name one of them"
        )
