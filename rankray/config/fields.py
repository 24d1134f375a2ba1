"""Every field of the configuration under its dotted path: what may be set, searched, explained and documented."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from rankray.config.schema import SEARCHABLE_SECTIONS, Config


def all_fields() -> dict[str, FieldInfo]:
    """Return dotted path -> field, in the order of the schema; sections are not fields."""
    return _fields_of(Config, "")


def limits(path: str) -> tuple[float | None, float | None]:
    """Return the least and the greatest number that a field itself allows, None where there is none or it is no field.

    A bound that is not itself allowed, as 0 is not for a learning rate, is none.
    """
    field = all_fields().get(path)
    if field is None:
        return None, None
    given: Any = {"value": (field.annotation, field)}
    schema = create_model("One", **given).model_json_schema()["properties"]["value"]
    for each in (schema, *schema.get("anyOf", ())):
        if each.get("type") in ("number", "integer"):
            return each.get("minimum"), each.get("maximum")
    return None, None


def searchable_paths() -> list[str]:
    """Return every dotted path a space may vary; the fields of `train.sft` are not among them."""
    return [path for path in all_fields() if path.split(".")[0] in SEARCHABLE_SECTIONS]


def keys_of(section: str) -> list[str]:
    """Return the keys that the section at a dotted path may have, "" being the whole file; [] if it is no section.

    In a path of `all_fields` a `*` stands for any name, as that of a set in `evaluate.also`.
    """
    given = section.split(".") if section else []
    paths = [path.split(".") for path in all_fields()]
    fits = [
        path
        for path in paths
        if len(path) > len(given) and all(a in (b, "*") for a, b in zip(path, given, strict=False))
    ]
    return list(dict.fromkeys(path[len(given)] for path in fits if path[len(given)] != "*"))


def _fields_of(model: type[BaseModel], prefix: str) -> dict[str, FieldInfo]:
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        section = _section_in(field.annotation)
        if section is None:
            found[prefix + name] = field
        else:
            each = "*." if typing.get_origin(field.annotation) is dict else ""
            found.update(_fields_of(section, f"{prefix}{name}.{each}"))
    return found


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section that a field is, or may be; None for a plain field."""
    for option in (annotation, *typing.get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None
