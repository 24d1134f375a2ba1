"""What pydantic finds wrong with a configuration, as lines that name the field: what was given; allowed; what to do."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import ValidationError

from rankray.config.fields import all_fields, keys_of
from rankray.errors import describe_invalid, shown

Key = tuple[str | int, ...]
"""Where a value stands: the keys and list indices on the way to it."""


def problems_of(error: ValidationError) -> list[tuple[Key, str]]:
    """Return the problems as (where the value stands, `path: what was given; what is allowed; what to do`)."""
    by_key: dict[Key, list[Any]] = {}
    for item in error.errors():
        by_key.setdefault(_field_key(item["loc"]), []).append(item)
    return [_problem(key, items) for key, items in by_key.items()]


def _field_key(loc: Key) -> Key:
    """Return where the value stands, without the names pydantic gives to the types that a field may have."""
    fields = all_fields()
    for end in range(1, len(loc) + 1):
        field = fields.get(".".join(map(str, loc[:end])))
        if field is not None and _is_union(field.annotation):
            return loc[:end]
        if field is not None and any(_is_union(item) for item in typing.get_args(field.annotation)):
            return loc[: end + 1]  # an entry of a list
    return loc


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _problem(key: Key, items: list[Any]) -> tuple[Key, str]:
    path, kind = ".".join(map(str, key)), items[0]["type"]
    if kind == "missing":
        return key, f"{path}: missing; {_documentation(path)}"
    if kind == "string_pattern_mismatch":
        return key, f"{path}: got {shown(items[0]['input'])}; {_documentation(path)}"
    text = describe_invalid(items, keys_of(".".join(map(str, key[:-1]))))
    named = text.split(":")[0]
    if not key and named in all_fields():  # a rule about several sections names the field itself
        return tuple(named.split(".")), text
    return key, f"{path}: {text}"


def _documentation(path: str) -> str:
    field = all_fields().get(path)
    return (field.description if field and field.description else "this key is required").rstrip(".")
