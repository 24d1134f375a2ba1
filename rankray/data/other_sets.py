"""Data sets that are not for fine-tuning, by their columns: each is refused by name, with how it can be used.

What they are for: pairs of a better and a worse answer for DPO and reward models, answers marked as good or bad for
KTO, steps marked as right or wrong, and prompts alone for reinforcement learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from rankray.data import guess
from rankray.data.files import place_of
from rankray.data.parse import Row
from rankray.errors import DataError, in_yaml, listed

MARKS = ("label", "kto_tag")
"""Columns that mark an answer as good or bad: TRL's name, and LLaMA-Factory's."""


def is_preference(columns: Sequence[str]) -> bool:
    """Whether these are the columns of pairs of a better and a worse answer."""
    return {"chosen", "rejected"} <= set(columns)


def refuse_other_sets(rows: Sequence[Row], columns: Sequence[str], source: str) -> None:
    """Refuse rows of a known form that is not for fine-tuning.

    Args:
        rows: of a data set.
        columns: of all of them.
        source: how an error begins.

    Raises:
        DataError: they are of such a form; says which, and what to do.
    """
    if is_preference(columns):
        raise DataError(
            f"{source}: a preference set (columns {listed(columns)}), not one for fine-tuning; allowed are prompts "
            f"with one answer; {_better_answer(rows, columns)}, or give another file"
        )
    if {"prompt", "completions", "labels"} <= set(columns):
        raise DataError(
            f"{source}: a set of marked steps (prompt, completions, labels), not one for fine-tuning; allowed are "
            "prompts with one answer; join the right steps of each row as completion, or give another file"
        )
    if guess.is_segments(rows):
        raise DataError(
            f"{source}: texts in segments with marks (segments, Axolotl's input_output), no form that is read here; "
            "allowed is a prompt with a completion; join the segments before the first with label: true as prompt and "
            "the others as completion, as docs/coming-from.md shows"
        )
    for mark in MARKS:
        if mark in columns and set(columns) & {"completion", "output", "messages", "conversations"}:
            _refuse_disliked(rows, mark, source)
    if set(columns) == {"prompt"}:
        raise DataError(
            f"{source}: prompts without answers (columns {listed(columns)}), not a set for fine-tuning; allowed are "
            "prompts with completions; add a column completion, or give another file"
        )


def _better_answer(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Return how the better answers of a preference set can be trained on."""
    turn = guess.first_turn(rows, "chosen")
    speaker = None if turn is None else turn.get("role") or turn.get("from")
    if turn is not None and speaker not in ("assistant", "gpt"):
        return "name the better answer with data.messages: chosen"
    asked = next((name for name in ("prompt", *guess.QUESTIONS) if name in columns), "")
    if turn is None and guess.is_text(rows, "chosen"):
        templates = guess.templates_of([{**row, "completion": row.get("chosen")} for row in rows])
        prompt = templates["prompt"] if asked and templates else ""
        return f'name the better answer with data.prompt: {in_yaml(prompt)} and data.completion: "{{chosen}}"'
    before = asked or next(iter(guess.turn_columns(rows)), "the question")
    return f"write prompt ({before}) and completion (chosen) as the two columns"


def _refuse_disliked(rows: Sequence[Row], mark: str, source: str) -> None:
    """Refuse answers that are marked as bad."""
    bad = [index for index, row in enumerate(rows) if row.get(mark) is False]
    if bad and all(isinstance(row.get(mark), bool) for row in rows):
        raise DataError(
            f"{source}: {place_of(rows, bad[0])} has an answer that is marked as bad ({mark}: false, as for KTO, "
            f"{len(bad)} of {len(rows)} rows); allowed are answers to learn from; leave the others out with "
            f"data.where: {{{mark}: true}}, or name data.format to train on all"
        )
