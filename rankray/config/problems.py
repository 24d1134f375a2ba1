"""What pydantic finds wrong with a configuration, as lines that name the field: what was given; allowed; what to do."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rankray.config.fields import all_fields, keys_of
from rankray.config.other_names import did_you_mean
from rankray.errors import describe_invalid, listed, shown

SECTION_TYPES = {"model_type", "model_attributes_type", "dict_type"}
"""What pydantic calls it when a value stands where a section belongs."""
LOW_HIGH = (("low", "min", "lower"), ("high", "max", "upper"))
"""What the ends of a range are called by those who do not write `{float: [low, high]}`."""
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
        given, rule = shown(items[0]["input"]), _documentation(path)
        if path == "name":
            rule = "letters, digits, dot, dash and underscore, a letter or a digit first, at most 100; correct the name"
        return key, f"{path}: got {given}; allowed: {rule}"
    given, kinds = items[0].get("input"), {item["type"] for item in items}
    if len(key) == 2 and key[0] == "space" and kinds == {"dict_type"}:
        return key, f"{path}: got {shown(given)}; {space_entry_form(given)}"
    if kinds & SECTION_TYPES and (names := keys_of(path)):
        return key, f"{path}: got {shown(given)}; allowed: a section with {listed(names)}; {_as_section(path, given)}"
    siblings = keys_of(".".join(map(str, key[:-1])))
    if "extra_forbidden" in kinds and key:
        hint = did_you_mean(str(key[-1]), siblings)
        return key, f"{path}: unknown key{hint}; allowed: {', '.join(sorted(siblings))}; correct the key"
    text = describe_invalid(items, siblings)
    named = text.split(":")[0]
    parts = named.split(".")
    if not key and any(".".join(parts[:end]) in all_fields() for end in range(1, len(parts) + 1)):
        return tuple(parts), text  # a rule about several sections names the field itself, or what a free one holds
    return key, f"{path}: {text}"


def space_entry_form(given: Any) -> str:
    """Return what an entry of `space:` may be, and how to write what seems to be meant, as `allowed: ...; write ...`.

    Args:
        given: what stands there, which is no mapping with one of `float`, `int` and `choice`.
    """
    allowed = "allowed: {float: [low, high]} or {int: [low, high]}, each with log: true or a step, or {choice: [...]}"
    log, bare = "", isinstance(given, list)
    if isinstance(given, Mapping):
        low, high = (next((given[key] for key in keys if key in given), None) for keys in LOW_HIGH)
        lists = [(key, value) for key, value in given.items() if isinstance(value, list)]
        log = ", log: true" if given.get("log") is True or any("log" in str(key) for key, _ in lists) else ""
        given = [low, high] if low is not None else lists[0][1] if len(lists) == 1 else None
    if not isinstance(given, list) or not given:
        fixed = "; a fixed value stands in its own section" if isinstance(given, str | int | float) else ""
        return f"{allowed}{fixed}; correct the entry"
    whole, numbers = ({type(value) for value in given} <= kinds for kinds in ({int}, {int, float}))
    inside = listed([_as_yaml(value) for value in given])
    if len(given) == 2 and numbers:
        values = f", or {{choice: [{inside}]}} for these two alone" if bare else ""
        return f"{allowed}; write {{{'int' if whole else 'float'}: [{inside}]{log}}}{values}"
    return f"{allowed}; write {{choice: [{inside}]}}"


def _as_yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return value if isinstance(value, str) else shown(value)


def _as_section(path: str, given: Any) -> str:
    """Return how to write a section in place of the value that was given."""
    required = [name for name in keys_of(path) if (field := all_fields().get(f"{path}.{name}")) and field.is_required()]
    if required and isinstance(given, str):
        return f"write {path.rpartition('.')[2]}: {{{required[0]}: {given}}}"
    return f"write its fields under {path}:"


def _documentation(path: str) -> str:
    field = all_fields().get(path)
    return (field.description if field and field.description else "this key is required").rstrip(".")
