"""Which part of a rendered conversation is the assistant's, for any chat template, or a refusal.

A template is a program, so nothing about its text can be assumed. What is used instead is what it renders for the
conversation's beginnings. An assistant turn begins where the rendering of all turns before it, with the generation
prompt, ends or first differs; it ends with the text that the template writes for it as the last turn. A turn that
begins the conversation is looked for as the template writes it after a user's: so what precedes it (a BOS token, a
system turn of the template's own, the assistant's header) is not trained on there either. Some templates rewrite
earlier turns (Qwen3 leaves the thinking out of them): a turn's text may then lack its beginning, but never its content.
Where this does not hold, the template's own `{% generation %}` markers decide, and the token that ends the turn is
added where the markers leave it out. Where there are none, the conversation is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rankray.data.chat import THINKING, Example, Turn, for_template
from rankray.data.left_out import Unusable
from rankray.errors import DataError, ModelError, first_line, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Span = tuple[int, int]
ASKS: Turn = {"role": "user", "content": "?"}
"""What is put before an assistant's turn that begins a conversation, to see how a template opens it."""
OTHER = "\ufffd"
"""A text that no template begins a turn with."""
HEAD = 32
"""How many characters are looked for before a whole text is compared."""
NO_TEMPLATE = (
    "has no chat template; needed is one; set data.chat_template (plain suits any model), take a chat model, or use "
    "data.prompt and data.completion"
)


def rendered(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    turns: Sequence[Turn],
    place: str,
    opens: bool = False,
    where: str = "data.messages",
) -> str:
    """Return the text that the chat template makes of turns of an example; nothing for no turns.

    Args:
        tokenizer: the model's.
        example: a conversation, with its tools, and its own template where it has one.
        turns: some of its turns, from the first on.
        place: of the row, for errors.
        opens: add what opens the assistant's answer.
        where: how errors begin.

    Raises:
        Unusable: the template refuses the turns.
        ModelError: there is no chat template.
    """
    if not (example.template or tokenizer.chat_template):
        raise ModelError(f"{where}: the model's tokenizer {NO_TEMPLATE}")
    if not turns:
        return ""
    try:
        return str(
            tokenizer.apply_chat_template(
                for_template(turns),
                tools=example.tools,
                chat_template=example.template,
                add_generation_prompt=opens,
                tokenize=False,
            )
        )
    except Exception as error:
        first = first_line(error)
        roles = ", ".join(turn["role"] for turn in turns)
        raise Unusable(
            f"{where}: {place}: the model's chat template refuses the turns {roles} ({first}); allowed are "
            "conversations that it renders; change or leave out such rows, or take another model",
            f"refused by the model's chat template ({shown(first)})",
        ) from error


def trained_spans(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    whole: str,
    tokens_before: Callable[[int], int],
    place: str,
    wanted: Sequence[int],
) -> list[Span]:
    """Return the tokens of some assistant turns, as (first, one after the last), in order.

    Args:
        tokenizer: the model's.
        example: a conversation.
        whole: its rendering.
        tokens_before: from a position in `whole` to how many of its tokens lie before.
        place: of the row, for errors.
        wanted: which turns, in order; the last turn of all reaches to the end of the text.

    Raises:
        DataError: the template does not show where the assistant's turns are.
    """
    turns = example.turns
    found = [_text_span(tokenizer, example, whole, index, place) for index in wanted]
    texts = [span for span in found if span is not None]
    if len(texts) == len(found) and all(one[1] <= other[0] for one, other in pairwise(texts)):
        return [(tokens_before(begin), tokens_before(end)) for begin, end in texts]
    marked = _marked_spans(tokenizer, example)
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if len(marked) != len(answers):
        found_marks = f"has {len(marked) or 'no'} generation markers for {len(answers)} assistant turns"
        marks = found_marks if tokenizer.is_fast else "generation markers need a fast tokenizer"
        raise DataError(
            f"data.messages: {place}: the model's chat template does not show which tokens are the assistant's: it "
            f"writes a turn differently once others follow, and {marks}; allowed are templates that "
            "show it; take a template with {% generation %} around the assistant's turns"
            + (", or data.train_on: last" if len(wanted) > 1 else "")
        )
    return [span for span, index in zip(marked, answers, strict=True) if index in wanted]


