"""Which form the rows of a data set have, and the example of each row: recognised by columns, and said.

name                columns                                         example
`columns`           as `data.prompt` and `data.completion` name     the two templates
`prompt_completion` prompt, completion: texts or lists of turns     as they are
`messages`          messages (or the column `data.messages` names)  a conversation of {role, content}; any one column of
                                                                    turns is recognised
`sharegpt`          conversations: {from, value}; system, tools     a conversation
`alpaca`            instruction, output; input (or context),        Stanford's template; turns where there is a history
                    system, history
`text`              text                                            the whole text is trained on

A new form is one entry of `FORMATS`; `data.format` allows its keys, `auto` and `columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rankray.config.sections import DataSection
from rankray.data import guess
from rankray.data.chat import Example, Turn, conversation, from_json, short
from rankray.data.left_out import Unusable, is_missing
from rankray.data.other_sets import refuse_other_sets
from rankray.data.parse import TEXTUAL, Row
from rankray.data.templates import columns_in
from rankray.errors import DataError, in_yaml, listed

ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
ALPACA_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
"""Source: the training code of Stanford Alpaca."""
ALPACA_TURNS = (
    "{% for turn in messages %}{% if turn.role == 'system' %}{{ turn.content + '\n\n' }}"
    "{% elif turn.role == 'user' %}{{ '### Instruction:\n' + turn.content + '\n\n### Response:\n' }}"
    "{% else %}{{ turn.content + (eos_token or '') + ('' if loop.last else '\n\n') }}{% endif %}{% endfor %}"
)
"""Stanford's text of a conversation, for rows with a history; each answer ends with the EOS token."""
CHAT_COLUMNS = ("messages", "conversations", "conversation")
ANSWERS = ("output", "response", "answer")
BESIDE_TURNS = ("tools", "functions", "system", "system_prompt")
MEDIA = ("images", "image", "videos", "video", "audios", "audio")


class Reading(NamedTuple):
    """What a reader of rows needs to know beside the row.

    Attributes:
        where: how an error about a column begins.
        source: how an error about the file begins.
        messages: the column with the turns.
        chat: whether texts become turns (`data.chat`).
    """

    where: str
    source: str
    messages: str
    chat: bool = False


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
    refuse_other_sets(rows, columns, source)
    if {"prompt", "completion"} <= set(columns):
        return "prompt_completion"
    for column in CHAT_COLUMNS:
        if column in columns:
            return "sharegpt" if _first(rows, column, "from") else "messages"
    if "instruction" in columns and any(answer in columns for answer in ANSWERS):
        return "alpaca"
    if "text" in columns:
        return "text"
    turns = guess.turn_columns(rows)
    if len(turns) == 1 and turns != ["prompt"]:
        return "sharegpt" if _first(rows, turns[0], "from") else "messages"
    if ("prompt" in columns or "completion" in columns) and not turns and guess.templates_of(rows) is None:
        return "columns"  # half of the default templates: the error names the missing column and the nearest
    raise DataError(f"{source}: {_unknown(rows, columns, turns)}")


def _unknown(rows: Sequence[Row], columns: list[str], turns: list[str]) -> str:
    found = guess.templates_of(rows)
    if turns:
        what = "columns of turns" if len(turns) > 1 else "a column of turns without answers"
        return (
            f"{what} ({listed(turns)}) and no completion; allowed is a conversation with the assistant's turns; name "
            "the column with data.messages"
        )
    nested = guess.nested_column(rows)
    if found is None and nested is not None:
        return (
            f"no known format has the columns {listed(columns)}, and {nested[0]!r} holds {nested[1]}; allowed are "
            "lists of {role, content} or {from, value}, or columns of text; convert it, and name the column of turns "
            "with data.messages, or those of text with data.prompt and data.completion"
        )
    templates = found or {"prompt": "{COLUMN}\n", "completion": "{COLUMN}"}
    hint = " and ".join(f"data.{name}: {in_yaml(text)}" for name, text in templates.items())
    return (
        f"no known format has the columns {listed(columns) or 'of an empty row'}; recognised are prompt and "
        f"completion, messages, conversations, instruction and output, text; write {hint}"
    )


