"""What `check` says about the rows of a split beside their lengths: names of files, answers, what a template drops.

Needs no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.config import Config, LoadedConfig, distributions
from rankray.config.evaluation import is_sampled
from rankray.config.sections import DataSection
from rankray.data.examples import Places, common_prefix
from rankray.data.files import HELD_OUT, TEST
from rankray.data.rendering import left_out_parts
from rankray.data.sources import Placed, entries_of
from rankray.data.templates import optional_columns
from rankray.errors import ConfigError, DataError, in_yaml, listed, nearest
from rankray.evaluate.answers import check_answer, is_function

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENISED = 100
"""How many prompts are compared with what they become before their answers."""
MOST_SHOWN = 8
"""How many characters are shown of a prompt's end."""
RENDERED = 100
"""How many conversations with tools, calls or thinking are rendered to see whether a template writes them."""
INSTEAD = {
    "tools": "write them into the system turn",
    "tool_calls": "write the calls as the content of their turns",
    "thinking": "write it into the content, as the model is to write it",
}
"""What may be left out of a text -> what can be done beside taking another template."""


def warnings_of_names(split: str, name: str, files: Sequence[Path], where: str) -> list[str]:
    """Return warnings about files and splits whose names say that they are for something else.

    Args:
        split: a field of `data`.
        name: of the file, the directory or the split of a hub dataset.
        files: that a directory or a pattern stands for.
        where: how a warning begins.
    """
    if split == "eval" and TEST.search(name.lower()):
        return [
            f"{where}: {name} is a test split by its name, and a search that selects on it has seen it; hold out a "
            "part of the training data instead"
        ]
    tails = {file: "/".join(file.parts[-2:]).lower() for file in files}
    held_out = [file for file, tail in tails.items() if HELD_OUT.search(tail) or TEST.search(tail)]
    if split == "train" and 0 < len(held_out) < len(files):
        return [
            f"{where}: takes in {listed(file.name for file in held_out)}, held-out data by name; name the files to "
            "train on alone"
        ]
    return []


def template_warnings(loaded: LoadedConfig) -> list[str]:
    """Return a line for each template that holds a backslash and an n where a new line will be meant."""
    found, written = [], loaded.config.model_dump(include={"data": True, "evaluate": {"also"}})
    searched = {path: list(dist.choices) for path, dist in distributions(loaded.config).items()}
    for path, text in (*_templates(written), *_templates({"space": searched})):
        if r"\n" in text:
            meant = in_yaml(text.replace(r"\n", "\n"))
            found.append(
                f"{loaded.where(path)}: {path}: {text} has a backslash and an n where it is no new line; where one is "
                f"meant, write {meant}, in double quotes"
            )
    return found