def common_text(left: str, right: str) -> int:
    """Return how many leading characters two texts share."""
    if right.startswith(left):
        return len(left)
    pairs = zip(left, right, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def _text_span(tokenizer: PreTrainedTokenizerBase, example: Example, whole: str, index: int, place: str) -> Span | None:
    """Return where the turn at an index lies in the whole text, or None where its renderings do not show it."""
    turns = example.turns
    if index == 0:
        return _first_span(tokenizer, example, whole, place)
    before = rendered(tokenizer, example, turns[:index], place, opens=True)
    begin = common_text(before, whole)
    if begin < len(before):
        begin = _opened(tokenizer, example, index, before, begin, place)
    if not _covers(tokenizer, example, turns[:index], before, begin, place):
        return None
    if index == len(turns) - 1:
        return begin, len(whole)
    after = rendered(tokenizer, example, turns[: index + 1], place)
    if not after.startswith(whole[:begin]):
        return None
    length = _length(tokenizer, turns[index], after[begin:], whole, begin)
    return None if length is None else (begin, begin + length)


def _opened(
    tokenizer: PreTrainedTokenizerBase, example: Example, index: int, before: str, shared: int, place: str
) -> int:
    """Return where a turn begins whose generation prompt ends otherwise, as one does that opens thinking.

    What the turn says may begin as the rest of that prompt does: `<b>` beside `<think>`. Another text in its place
    shows how much of the prompt the turn has whatever it says.
    """
    turn = example.turns[index]
    thought, tag, _ = turn["content"].rpartition("</think>")
    other: Turn = {"role": turn["role"], "content": f"{thought}{tag}{OTHER}"}
    other |= {field: turn[field] for field in THINKING if field in turn}
    try:
        text = rendered(tokenizer, example, [*example.turns[:index], other, *example.turns[index + 1 :]], place)
    except Unusable as error:
        logger.debug("%s: turn %d cannot be rendered with another text: %s", place, index + 1, error)
        return shared
    begin = min(shared, common_text(before, text))
    return begin if _covers(tokenizer, example, example.turns[:index], before, begin, place) else shared


def _length(tokenizer: PreTrainedTokenizerBase, turn: Turn, own: str, whole: str, begin: int) -> int | None:
    """Return how many characters of the whole text a turn has from a place on, or None where that is not seen.

    Args:
        tokenizer: the model's.
        turn: the turn.
        own: its text where it is the last one. Once others follow, its beginning may be left out (thinking), and an EOS
            token that ends the whole.
        whole: the text of all turns.
        begin: where the turn begins in it.
    """
    parts = [part for part in _parts(turn) if part in own]  # some templates leave out the text beside a call
    if not parts and _parts(turn) and turn.get("weight") != 0.0:
        return None
    for text in dict.fromkeys((own, own.removesuffix(tokenizer.eos_token or ""))):
        skipped = _ahead(text, whole, begin)
        if skipped is not None and all(part in text[skipped:] for part in parts):
            return len(text) - skipped
    return None


def _ahead(text: str, whole: str, begin: int) -> int | None:
    """Return how much of a text's beginning the whole text leaves out where the rest of it stands; None: all of it."""
    head = whole[begin : begin + len(text)][:HEAD]
    found = text.find(head) if head else -1
    while found >= 0:
        if whole.startswith(text[found:], begin):
            return found
        found = text.find(head, found + 1)
    last = range(max(0, len(text) - HEAD), len(text))
    return next((i for i in last if whole.startswith(text[i:], begin)), None)


def _first_span(tokenizer: PreTrainedTokenizerBase, example: Example, whole: str, place: str) -> Span | None:
    """Return where the first turn, the assistant's, lies, or None: as the template writes it after a user's turn."""
    turn = example.turns[0]
    asked = Example([ASKS, *example.turns[:-1]], example.turns[-1:], example.tools, None, example.template)
    try:
        after = rendered(tokenizer, asked, asked.turns, place)
        span = _text_span(tokenizer, asked, after, 1, place)
    except Unusable as error:
        logger.debug("%s: the first turn cannot be rendered after a user's: %s", place, error)
        return None
    if span is None:
        return None
    asks = rendered(tokenizer, asked, [ASKS], place)
    header, own = after[common_text(asks, after) : span[0]], after[span[0] : span[1]]
    begin = whole.find(header) + len(header) if header else whole.find(own)
    if begin < len(header):  # it is nowhere
        return None
    length = _length(tokenizer, turn, own, whole, begin)
    if length is None:
        return None
    return begin, len(whole) if len(example.turns) == 1 else begin + length


def _covers(
    tokenizer: PreTrainedTokenizerBase, example: Example, turns: list[Turn], before: str, shared: int, place: str
) -> bool:
    """Whether the shared beginning of a text and of the rendering of the turns before contains these turns."""
    if shared == len(before):
        return True
    bare = rendered(tokenizer, example, turns, place)
    parts = _parts(turns[-1]) if turns else []
    begin = bare.rfind(parts[-1]) if parts else -1
    return shared >= (begin + len(parts[-1]) if begin >= 0 else len(bare))


def _parts(turn: Turn) -> list[str]:
    """Return the texts that a template writes for a turn whatever it leaves out: the content after any thinking."""
    content = turn["content"].rsplit("</think>", 1)[-1].strip()
    names = [call["function"]["name"] for call in turn.get("tool_calls", [])]
    return [part for part in (content, *names) if part]


def _marked_spans(tokenizer: PreTrainedTokenizerBase, example: Example) -> list[Span]:
    """Return the tokens between the template's generation markers, and the special token after each; none without."""
    template = str(example.template or tokenizer.chat_template)
    if not tokenizer.is_fast or ("generation %}" not in template and "generation -%}" not in template):
        return []
    made: Any = tokenizer.apply_chat_template(
        for_template(example.turns),
        tools=example.tools,
        chat_template=example.template,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False, "return_offsets_mapping": True},
    )
    mask, ids, special = list(made["assistant_masks"]), list(made["input_ids"]), set(tokenizer.all_special_ids)
    for index, (one, other) in enumerate(pairwise(made["offset_mapping"]), start=1):
        if one[0] < one[1] and tuple(one) == tuple(other):  # of the tokens of one character, only one may be marked
            mask[index] = mask[index] or mask[index - 1]
    spans: list[Span] = []
    begin = None
    for index, inside in enumerate([*mask, 0]):
        if inside and begin is None:
            begin = index
        elif not inside and begin is not None:
            closes = index < len(ids) and ids[index] in special and ids[index - 1] not in special
            spans.append((begin, index + closes))
            begin = None
    return spans
