"""Templates over the columns of a row: text with `{column}` fields.

Literal braces are doubled. A field is the plain name of a column: no attributes, indices, conversions or format
specifications, so a template can read nothing but the row. `{column?}` is empty where a row has no value; new lines
before the name, as in `{\\ncolumn?}`, are written only where it has one. Standard library only.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from string import Formatter
from typing import Any, NamedTuple

from rankray.data.left_out import is_missing
from rankray.errors import DataError

logger = logging.getLogger(__name__)

SIGNS = "{}.[]!:"
"""Signs that a field cannot have."""
RENAME = f"rename a column whose name has one of {' '.join(SIGNS)} or ends with ?"


class Field(NamedTuple):
    """A column in a template.

    Attributes:
        column: its name.
        optional: whether a row may have no value there; nothing is written then.
        before: new lines that are written before a value.
    """

    column: str
    optional: bool
    before: str = ""

    def text(self, row: dict[str, Any]) -> str:
        """Return what is written for a row; a field that is not optional has a value."""
        value = row.get(self.column) if self.optional else row[self.column]
        if self.optional and (is_missing(value) or value == ""):
            return ""
        return self.before + str(value)


Part = tuple[str, Field | None]
"""Text, and the field after it."""


def parse(template: str, where: str) -> list[Part]:
    """Return the parts of a template.

    Args:
        template: the text.
        where: how an error begins.

    Raises:
        DataError: braces without a partner, or a field that is no column's plain name.
    """
    try:
        parts = [(text, name, spec, conversion) for text, name, spec, conversion in Formatter().parse(template)]
    except ValueError as error:
        raise DataError(
            f"{where}: {template!r} is not a template ({error}); fields are {{column}}, literal braces are doubled; "
            f"fix the braces, or {RENAME}"
        ) from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion or any(sign in name for sign in ".[]")):
            raise DataError(
                f"{where}: the field {{{name}}} of {template!r} is not a column name; allowed is {{column}}, or "
                "{column?} where it may be empty; literal braces are doubled; "
                f"correct it, or {RENAME}"
            )
    return [(text, None if name is None else _field(name)) for text, name, _, _ in parts]


def _field(name: str) -> Field:
    if not name.endswith("?"):
        return Field(name, optional=False)
    column = name[:-1].lstrip("\n")
    return Field(column, True, name[: len(name) - 1 - len(column)])


def fields(parts: Sequence[Part]) -> list[Field]:
    """Return the fields of a template, each once."""
    return list(dict.fromkeys(field for _, field in parts if field is not None))


def columns_in(*templates: str) -> list[str]:
    """Return the columns that templates name; none of one that is malformed."""
    return [field.column for template in templates for field in _fields_in(template)]


def optional_columns(template: str) -> list[str]:
    """Return the columns that a template names as ones that may be empty; none of one that is malformed."""
    return [field.column for field in _fields_in(template) if field.optional]


def _fields_in(template: str) -> list[Field]:
    try:
        return fields(parse(template, ""))
    except DataError as error:
        logger.debug("%s", error)
        return []


def render(parts: Sequence[Part], row: dict[str, Any]) -> str:
    """Return the text of a row, which has a value for each field that is not optional."""
    return "".join(text + (field.text(row) if field is not None else "") for text, field in parts)


def can_name(column: Any) -> bool:
    """Whether a template can name a column: no name with signs of templates, none that is no text or empty."""
    is_plain = isinstance(column, str) and column != "" and not column.endswith("?")
    return is_plain and not any(sign in column for sign in SIGNS)
