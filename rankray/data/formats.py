"""Which form the rows of a data set have, and the example of each row: recognised by columns, and said.

name                columns                                         example
`columns`           as `data.prompt` and `data.completion` name     the two templates
`prompt_completion` prompt, completion: texts or lists of turns     as they are
`messages`          messages (or the column `data.messages` names)  a conversation of {role, content}
`sharegpt`          conversations: {from, value}; system, tools     a conversation
`alpaca`            instruction, output; input, system              Stanford's template
`text`              text                                            the whole text is trained on

A new form is one entry of `FORMATS`; `data.format` allows its keys, `auto` and `columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rankray.config.sections import DataSection
from rankray.data.chat import Example, conversation, short
from rankray.data.parse import Row
from rankray.errors import DataError, listed

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
"""Source: the training code of Stanford Alpaca."""
CHAT_COLUMNS = ("messages", "conversations", "conversation")
ANSWERS = ("output", "response", "answer")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


class Reading(NamedTuple):
    """What a reader of rows needs to know beside the row.

    Attributes:
        where: how an error about a column begins.
        source: how an error about the file begins.
        messages: the column with the turns.
    """

    where: str
    source: str
    messages: str


def recognise(rows: Sequence[Row], data: DataSection, source: str = "data.train") -> str:
    """Return the form of the rows: the one `data.format` names, or for `auto` the one their columns show.

    Templates, or a column of messages, that the file gives decide before the columns do.

    Raises:
        DataError: `auto` and no known form; says which columns there are and what to write.
    """
    if data.format != "auto":
        return data.format
    if data.messages is not None:
        return "sharegpt" if _first(rows, data.messages, "from") else "messages"
    if (data.prompt, data.completion) != ("{prompt}", "{completion}"):
        return "columns"
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if {"prompt", "completion"} <= set(columns):
        return "prompt_completion"
    for column in CHAT_COLUMNS:
        if column in columns:
            return "sharegpt" if _first(rows, column, "from") else "messages"
    if "instruction" in columns and any(answer in columns for answer in ANSWERS):
        return "alpaca"
    if "text" in columns:
        return "text"
    if "prompt" in columns or "completion" in columns:
        return "columns"  # half of the default templates: the error names the missing column and the nearest
    raise DataError(f"{source}: {_unknown(columns)}")


def _unknown(columns: list[str]) -> str:
    if {"chosen", "rejected"} <= set(columns):
        return (
            f"a preference set (columns {listed(columns)}), not one for fine-tuning; allowed are prompts with one "
            "answer; name the answer with data.completion: '{chosen}', or give another file"
        )
    question = next((name for name in columns if name.lower() in ("question", "query", "input", "problem")), None)
    answer = next((n for n in columns if n.lower() in ("answer", "output", "response", "solution", "target")), None)
    hint = f"data.prompt: '{{{question or 'COLUMN'}}}\\n' and data.completion: '{{{answer or 'COLUMN'}}}'"
    return (
        f"no known format has the columns {listed(columns) or 'of an empty row'}; recognised are prompt and "
        f"completion, messages, conversations, instruction and output, text; write {hint}"
    )


def example_of(form: str, row: Row, place: str, reading: Reading) -> Example:
    """Return the example of one row in a form other than `columns`.

    Raises:
        DataError: the row does not have that form; says which row and what is allowed.
    """
    return FORMATS[form](row, place, reading)


def chat_column(rows: Sequence[Row], data: DataSection) -> str:
    """Return the column that holds the turns: the one `data.messages` names, else the first usual one there is."""
    if data.messages is not None:
        return data.messages
    columns = {column for row in rows for column in row}
    return next((column for column in CHAT_COLUMNS if column in columns), "messages")


def _prompt_completion(row: Row, place: str, reading: Reading) -> Example:
    prompt, completion = _needed(row, "prompt", place, reading), _needed(row, "completion", place, reading)
    if isinstance(prompt, str) and isinstance(completion, str):
        return Example(prompt, completion)
    if isinstance(prompt, list) or isinstance(completion, list):
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        after = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        if not after:
            raise DataError(f"{reading.source}: {place} has an empty completion; allowed is one turn; add it")
        return conversation([*before, *after], reading.source, place, row.get("tools"))
    return Example(str(prompt), str(completion))


def _messages(row: Row, place: str, reading: Reading) -> Example:
    _refuse_media(row, place, reading)
    turns = row.get(reading.messages)
    return conversation(turns, reading.where, place, row.get("tools"), row.get("system"))


def _alpaca(row: Row, place: str, reading: Reading) -> Example:
    _refuse_media(row, place, reading)
    if row.get("history"):
        raise DataError(
            f"{reading.source}: {place} has a history of earlier turns; allowed is one instruction with one "
            "output; convert the rows to messages"
        )
    instruction = _needed(row, "instruction", place, reading)
    answer = next((name for name in ANSWERS if row.get(name) is not None), ANSWERS[0])
    given = row.get("input")
    preamble = row.get("system") or (ALPACA_WITH_INPUT if given else ALPACA_WITHOUT_INPUT)
    middle = f"### Input:\n{given}\n\n" if given else ""
    prompt = f"{preamble}\n\n### Instruction:\n{instruction}\n\n{middle}### Response:\n"
    return Example(prompt, str(_needed(row, answer, place, reading)))


def _text(row: Row, place: str, reading: Reading) -> Example:
    return Example("", str(_needed(row, "text", place, reading)))


FORMATS: dict[str, Callable[[Row, str, Reading], Example]] = {
    "prompt_completion": _prompt_completion,
    "messages": _messages,
    "sharegpt": _messages,
    "alpaca": _alpaca,
    "text": _text,
}
"""Name of a form -> the example of a row in it."""


def _needed(row: Row, column: str, place: str, reading: Reading) -> Any:
    value = row.get(column)
    if value is None:
        raise DataError(
            f"{reading.source}: {place} has no value in column {column!r} (columns: {listed(row)}); every row "
            "needs one; fill or remove such rows, or name the columns with data.prompt and data.completion"
        )
    return value


def _refuse_media(row: Row, place: str, reading: Reading) -> None:
    for column in MEDIA:
        if row.get(column):
            raise DataError(
                f"{reading.source}: {place} has {column}: {short(row[column])}; allowed is text; leave out rows "
                f"with {column}"
            )


def _first(rows: Sequence[Row], column: str, key: str) -> bool:
    """Whether the first turn found in a column has a key."""
    for row in rows:
        turns = row.get(column)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return turns[0].get(key) is not None
    return False