def unused_columns(form: str, rows: Sequence[Row], data: DataSection) -> list[str]:
    """Return the columns with values that nothing of an example is made from."""
    answer = next((name for name in ANSWERS if any(row.get(name) is not None for row in rows)), ANSWERS[0])
    has_input = any("input" in row for row in rows)
    used = {
        "columns": columns_in(data.prompt, data.completion),
        "prompt_completion": ["prompt", "completion", "tools"],
        "messages": [chat_column(rows, data), *BESIDE_TURNS],
        "sharegpt": [chat_column(rows, data), *BESIDE_TURNS],
        "alpaca": ["instruction", "input" if has_input else "context", answer, "system", "system_prompt", "history"],
        "text": ["text"],
    }[form]
    known = {*used, data.weight_column, data.token_weights, *(data.where or {})}
    names = list(dict.fromkeys(name for row in rows for name in row if row[name] not in (None, "", [])))
    return [name for name in names if name and name not in known]  # an index that pandas has written has no name


def example_of(form: str, row: Row, place: str, reading: Reading) -> Example:
    """Return the example of one row in a form other than `columns`.

    Raises:
        Unusable: it has, and there is nothing to train on.
        DataError: the row does not have that form; says which row and what is allowed.
    """
    return FORMATS[form](row, place, reading)


def chat_column(rows: Sequence[Row], data: DataSection) -> str:
    """Return the column that holds the turns: the one `data.messages` names, else the first usual one there is."""
    if data.messages is not None:
        return data.messages
    columns = {column for row in rows for column in row}
    named = next((column for column in CHAT_COLUMNS if column in columns), None)
    return named or next(iter(guess.turn_columns(rows)), "messages")


def _prompt_completion(row: Row, place: str, reading: Reading) -> Example:
    prompt, completion = _needed(row, "prompt", place, reading), _needed(row, "completion", place, reading)
    if isinstance(prompt, list) or isinstance(completion, list):
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        after = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        if not after:
            raise Unusable(
                f"{reading.source}: {place} has an empty completion; allowed is one turn; add it", "with no answer"
            )
        conversation(after, reading.source, place)  # an answer in the prompt alone is none
        return conversation([*before, *after], reading.source, place, row.get("tools"))
    asked, answer = _text_of(prompt, "prompt", place, reading), _text_of(completion, "completion", place, reading)
    found = with_text(asked, answer, f"{reading.source}: {place}")
    if isinstance(found, Unusable):
        raise found
    return as_turns(asked, answer) if reading.chat else found


def with_text(prompt: str, completion: str, here: str) -> Example | Unusable:
    """Return the example of two texts, or why there is none: both are empty."""
    if prompt.strip() or completion.strip():
        return Example(prompt, completion)
    return Unusable(f"{here} has an empty text; needed is some; remove it", "with an empty text")


def as_turns(prompt: str, completion: str) -> Example:
    """Return two texts as a conversation; without a prompt, of one turn."""
    asked: list[Turn] = [{"role": "user", "content": prompt}] if prompt else []
    return Example(asked, [{"role": "assistant", "content": completion}])


def _messages(row: Row, place: str, reading: Reading) -> Example:
    _refuse_media(row, place, reading)
    turns = row.get(reading.messages)
    own = row.get("tools")
    tools = own if own and not is_missing(own) else _as_tools(row.get("functions"))
    return conversation(turns, reading.where, place, tools, _system(row, place, reading))


def _system(row: Row, place: str, reading: Reading) -> str:
    """Return the system prompt that stands beside turns or an instruction; an empty text where there is none."""
    named = (name for name in ("system", "system_prompt") if row.get(name) and not is_missing(row[name]))
    column = next(named, None)
    return "" if column is None else _text_of(row[column], column, place, reading)


def _as_tools(functions: Any) -> Any:
    """Return OpenAI's first form of tools in its present one."""
    if not isinstance(functions, list):
        return functions
    return [{"type": "function", "function": each} if isinstance(each, dict) else each for each in functions]


