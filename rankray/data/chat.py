"""Chat turns as data sets write them, brought into one form: `role`, text as `content`, maybe `tool_calls`.

Known are OpenAI's and TRL's turns (`role`, `content`), ShareGPT's (`from`, `value`) and Gemini's (`role`, `parts`).
Content in parts is joined where all parts are text, and null content is empty where the turn calls tools. What has no
text form, such as an image, is refused by its name. Keys without a value, which tables add to every turn, are left out.
A conversation without an assistant turn, or with a turn that has no text, is `Unusable`. Standard library only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from rankray.data.left_out import Unusable, is_missing
from rankray.errors import DataError, listed, nearest, shown

logger = logging.getLogger(__name__)

Turn = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
}
"""Role or speaker in a data set -> role in a chat template."""
OWN_ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
"""Roles that chat templates know by these names."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of the parts of a content that are text."""
CALLS = ("function_call", "tool_call")
"""ShareGPT speakers whose value is a call as JSON: `{"name": ..., "arguments": {...}}`, or a list of such."""
TRAINED = ("train", "training", "loss")
"""Marks of a turn, true or false, that Axolotl (`train`, `training`) and ms-swift (`loss`) take; beside `weight`."""
THINKING = ("reasoning_content", "thinking", "reasoning")
"""Fields of a turn with what was thought before its text; transformers hands each to a chat template by every name."""
MOST_WEIGHT = 1_000_000
ALLOWED = "a list of {role, content} or {from, value} with an assistant turn"


class Given(NamedTuple):
    """The weights that the data give to an example in training (`rankray.data.weights`).

    Attributes:
        example: of all its tokens.
        tokens: within its completion: a number for each token, or mappings of start, end and weight; None: all 1.
        prompt: whether the prompt's tokens are trained on, too.
    """

    example: float = 1.0
    tokens: list[Any] | None = None
    prompt: bool = False


class Example(NamedTuple):
    """Prompt and completion: two texts, or for chat two lists of turns (the completion is one assistant turn).

    Attributes:
        prompt: what the model sees first.
        completion: what it should answer.
        tools: JSON schemas of the tools that a chat may call, for the chat template.
        given: weights from the data; None where every token that is trained on has weight 1.
        template: the chat template that the data set's form brings along; None takes the tokenizer's.
    """

    prompt: str | list[Turn]
    completion: str | list[Turn]
    tools: list[Any] | None = None
    given: Given | None = None
    template: str | None = None

    def weighted(self, given: Given) -> Example:
        """Return the same example with weights."""
        return self._replace(given=given)

    @property
    def is_chat(self) -> bool:
        """Whether it consists of turns, which a chat template renders."""
        return not isinstance(self.completion, str)

    @property
    def asked(self) -> list[Turn]:
        """The turns before the completion; none for texts."""
        return [] if isinstance(self.prompt, str) else self.prompt

    @property
    def answer(self) -> str:
        """The text of the completion; of a turn without text its tool calls or its thinking."""
        if isinstance(self.completion, str):
            return self.completion
        last = self.completion[-1]
        held = (last.get(field) for field in ("content", "tool_calls", *THINKING))
        return str(next((each for each in held if each), ""))

    @property
    def turns(self) -> list[Turn]:
        """All turns; none for texts."""
        return [] if isinstance(self.completion, str) else [*self.asked, *self.completion]


