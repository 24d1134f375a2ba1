"""Templates for rows of no known form: what their columns' names say is asked, and what answered. Needs no library.

A guess is never taken in silence: `rankray init` writes it into the file and says so, an error of `check` proposes it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rankray.data.parse import Row
from rankray.data.templates import can_name

logger = logging.getLogger(__name__)

QUESTIONS = (
    "prompt", "question", "query", "problem", "instruction", "input", "source", "article", "document", "dialogue",
    "passage", "context",
)  # fmt: skip
ANSWERS = (
    "completion", "solution", "response", "output", "answer", "target", "summary", "highlights", "canonical_solution",
)  # fmt: skip
"""Where there are several, such as a solution and its final answer, the first is what to learn."""
BEFORE = ("system", "system_prompt", "context")
"""What stands before the question where there is such a column, too."""
AFTER = ("input",)
LABELS = ("label", "labels", "class", "category", "sentiment", "topic", "intent", "emotion")
"""What a text may be classified as; such a column has few values."""
CHOICES = ("choices", "options", "endings")
"""Columns of lists, or mappings, from which an answer may be chosen; also as their text."""
OPTION = re.compile(r"(choice|option|opt|op|ending|answer)?[ _-]?[ab]|(choice|option|opt|ending|answer)[ _-]?[01]")
"""Columns of one choice each, in lower case."""
TEXTS = ("content", "body", "document", "passage", "article", "story", "code")
"""Columns that are trained on as a whole where nothing is asked."""
LOOKED_AT = 1000


def columns_of(rows: Sequence[Row]) -> list[str]:
    """Return the columns of the first rows, in order."""
    return list(dict.fromkeys(name for row in rows[:LOOKED_AT] for name in row))


def templates_of(rows: Sequence[Row]) -> dict[str, str] | None:
    """Return `prompt` and `completion` over the columns of some rows, or None where the names say nothing."""
    named = _named(rows)
    answer = next((named[name] for name in ANSWERS if name in named), None)
    question = next((named[name] for name in QUESTIONS if name in named and named[name] != answer), None)
    if answer is None:
        text = next((named[name] for name in TEXTS if name in named), None)
        is_only = text is not None and question in (None, text)
        return {"prompt": "", "completion": f"{{{text}}}"} if is_only else None
    if question is None or _points(rows, answer):
        return None
    before = [_field(rows, named[name]) + "\n\n" for name in BEFORE if name in named and named[name] != question]
    after = [
        _field(rows, named[name]) + "\n" for name in AFTER if name in named and named[name] not in (question, answer)
    ]
    return {"prompt": "".join([*before, f"{{{question}}}\n", *after]), "completion": f"{{{answer}}}"}


def _points(rows: Sequence[Row], answer: str) -> bool:
    """Whether an answer is the number or the letter of one of several choices, which no template can show."""
    shown = any(_is_choice(name.strip().lower(), _first(rows, name)) for name in columns_of(rows) if name)
    values = [row.get(answer) for row in rows[:LOOKED_AT]]
    return shown and all(isinstance(value, int) or (isinstance(value, str) and len(value) <= 1) for value in values)


def _is_choice(name: str, value: Any) -> bool:
    """Whether a column holds what an answer may be chosen from: several choices, or the words of one."""
    if name in CHOICES:
        return isinstance(value, list | Mapping) or (isinstance(value, str) and value.lstrip()[:1] in ("[", "{"))
    return OPTION.fullmatch(name) is not None and isinstance(value, str) and any(map(str.isalpha, value))


def _named(rows: Sequence[Row]) -> dict[str, str]:
    """Return the columns of text that a template can name, by their names in lower case, without spaces around them."""
    return {name.strip().lower(): name for name in columns_of(rows) if can_name(name) and is_text(rows, name)}


def answer_to_text(rows: Sequence[Row]) -> dict[str, str] | None:
    """Return templates over `text` and a column that answers it, such as one of a few labels; None without one."""
    named = _named(rows)
    answer = next((named[name] for name in (*LABELS, *ANSWERS) if name in named), None)
    if "text" not in named or answer is None:
        return None
    values = [repr(row.get(answer)) for row in rows[:LOOKED_AT]]
    if answer.lower() in LABELS and len(set(values)) > max(2, len(values) // 3):
        return None
    return {"prompt": f"{{{named['text']}}}\n", "completion": f"{{{answer}}}"}


def text_alone(unused: Sequence[str]) -> str:
    """Return what to write where rows of the form text have an answer that is not used, as a note; else ""."""
    answer = next((name for name in unused if name.lower() in (*LABELS, *ANSWERS)), None)
    if answer is None:
        return ""
    return (
        f"format text learns the column text alone, and not {answer}; where that is the answer, write "
        f'data.prompt: "{{text}}\\n" and data.completion: "{{{answer}}}", else data.format: text'
    )


def turn_columns(rows: Sequence[Row]) -> list[str]:
    """Return the columns that hold chat turns: lists of mappings with `role` or `from`, or such lists as JSON."""
    return [name for name in columns_of(rows) if first_turn(rows, name) is not None]


def first_turn(rows: Sequence[Row], column: str) -> Mapping[str, Any] | None:
    """Return the first turn that a column holds, or None where it holds something else."""
    value = _first(rows, column)
    if isinstance(value, str) and re.match(r"\s*\[\s*\{", value):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            logger.debug("column %s begins as JSON and is none: %s", column, error)
            return None
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        turn = value[0]
        return turn if isinstance(turn.get("role"), str) or isinstance(turn.get("from"), str) else None
    return None


def is_segments(rows: Sequence[Row]) -> bool:
    """Whether the rows are Axolotl's `input_output`: segments of text, each marked as trained on or not."""
    value = _first(rows, "segments")
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, Mapping) and {"label", "text"} <= set(first)


def nested_column(rows: Sequence[Row]) -> tuple[str, str] | None:
    """Return a column that holds no text, and what it holds; None where there is none."""
    for name in columns_of(rows):
        value = _first(rows, name)
        if isinstance(value, list | Mapping):
            return name, "a mapping" if isinstance(value, Mapping) else f"a list of {type(value[0]).__name__}"
    return None


def _first(rows: Sequence[Row], column: str) -> Any:
    values = (row.get(column) for row in rows[:LOOKED_AT])
    return next((value for value in values if value is not None and value != "" and value != []), None)


def is_text(rows: Sequence[Row], column: str) -> bool:
    """Whether a column holds text, or numbers."""
    return isinstance(_first(rows, column), str | int | float)


def _field(rows: Sequence[Row], column: str) -> str:
    """Return a field that may be empty where some row has no value."""
    return f"{{{column}}}" if all(row.get(column) for row in rows) else f"{{{column}?}}"
