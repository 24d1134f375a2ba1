"""Weights that the data give to their tokens: of examples, within completions, of turns, and of the prompt.

They multiply the weight that the objective gives to a token, in training alone: evaluation counts every token once. The
sum is still divided by the number of supervised tokens, so an example of weight 2 counts twice as much as one of
weight 1, in a batch of any size. A token of weight 0 is not supervised, and does not count.

    an example     the column `data.weight_column`; 0 leaves the row out
    a turn         its own `weight`, or `train`, `training` or `loss`: true or false
    a token        the column `data.token_weights`: of the completion; of the tokens of all trained turns in order where
                   `data.train_on` is `all`
    the prompt     `data.prompt_weight` for every token that is not trained on otherwise; not for the assistant's turns
                   of weight 0, which somebody has marked so

A token's weight is the product of those that hold for it. In `Tokens.weights` a prompt's token has the weight -1 times
its example's: `data.prompt_weight` is put in when a batch is made, so that trials with different ones share their
tokens. Needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from rankray.config.sections import DataSection
from rankray.data.chat import MOST_WEIGHT, Example, Given, short
from rankray.data.examples import Places
from rankray.data.files import place_of
from rankray.data.parse import Row
from rankray.errors import DataError, listed, nearest

LEAST = 1e-30
"""Products below count as 0: float32 keeps few digits of them, or none."""
NUMBERS = f"a number from 0 to {MOST_WEIGHT:,}"
LISTS = "a list of numbers, one for each token of the completion, or of {start, end, weight}"
Span = tuple[int, int]


def uses_columns(data: DataSection) -> bool:
    """Whether the data section itself asks for weights."""
    return bool(data.prompt_weight or data.weight_column is not None or data.token_weights is not None)


def with_weights(
    examples: Sequence[Example], rows: Sequence[Row], data: DataSection, named: Places
) -> list[Example | None]:
    """Return the examples with the weights that their rows give, and None for those of weight 0.

    Args:
        examples: of a training split.
        rows: of each, its row.
        data: names the columns.
        named: how an error begins.

    Raises:
        DataError: a column that no row has, or a weight that is missing, no number, negative or not finite.
    """
    for column, where in ((data.weight_column, named.weight_column), (data.token_weights, named.token_weights)):
        if column is not None and rows and not any(column in row for row in rows):
            columns = list(dict.fromkeys(name for row in rows for name in row))
            raise DataError(
                f"{where}: no column {column!r}{nearest(column, columns)}; columns are {listed(columns)}; name one of "
                "them"
            )
    has_numbers = any(_is_numbers(row.get(data.token_weights)) for row in rows) if data.token_weights else False
    return [
        _weighted(example, row, place_of(rows, index), data, named, has_numbers)
        for index, (example, row) in enumerate(zip(examples, rows, strict=True))
    ]


def _is_numbers(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and not isinstance(given[0], Mapping)


def _weighted(
    example: Example, row: Row, place: str, data: DataSection, named: Places, has_numbers: bool
) -> Example | None:
    weight, tokens = 1.0, None
    if data.weight_column is not None:
        weight = number(row.get(data.weight_column), f"{named.weight_column}: {place}: column {data.weight_column!r}")
    if data.token_weights is not None:
        given, where = row.get(data.token_weights), f"{named.token_weights}: {place}: column {data.token_weights!r}"
        tokens = _entries(given, where, has_numbers)
    has_turns = any("weight" in turn for turn in example.turns)
    if weight == 0.0:
        return None
    if weight == 1.0 and tokens is None and not data.prompt_weight and not has_turns:
        return example
    return example.weighted(Given(weight, tokens, data.prompt_weight > 0.0))


def number(value: Any, where: str) -> float:
    """Return a weight as a float; text that is a number, as in .csv, counts as one, and so does one of numpy or torch.

    Raises:
        DataError: it is missing, no number, negative or not finite.
    """
    found = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value
    if isinstance(value, str | Decimal):
        try:
            found = float(value)
        except ValueError:
            found = None
    if not isinstance(found, bool | int | float) or not 0 <= found <= MOST_WEIGHT:  # false for NaN
        is_missing = value is None or (isinstance(value, str) and not value)
        given = "no weight" if is_missing else f"the weight {short(value)}"
        raise DataError(f"{where} holds {given}; allowed is {NUMBERS}; fill it in or correct it")
    return float(found)


def _entries(given: Any, where: str, has_numbers: bool) -> list[Any]:
    """Return a row's list: numbers as floats, or mappings of start, end and weight, of which there may be none.

    Raises:
        DataError: it is no such list, or all its weights are 0.
    """
    if not isinstance(given, list) or (has_numbers and not given):
        what = "no list" if given is None else short(given)
        raise DataError(f"{where} holds {what}; allowed is {LISTS}; fix that row")
    if any(isinstance(entry, Mapping) for entry in given):
        return [_span(entry, f"{where}, entry {index}") for index, entry in enumerate(given, start=1)]
    numbers = [number(entry, f"{where}, entry {index}") for index, entry in enumerate(given, start=1)]
    if numbers and not any(numbers):
        raise DataError(
            f"{where} holds {len(numbers)} weights that are all 0; allowed is at least one above; leave the row out, "
            "or give it a weight"
        )
    return numbers


def _span(entry: Any, where: str) -> dict[str, Any]:
    start, end = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("start", "end"))
    if not (type(start) is int and type(end) is int and 0 <= start < end):
        raise DataError(
            f"{where} is {short(entry)}; allowed is {{start, end, weight}} with characters of the completion, start "
            "below end; fix it"
        )
    return {"start": start, "end": end, "weight": number(entry.get("weight"), where)}


def has_characters(given: Given) -> bool:
    """Whether the weights within the completion are of characters."""
    return bool(given.tokens) and isinstance(given.tokens[0], Mapping)  # type: ignore[index]


def token_weights(
    given: Given,
    spans: Sequence[Span],
    turn_weights: Sequence[float],
    untrained: Sequence[Span],
    count: int,
    within: list[float] | None,
) -> tuple[float, ...]:
    """Return the weight of each token of an example, as `Tokens.weights` has them.

    Args:
        given: by its row.
        spans: the tokens that are trained on, in order.
        turn_weights: one for each span.
        untrained: tokens that `data.prompt_weight` leaves out.
        count: how many tokens there are.
        within: the weights of the tokens of all spans, one after the other; None: all 1.
    """
    weights = [-given.example if given.prompt else 0.0] * count
    for begin, end in untrained:
        weights[begin:end] = [0.0] * (end - begin)
    own = iter(within or ())
    for (begin, end), weight in zip(spans, turn_weights, strict=True):
        for index in range(begin, end):
            weights[index] = given.example * weight * (1.0 if within is None else next(own))
    return tuple(weight if abs(weight) >= LEAST else 0.0 for weight in weights)


def within_completion(
    given: Given, count: int, ends: bool, characters: Sequence[Span | None] | None, text: str, where: str
) -> list[float] | None:
    """Return the weights that `data.token_weights` gives to the tokens of a completion, before it is cut.

    Args:
        given: by its row.
        count: how many tokens the completion has.
        ends: whether the last of them was added to end it; a list of numbers may leave it out, and it has weight 1.
        characters: of each token, its characters in `text`, as (first, one after the last), None for a token without;
            None where the tokenizer does not know them.
        text: of the completion.
        where: how an error begins.

    Raises:
        DataError: a list of another length, characters that are not there, or weights that are all 0.
    """
    entries = given.tokens
    if not entries:
        return None
    if has_characters(given):
        return _by_characters(entries, count, characters, text, where)
    if len(entries) == count:
        return list(entries)
    if ends and len(entries) == count - 1:
        return [*entries, 1.0]
    allowed = f"{count - 1}, or {count} with the one that ends it" if ends else str(count)
    raise DataError(
        f"{where} holds {len(entries)} weights, and the completion has {allowed} tokens; allowed is one for each; "
        "count them with the model's own tokenizer (`rankray preview` shows them), or give {start, end, weight}"
    )


def _by_characters(
    entries: list[Any], count: int, characters: Sequence[Span | None] | None, text: str, where: str
) -> list[float]:
    """Return for each token the mean weight of its characters; spaces count only in a token of nothing else."""
    if characters is None:
        raise DataError(
            f"{where} names characters, and which tokens they are cannot be told (the chat template changes the text, "
            "or the tokenizer does not say); allowed there are numbers, one for each token"
        )
    weights = [1.0] * len(text)
    for number_, entry in enumerate(entries, start=1):
        if entry["end"] > len(text):
            raise DataError(
                f"{where}, entry {number_} ends at character {entry['end']}, and the completion has {len(text)}; "
                "allowed are characters of the completion; fix that row"
            )
        weights[entry["start"] : entry["end"]] = [entry["weight"]] * (entry["end"] - entry["start"])
    if text and not any(weights):
        raise DataError(
            f"{where} gives every character the weight 0; allowed is at least one above; leave the row out, or give it "
            "a weight"
        )
    found = [1.0] * count
    for index, span in enumerate(characters):
        if span is not None and span[0] < span[1]:
            own = range(max(0, span[0]), min(span[1], len(text)))
            solid = [i for i in own if not text[i].isspace()] or list(own)
            found[index] = math.fsum(weights[i] for i in solid) / len(solid) if solid else 1.0
    return found
