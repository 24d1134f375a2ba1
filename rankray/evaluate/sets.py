"""Further sets to evaluate on (`evaluate.also`): their rows, their choices, and what `check` finds wrong.

Needs no torch. A set is the held-out split of a configuration of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rankray.config import LoadedConfig
from rankray.config.evaluation import AlsoSection
from rankray.config.schema import Config
from rankray.config.sections import DataSection
from rankray.data.examples import Places
from rankray.data.files import hub_parts, is_file_source
from rankray.data.left_out import LeftOut
from rankray.data.parse import Row
from rankray.data.sources import Source
from rankray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def as_config(section: AlsoSection, config: Config) -> Config:
    """Return the configuration whose held-out split is this set."""
    completion = section.completion if not section.choices else "{" + section.label + "}"
    data = DataSection(
        train=config.data.train,
        eval=section.data,
        prompt=section.prompt,
        completion=completion,
        format="columns" if section.messages is None else "auto",
        messages=section.messages,
        chat=section.chat,
        revision=_revision(section, config),
        max_length=config.data.max_length,
    )
    evaluate = config.evaluate.model_copy(update={"max_examples": section.max_examples, "answer": section.answer})
    return config.model_copy(update={"data": data, "evaluate": evaluate})


def _revision(section: AlsoSection, config: Config) -> str | None:
    """Return the set's own revision where the configuration names it; else that of no other dataset."""
    given = config.data.revision
    if is_file_source(section.data) or not isinstance(given, Mapping):
        return None
    return given.get(hub_parts(section.data, "evaluate.also")[0])


def read_choices(row: Row, section: AlsoSection, where: str) -> tuple[list[str], int]:
    """Return a question's choices, and the index of the right one.

    Raises:
        DataError: there are no choices, or the label is none of them.
    """
    held = row.get(str(section.choices))
    labels: list[str] = []
    if isinstance(held, dict):
        labels, held = [str(each) for each in held.get("label") or held.get("labels") or []], held.get("text")
    if not isinstance(held, Sequence) or isinstance(held, str) or len(held) < 2:
        raise DataError(
            f"{where}: column {section.choices!r} holds {str(held)[:60]!r}; allowed is a list of choices, or "
            "{text: [...], label: [...]}; name the right column in choices"
        )
    choices = [str(choice) for choice in held]
    given = row.get(section.label)
    labels = labels or [chr(ord("A") + place) for place in range(len(choices))]
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return choices, given
    for names in (labels, choices, [str(place) for place in range(len(choices))]):
        if str(given) in names:
            return choices, names.index(str(given))
    raise DataError(
        f"{where}: column {section.label!r} holds {given!r}; allowed is an index below {len(choices)}, a label "
        f"({', '.join(labels)}) or one of the choices; name the right column in label"
    )


def check_sets(
    loaded: LoadedConfig, tokenizer: PreTrainedTokenizerBase | None = None
) -> tuple[bool, dict[str, LeftOut]]:
    """Read the local sets as an evaluation will.

    Args:
        loaded: the configuration.
        tokenizer: the model's, whose chat template may refuse conversations; None: nobody looks at that.

    Returns:
        Whether one of them has chats for a template, and field -> the rows with nothing to measure.

    Raises:
        DataError: a set cannot be read, a template does not fit, or a row has no choices or no right one.
    """
    has_chats = False
    left_out: dict[str, LeftOut] = {}
    for name, section in loaded.config.evaluate.also.items():
        where = f"evaluate.also.{name}"
        if not is_file_source(section.data):
            hub_parts(section.data, f"{loaded.where(where)}: {where}.data")
            continue
        config = as_config(section, loaded.config)
        names = ("data", "prompt", "label" if section.choices else "completion", "messages")
        places = Places(*(f"{loaded.where(f'{where}.{field}')}: {where}.{field}" for field in names))
        source = Source("eval", config.data, places=places, tokenizer=tokenizer)
        for placed in islice(source.placed(), section.max_examples):
            has_chats |= placed.example.is_chat and placed.example.template is None
            if section.choices:
                read_choices(placed.row, section, f"{loaded.where(where)}: {where}: {placed.place}")
        left_out[f"{where}.data"] = source.left_out
    return has_chats, left_out