def _alpaca(row: Row, place: str, reading: Reading) -> Example:
    """Return Stanford's text, turns in its form where the row has a history, or turns alone with `data.chat`."""
    _refuse_media(row, place, reading)
    instruction = _needed_text(row, "instruction", place, reading)
    column = next(
        (a for a in ANSWERS if not is_missing(row.get(a))), next((a for a in ANSWERS if a in row), ANSWERS[0])
    )
    answer = _needed_text(row, column, place, reading)
    name = "input" if "input" in row else "context"
    given = "" if is_missing(row.get(name)) else _text_of(row[name], name, place, reading)
    system = _system(row, place, reading)
    earlier = _history(row.get("history"), f"{reading.source}: {place}")
    preamble = system or (ALPACA_WITH_INPUT if given else ALPACA_WITHOUT_INPUT)
    before = preamble if not reading.chat else system
    middle = ("\n" if reading.chat else "\n\n### Input:\n") + given if given else ""
    if not (earlier or reading.chat):
        return Example(f"{preamble}\n\n### Instruction:\n{instruction}{middle}\n\n### Response:\n", answer)
    turns = [*earlier, {"role": "user", "content": instruction + middle}]
    turns = [{"role": "system", "content": before}, *turns] if before else turns
    return Example(turns, [{"role": "assistant", "content": answer}], template=None if reading.chat else ALPACA_TURNS)


def _history(given: Any, here: str) -> list[Turn]:
    """Return the turns of a history of [question, answer] pairs, as LLaMA-Factory takes it."""
    pairs = from_json(given) if isinstance(given, str) and given.strip() else given
    if not pairs or is_missing(pairs):
        return []
    if not isinstance(pairs, list | tuple):
        raise DataError(f"{here} has the history {short(pairs)}; allowed are pairs [question, answer]; fix that row")
    turns: list[Turn] = []
    for number, pair in enumerate(pairs, start=1):
        if isinstance(pair, list | tuple) and len(pair) == 2 and any(text is None for text in pair):
            raise Unusable(
                f"{here} has a history whose entry {number} is {short(pair)}; allowed are two texts; fix that row",
                "with a turn of the history without text",
            )
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(
                f"{here} has a history whose entry {number} is {short(pair)}; allowed are pairs [question, answer]; "
                "fix that row"
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def _text(row: Row, place: str, reading: Reading) -> Example:
    if reading.chat:
        raise DataError(
            f"data.chat: {place} is plain text, which has no turns; allowed are prompts with completions; leave "
            "data.chat out, or name the columns with data.prompt and data.completion"
        )
    found = with_text("", _needed_text(row, "text", place, reading), f"{reading.source}: {place}")
    if isinstance(found, Unusable):
        raise found
    return found


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
    if is_missing(value):
        raise Unusable(
            f"{reading.source}: {place} has no value in column {column!r} (columns: {listed(row)}); every row "
            "needs one; fill or remove such rows, or name the columns with data.prompt and data.completion",
            f"with no value in column {column!r}",
        )
    return value


def _needed_text(row: Row, column: str, place: str, reading: Reading) -> str:
    return _text_of(_needed(row, column, place, reading), column, place, reading)


def _text_of(value: Any, column: str, place: str, reading: Reading) -> str:
    """Return a value as text.

    Raises:
        DataError: it has none of its own: a list, a mapping, bytes or another object.
    """
    if not isinstance(value, TEXTUAL):
        raise DataError(
            f"{reading.source}: {place}: column {column!r} holds a {type(value).__name__}: {short(value)}; allowed is "
            "text, a number, true or false, a date; make a text of it, or name chat messages with data.messages"
        )
    return str(value)


def _refuse_media(row: Row, place: str, reading: Reading) -> None:
    for column in MEDIA:
        if row.get(column) and not is_missing(row[column]):
            raise DataError(
                f"{reading.source}: {place} has {column}: {short(row[column])}; allowed is text; leave out rows "
                f"with {column}"
            )


def _first(rows: Sequence[Row], column: str, key: str) -> bool:
    """Whether the first turn found in a column has a key."""
    turn = guess.first_turn(rows, column)
    return turn is not None and turn.get(key) is not None