def conversation(value: Any, where: str, place: str, tools: Any = None, system: str | None = None) -> Example:
    """Return the example of a conversation: all up to its last trained assistant turn. Later turns are dropped.

    Args:
        value: the turns as the data set has them.
        where: how an error begins, such as `data.messages`.
        place: of the row, such as `train.jsonl:7`, for errors.
        tools: the row's tool schemas: a list, its JSON, or nothing.
        system: the row's system prompt, a text, which is put first where the turns have none.

    Raises:
        Unusable: no turns, none of the assistant that is trained on, or one without text.
        DataError: it is no list of turns, or a turn has content that is not text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value)
    if is_missing(value) or (isinstance(value, Sequence) and not value):
        raise Unusable(f"{where}: {place} has no turns; allowed is {ALLOWED}; add them", "with no turns")
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(t, Mapping) for t in value):
        raise DataError(f"{where}: {place} holds {short(value)}; allowed is {ALLOWED}; fix that row")
    turns = [_turn(turn, where, f"{place}, turn {number}") for number, turn in enumerate(value, start=1)]
    if system and not (turns and turns[0]["role"] in ("system", "developer")):
        turns.insert(0, {"role": "system", "content": system})
    last = max((i for i, turn in enumerate(turns) if is_trained(turn)), default=None)
    if last is None:
        raise _unanswered(turns, f"{where}: {place}")
    return Example(turns[:last], [turns[last]], _tools(tools, f"{where}: {place}"))


def _unanswered(turns: Sequence[Turn], here: str) -> Unusable:
    if any(turn["role"] == "assistant" for turn in turns):
        what, reason = "assistant turns of weight 0 alone", "with assistant turns of weight 0 alone"
    else:
        what, reason = f"no assistant turn (roles: {listed(t['role'] for t in turns)})", "with no assistant turn"
    return Unusable(f"{here} has {what}; allowed is {ALLOWED}; add one", reason)


def is_trained(turn: Turn) -> bool:
    """Whether a turn is the assistant's and not marked with weight 0, as OpenAI's files may mark it."""
    return turn["role"] == "assistant" and turn.get("weight") != 0


def trained_turns(turns: Sequence[Turn], every: bool) -> list[int]:
    """Return which turns are trained on: every one of the assistant but those of weight 0, or the last turn alone."""
    return [i for i, turn in enumerate(turns) if is_trained(turn) and (every or i == len(turns) - 1)]


def for_template(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns as a chat template takes them: without marks of the data set."""
    return [{key: value for key, value in turn.items() if key != "weight"} for turn in turns]


def short(value: Any) -> str:
    """Return a value's text for an error, at most 60 characters."""
    return shown(value, most=60)


def _turn(given: Mapping[str, Any], where: str, place: str) -> Turn:
    speaker = given.get("role") if given.get("role") is not None else given.get("from")
    content = next((given[key] for key in ("content", "value", "parts") if given.get(key) is not None), None)
    here = f"{where}: {place}"
    if not isinstance(speaker, str):
        raise DataError(f"{where}: {place} holds {short(dict(given))}; allowed is {ALLOWED}; fix that row")
    role = _role(speaker, "role" in given and given["role"] is not None, here)
    turn: Turn = {"role": role}
    marks = ("weight", *(mark for mark in TRAINED if mark != "loss" or given.get(mark) in (None, 0, 1)))
    kept = {"role", "from", "content", "value", "parts", "tool_calls", *marks}
    turn |= {key: value for key, value in given.items() if key not in kept and value is not None}
    calls = given.get("tool_calls") or _calls_in(speaker.lower(), content)
    if calls:
        turn["tool_calls"] = [_call(call, here) for call in _listed(calls, here)]
        content = None if not given.get("tool_calls") else content
    elif first_form := turn.pop("function_call", None):
        turn["tool_calls"] = [_call(first_form, here)]
    if content is None and not any(turn.get(field) for field in ("tool_calls", *THINKING)):
        raise Unusable(
            f"{here} holds {short(dict(given))}, which has no content; allowed is text, or tool calls in an "
            "assistant turn; fix that row",
            "with a turn without text",
        )
    turn["content"] = _text(content, here)
    if role == "assistant":
        turn |= _weight({mark: given[mark] for mark in marks if given.get(mark) is not None}, here)
    return turn


def _weight(marks: Mapping[str, Any], here: str) -> Turn:
    """Return an assistant turn's weight where its marks give one that is not 1; true is 1, false is 0.

    `loss` is a mark where it is true, false, 0 or 1; any other number may be one that was measured.
    """
    found = {mark: _number(mark, value, here) for mark, value in marks.items()}
    if len(set(found.values())) > 1:
        raise DataError(f"{here} has {short(dict(marks))}, which contradict each other; allowed is one of them; fix it")
    weight = next(iter(found.values()), 1.0)
    return {} if weight == 1.0 else {"weight": weight}


