"""What a chat template makes of conversations: it refuses some, and leaves out of others what it knows nothing of.

Tools, tool calls and thinking are fields beside a turn's text, and a template that does not know them writes nothing
for them. Whether it does is seen by rendering a conversation with and without the field. An answer that consists of
such a field alone is nothing to train on then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rankray.data.chat import THINKING, Example, Turn, short, trained_turns
from rankray.data.left_out import Unusable
from rankray.data.turns import OTHER, rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARTS = {"tools": (), "tool_calls": ("tool_calls",), "thinking": THINKING}
"""What a template may leave out -> the fields of a turn that hold it; tools are the row's own."""
TELLING = 8
"""Characters of an answer from which on it stands in a text by no chance; `:` is in every header."""


def fitted(tokenizer: PreTrainedTokenizerBase, example: Example, place: str, where: str) -> Example | Unusable:
    """Return an example as its chat template lets it be trained on, or why nothing can be.

    Nothing can be where the template refuses the turns, or writes nothing for an answer, as for one that is a tool call
    or thinking alone. An earlier turn of this kind gets the weight 0: without its text there is nothing in it to learn.
    Texts are not rendered, and without a chat template every example stays as it is.

    Args:
        tokenizer: the model's.
        example: a conversation, or texts.
        place: of the row, for errors.
        where: how errors begin.
    """
    if not example.is_chat or not (example.template or tokenizer.chat_template):
        return example
    try:
        text = rendered(tokenizer, example, example.turns, place, where=where)
        rendered(tokenizer, example, example.asked, place, opens=True, where=where)
    except Unusable as error:
        return error
    turns = example.turns
    for index in trained_turns(turns, every=True):
        held = [part for part, fields in PARTS.items() if any(turns[index].get(field) for field in fields)]
        fields = [field for part in held for field in PARTS[part]]
        content = turns[index]["content"].strip()
        if not (content or held) or (len(content) >= TELLING and content in text):
            continue
        if not _writes_nothing(tokenizer, example, turns[: index + 1], fields, place, OTHER if content else ""):
            continue
        if index == len(turns) - 1:
            return _unwritten(turns[-1], held, f"{where}: {place}, turn {index + 1}")
        turns[index] = {**turns[index], "weight": 0.0}
    return Example(turns[:-1], turns[-1:], example.tools, example.given, example.template)


def _unwritten(turn: Turn, held: Sequence[str], here: str) -> Unusable:
    """Return why nothing can be trained on where the template writes nothing for the answer."""
    what = "a tool call" if "tool_calls" in held else "thinking"
    if turn["content"].strip():
        return Unusable(
            f"{here} is {short(turn['content'])}, and the model's chat template leaves it out, as one does that knows "
            "contents in parts alone; allowed are turns that it writes; take another template with data.chat_template",
            "whose answer the model's chat template leaves out",
        )
    return Unusable(
        f"{here} is {what} alone, for which the model's chat template writes nothing; allowed are turns that it "
        "writes; take a template that knows them with data.chat_template, or write them as the content of the turn",
        f"whose answer is {what}, which the model's chat template leaves out",
    )


def left_out_parts(
    tokenizer: PreTrainedTokenizerBase, example: Example, place: str, skip: Collection[str] = ()
) -> dict[str, bool]:
    """Return which of `PARTS`, and turns of which other roles, a conversation has that a template may know nothing of.

    Each with whether the chat template leaves it out of the text. Thinking is looked for where it is last: many
    templates drop it from earlier turns. Turns of a role are called `turns of ROLE`.

    Args:
        tokenizer: the model's.
        example: a conversation.
        place: of the row, for errors.
        skip: what is not to be looked for.
    """
    found = {}
    if example.tools and "tools" not in skip:
        bare = Example(example.prompt, example.completion, None, None, example.template)
        found["tools"] = _same(tokenizer, (example, example.turns), (bare, example.turns), place)
    for part, fields in PARTS.items():
        last = max((i for i, turn in enumerate(example.turns) if any(turn.get(each) for each in fields)), default=None)
        if last is not None and part not in skip:
            found[part] = _writes_nothing(tokenizer, example, example.turns[: last + 1], fields, place)
    for role in dict.fromkeys(turn["role"] for turn in example.turns):
        if role not in ("user", "assistant") and (part := f"turns of {role}") not in skip:
            others = [turn for turn in example.turns if turn["role"] != role]
            found[part] = _same(tokenizer, (example, example.turns), (example, others), place)
    return found


def _writes_nothing(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    turns: Sequence[Turn],
    fields: Sequence[str],
    place: str,
    text: str = "",
) -> bool:
    """Whether the text of some turns is the same without some fields of the last, and with another text as content."""
    bare = {key: value for key, value in turns[-1].items() if key not in fields}
    bare["content"] = text or bare["content"]
    return _same(tokenizer, (example, turns), (example, [*turns[:-1], bare]), place)


def _same(
    tokenizer: PreTrainedTokenizerBase,
    one: tuple[Example, Sequence[Turn]],
    other: tuple[Example, Sequence[Turn]],
    place: str,
) -> bool:
    """Whether two conversations have one text; what a template refuses for lack of something, it knows."""
    try:
        return rendered(tokenizer, *one, place) == rendered(tokenizer, *other, place)
    except Unusable:
        return False