def _templates(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the templates, `prompt` and `completion`, of a part of a configuration, with their dotted paths."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        place = f"{path}.{key}" if path else str(key)
        if str(key).split(".")[-1] in ("prompt", "completion"):
            yield from (
                (place, text) for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
            )
        yield from _templates(value, place)


def _answers(config: Config) -> bool:
    """Whether answers are generated and compared with the references of the data."""
    names = config.evaluate.metrics
    return any(name == "accuracy" or is_sampled(name) for name in names) and config.evaluate.answer != "code"


def answer_warnings(split: str, examples: Sequence[Placed], loaded: LoadedConfig, where: str) -> list[str]:
    """Return warnings about empty answers: one teaches to say nothing, and is right for a model that does.

    Args:
        split: a field of `data`.
        examples: of the split, those that were looked at.
        loaded: the configuration.
        where: how an error begins.

    Raises:
        DataError: all are empty.
        ConfigError: `evaluate.answer` cannot be used with them.
    """
    if split != "train" and not _answers(loaded.config):
        return []
    texts = [placed.example.answer for placed in examples]
    empty = [index for index, text in enumerate(texts) if not text.strip()]
    if len(empty) == len(texts) and split != "train":
        raise DataError(
            f"{where}: none of the {len(texts)} rows has an answer; needed are answers to compare with; fix "
            "data.completion, or measure nll alone"
        )
    first = f" (first: {examples[empty[0]].place}); fill or remove them" if empty else ""
    found = [f"{where}: {len(empty)} of {len(texts)} rows have no answer{first}"] if empty else []
    if split == "train":
        return found
    how = loaded.config.evaluate.answer
    if is_function(how):
        return found  # on the Python path of the nodes, perhaps not of this machine
    try:
        check_answer(how, texts)
    except ConfigError as error:
        raise ConfigError(f"{loaded.where('evaluate.answer')}: {error}") from None
    return found


def optional_warnings(examples: Sequence[Placed], data: DataSection, places: Places) -> list[str]:
    """Return a line for each column that a template names as one that may be empty (`{column?}`), and that no row has.

    Args:
        examples: of a split.
        data: names the templates; an entry of a mixture may have its own.
        places: how a warning begins.
    """
    fields_of = [(places.prompt, data.prompt), (places.completion, data.completion)]
    for entry in entries_of(data.train):
        fields_of += [(places.source, own) for own in (entry.prompt, entry.completion) if own is not None]
    named = [(where, name) for where, text in fields_of for name in optional_columns(text)]
    if not named:
        return []
    columns = {name: None for placed in examples for name in placed.row}
    return [
        f"{where}: no row has a column {name!r}{nearest(name, columns)}, so {{{name}?}} is empty everywhere; columns "
        f"are {listed(columns)}; correct the name, or leave the field out"
        for where, name in dict.fromkeys(named)
        if name not in columns
    ]


def border_warnings(examples: Sequence[Placed], tokenizer: PreTrainedTokenizerBase | None, where: str) -> list[str]:
    """Return a line where the end of a prompt and the beginning of its completion become one token.

    Args:
        examples: of a split; the first `TOKENISED` prompts that are texts are looked at.
        tokenizer: the model's; None: nothing is said.
        where: how a warning begins.
    """
    texts = [
        (each, place) for each, _, place in examples if isinstance(each.prompt, str) and each.prompt and each.answer
    ]
    texts = texts[:TOKENISED]
    if tokenizer is None or not texts:
        return []
    prompts = tokenizer([str(e.prompt) for e, _ in texts], add_special_tokens=False, verbose=False)["input_ids"]
    wholes = tokenizer([f"{e.prompt}{e.completion}" for e, _ in texts], add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    pairs = zip(texts, prompts, wholes, strict=True)
    merged = [text for text, prompt, whole in pairs if common_prefix(prompt, whole) < len(prompt)]
    if not merged:
        return []
    example, first = merged[0]
    return [
        f"{where}: in {len(merged)} of the first {len(texts)} rows the end of the prompt "
        f"({str(example.prompt)[-MOST_SHOWN:]!r} in the first, {first}) and the beginning of the answer are one token, "
        "which is trained on as the answer's, and answers are generated from the prompt without that end; allowed is a "
        "prompt that ends where a token does; end it with a new line, or let a space at its end begin the answer"
    ]


def rendering_warnings(examples: Sequence[Placed], tokenizer: PreTrainedTokenizerBase | None, where: str) -> list[str]:
    """Return a line for tools, tool calls, thinking and turns of each role that the chat template leaves out.

    Args:
        examples: of a split, those that were looked at.
        tokenizer: the model's, with the chat template; None, or one without a template: nothing is said.
        where: how a warning begins.
    """
    if tokenizer is None:
        return []
    seen: dict[str, list[tuple[bool, str]]] = defaultdict(list)
    for example, _, place in examples:
        if example.is_chat and (example.template or tokenizer.chat_template):
            enough = [part for part, found in seen.items() if len(found) >= RENDERED]
            for part, is_left_out in left_out_parts(tokenizer, example, place, enough).items():
                seen[part].append((is_left_out, place))
    lines = []
    for part, found in seen.items():
        places = [place for is_left_out, place in found if is_left_out]
        if not places:
            continue
        lines.append(
            f"{where}: the chat template writes nothing for the {part} of {len(places)} of {len(found)} rows that have "
            f"some (first: {places[0]}), so they are neither seen nor trained on; allowed is a template that writes "
            f"them; take one with data.chat_template, or {INSTEAD.get(part, 'write their text into other turns')}"
        )
    return lines