def _number(mark: str, value: Any, here: str) -> float:
    fits = isinstance(value, bool | int | float) and 0 <= value <= MOST_WEIGHT  # false for NaN
    if mark in TRAINED and not (fits and value in (0, 1)):
        raise DataError(f"{here} has {mark} {short(value)}; allowed: true, or false (not trained on); fix it")
    if not fits:
        raise DataError(
            f"{here} has {mark} {short(value)}; allowed: a number from 0 (not trained on) to {MOST_WEIGHT:,}; fix it"
        )
    return float(value)


def _role(speaker: str, is_role: bool, here: str) -> str:
    """Return the role for the chat template. A `role` that templates know, or of the user's own, stays as it is."""
    if is_role and speaker in OWN_ROLES:
        return speaker
    role = ROLES.get(speaker.lower())
    misspelt = get_close_matches(speaker, ROLES, cutoff=0.75)
    if role is None and (misspelt or not is_role or not speaker):
        raise DataError(
            f"{here} has the role {speaker!r}{nearest(speaker, ROLES)}; allowed: {', '.join(ROLES)}; fix it"
        )
    return role or speaker


def _text(content: Any, here: str) -> str:
    """Return content as text: as it is, or its text parts joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise DataError(f"{here} has content {short(content)}; allowed is text, or a list of text parts; fix that row")
    texts = []
    for part in content:
        kind = "text" if isinstance(part, str) else part.get("type", "text") if isinstance(part, Mapping) else None
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else None
        if kind not in TEXT_PARTS or not isinstance(text, str):
            without = f" without a text, {short(part)}" if kind in TEXT_PARTS else ""
            raise DataError(
                f"{here} has a content part of type {kind or short(part)!r}{without}; allowed are text parts; leave "
                "out rows with other parts"
            )
        texts.append(text)
    return "".join(texts)


def _calls_in(speaker: str, value: Any) -> Any:
    """Return the calls in the value of a ShareGPT speaker such as `function_call`, or None."""
    if speaker not in CALLS or not isinstance(value, str):
        return None
    found = from_json(value)
    return found if isinstance(found, dict | list) and found else None


def _listed(calls: Any, here: str) -> list[Any]:
    found = from_json(calls) if isinstance(calls, str) else calls
    if isinstance(found, Mapping):
        return [found]
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise DataError(f"{here} has tool_calls {short(calls)}; allowed is a list of calls; fix that row")
    return list(found)


def _call(given: Any, here: str) -> dict[str, Any]:
    """Return one call as chat templates take it: a function's name, and its arguments, as a mapping where they are."""
    call = from_json(given) if isinstance(given, str) else given
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(
            f"{here} has the tool call {short(given)}; allowed is {{function: {{name, arguments}}}}; fix that row"
        )
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        parsed = from_json(arguments)
        arguments = parsed if isinstance(parsed, dict) else arguments
    elif arguments is not None:
        arguments = _without_nulls(arguments)
    made: dict[str, Any] = {
        "type": "function",
        "function": {"name": function["name"], "arguments": {} if arguments is None else arguments},
    }
    return {"id": call["id"], **made} if isinstance(call, Mapping) and call.get("id") else made


def _tools(given: Any, here: str) -> list[Any] | None:
    found = from_json(given) if isinstance(given, str) and given.strip() else given
    if not found or is_missing(found):
        return None
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise DataError(
            f"{here} has tools {short(given)}; allowed is a list of JSON schemas, or its JSON; fix that row"
        )
    return [_without_nulls(tool) for tool in found]


def _without_nulls(tree: Any) -> Any:
    """Return mappings without the keys that have no value: a table gives each the keys of all, as TRL knows, too."""
    if isinstance(tree, Mapping):
        return {key: _without_nulls(value) for key, value in tree.items() if value is not None}
    return [_without_nulls(each) for each in tree] if isinstance(tree, list) else tree


def from_json(text: str) -> Any:
    """Return what a text holds as JSON, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        logger.debug("%s is not JSON, and stays text: %s", short(text), error)
        return text
