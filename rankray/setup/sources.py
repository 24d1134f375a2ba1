"""Which data `rankray init` trains on, which it holds out, and what their rows look like.

A directory or a pattern may stand for several files. Those named like held-out data (eval, validation, dev, ...) are
held out, one named test is for the last word, and files of different forms are a mixture. Where nothing is held out by
name, a tenth of the rows of each form is set aside, into new files.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from rankray.config.sections import DataSection
from rankray.data import guess
from rankray.data.examples import Places
from rankray.data.files import Rows, check_one_set, ending, files_of, hub_parts, is_file_source, row_parts
from rankray.data.formats import CHAT_COLUMNS, recognise, unused_columns
from rankray.data.left_out import LeftOut
from rankray.data.other_sets import MARKS, is_preference
from rankray.data.parse import LISTS
from rankray.data.sources import Source
from rankray.data.templates import RENAME, can_name
from rankray.errors import DataError, in_yaml, listed
from rankray.setup.held_out import halves_of_hub, set_aside, sorted_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MOST_SETTINGS = 1 << 20
"""A larger JSON file, in bytes, is data."""


@dataclass(frozen=True)
class Part:
    """One source of data.

    Attributes:
        path: file or hub dataset.
        form: what its rows look like (`rankray.data.formats`).
        templates: further fields of `data` that they need: templates, or the column of turns.
        left_out: its rows with nothing to train on, where it is a file that was read.
        blank: its rows, from 0, whose answer is empty.
    """

    path: str
    form: str
    templates: Mapping[str, str]
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)
    blank: tuple[int, ...] = field(default=(), compare=False)

    def section(self) -> DataSection:
        """Return a data section of this source alone."""
        return DataSection.model_validate(
            {"train": self.path, "eval": self.path, "format": self.form, "train_on": self.train_on, **self.templates}
        )

    @property
    def train_on(self) -> str:
        """Which turns are trained on: all of a conversation."""
        return "all" if self.form in ("messages", "sharegpt") else "last"


@dataclass(frozen=True)
class Chosen:
    """What is trained on, what is held out, and what is for the last word."""

    train: list[Part] = field(default_factory=list)
    held_out: list[Part] = field(default_factory=list)
    test: list[Part] = field(default_factory=list)

    def __add__(self, other: Chosen) -> Chosen:
        return Chosen(self.train + other.train, self.held_out + other.held_out, self.test + other.test)


Say = Callable[[str], None]
Templates = Mapping[str, str]


def choose(
    train: Sequence[str],
    held_out: Sequence[str],
    templates: Templates,
    directory: Path,
    made: list[Path],
    say: Say,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Chosen:
    """Return which sources a configuration names.

    Args:
        train: what the user gave to train on.
        held_out: what the user gave to measure on; empty sets some of the training data aside.
        templates: those that the user gave.
        directory: where files are written; they are added to `made`.
        made: files that were written.
        say: prints a line.
        tokenizer: of the model; no conversation is held out that its chat template refuses.

    Raises:
        DataError: the data cannot be read, or their rows are not understood.
    """
    if held_out:
        parts = [part for source in train for part in _parts(source, templates, say)]
        likes = [replace(parts[i % len(parts)], path=path) for i, path in enumerate(held_out)]
        held = [_parts(like.path, templates, say) if is_file_source(like.path) else [like] for like in likes]
        return Chosen(parts, [part for each in held for part in each])
    found = Chosen()
    for source in train:
        if is_file_source(source):
            found += _split_files(source, templates, directory, made, say, tokenizer)
        else:
            hub_parts(source, "init")
            whole = _hub_part(source, templates, say)
            train_half, held_half = (replace(whole, path=half) for half in halves_of_hub(source))
            found += Chosen([train_half], [held_half])
    return found


def _split_files(
    source: str,
    templates: Templates,
    directory: Path,
    made: list[Path],
    say: Say,
    tokenizer: PreTrainedTokenizerBase | None,
) -> Chosen:
    """Return the splits of one source of files, those that it names or ones that are written."""
    check_one_set(source, "init", splits=False)
    files = _with_data(files_of(source, "init"), templates, say)
    base = Path(source) if Path(source).is_dir() else files[0].parent
    train, held_out, test = sorted_out(files, base) if len(files) > 1 else (files, [], [])
    if not train:  # all files are called so
        train, held_out, test = files, [], []
    tested = [_part(file, templates, say) for file in test]
    if held_out:
        names = [file.relative_to(base) if file.is_relative_to(base) else file for file in held_out]
        say(f"held out by name: {listed(map(str, names))}")
        trained, measured = ([_part(file, templates, say) for file in each] for each in (train, held_out))
        return Chosen(trained, measured, tested)
    groups: dict[str, list[Part]] = {}
    for file in train:
        part = _part(file, templates, lambda line: None, tokenizer)
        groups.setdefault(repr((part.form, sorted(part.templates.items()))), []).append(part)
    found = Chosen(test=tested)
    for group in groups.values():
        own = [Path(part.path) for part in group]
        unusable = set(sum((part.left_out for part in group), LeftOut()).indices)
        begins = accumulate((part.left_out.rows for part in group), initial=0)
        blank = {begin + number for begin, part in zip(begins, group, strict=False) for number in part.blank}
        one, other, count = set_aside(own, directory, _stem(source, own, len(groups) > 1), unusable, blank)
        made += [one, other]
        say(f"set {count} example{'s' if count > 1 else ''} aside: {other} is held out, {one} is the rest")
        part = _part(one, templates, say)
        found += Chosen([part], [replace(part, path=str(other))])
    return found


def _stem(source: str, group: Sequence[Path], is_one_of_several: bool) -> str:
    """Return what the names of written files begin with: the file's name, or that of the directory."""
    first = group[0]
    own = first.name[: first.name.lower().rindex(ending(first))]
    if len(group) == 1:
        return own
    place = Path(source).resolve() if Path(source).is_dir() else first.parent.resolve()
    name = place.name or "data"
    return f"{name}.{own}" if is_one_of_several else name


def _parts(source: str, templates: Templates, say: Say) -> list[Part]:
    """Return a source as it is, or its files where they have different forms."""
    if not is_file_source(source):
        return [_hub_part(source, templates, say)]
    found = files_of(source, "init")
    files = _with_data(found, templates, say)
    parts = [_part(file, templates, say) for file in files]
    same = all((part.form, part.templates) == (parts[0].form, parts[0].templates) for part in parts)
    same = same and files == found  # a directory is read as a whole
    return [replace(parts[0], path=source)] if same else parts


def _with_data(files: list[Path], templates: Templates, say: Say) -> list[Path]:
    """Return files without those that hold settings, such as package.json, and say so; a single file is data."""
    if len(files) < 2:
        return files
    other = [file for file in files if _holds_settings(file, templates)]
    for file in other if len(other) < len(files) else ():
        say(f"{file}: left out: one JSON object that is no row of data, such as settings; give --data {file} if it is")
    return [file for file in files if file not in other] or files


def _holds_settings(file: Path, templates: Templates) -> bool:
    """Whether a file is one JSON object that holds neither rows nor one that is understood."""
    if ending(file) != ".json" or file.stat().st_size > MOST_SETTINGS:
        return False
    try:
        tree = json.loads(file.read_bytes())
    except ValueError as error:  # such as lines of JSON, or something that is compressed
        logger.debug("%s is not one JSON value: %s", file, error)
        return False
    if not isinstance(tree, dict) or any(isinstance(tree.get(key), list) for key in LISTS):
        return False
    values = list(tree.values())
    rows_by_key = len(values) > 1 and all(isinstance(each, dict) and each.keys() == values[0].keys() for each in values)
    if rows_by_key or (values and all(isinstance(each, list) for each in values)):
        return False  # written in a way that its error explains
    try:
        _part(file, templates, lambda line: None)
    except DataError as error:
        logger.debug("%s holds settings: %s", file, error)
        return True
    return False


def _hub_part(source: str, templates: Templates, say: Say) -> Part:
    if not templates:
        say(f"{source}: its columns are seen when it is loaded; look with `rankray preview`")
    return Part(source, "columns" if templates else "auto", dict(templates))


def _part(file: Path, given: Templates, say: Say, tokenizer: PreTrainedTokenizerBase | None = None) -> Part:
    """Look at a file: its form, and the templates or the column of turns where they must be named.

    Every row is read, so that an error names the file that the user gave, and not one that is written from it.
    """
    rows = next(row_parts(str(file), "init", guess.LOOKED_AT))
    part = _described(str(file), rows, given)
    data = part.section().model_copy(update={"streaming": True})
    source = Source("train", data, places=Places(source="init"), tokenizer=tokenizer)
    blank = [not placed.example.answer.strip() for placed in source.placed()]
    count, left = len(blank), set(source.left_out.indices)
    usable = (number for number in range(source.left_out.rows) if number not in left)
    unused = unused_columns(part.form, rows, part.section())
    more = "".join(f", {name}: {in_yaml(text)}" for name, text in part.templates.items())
    more += f"; columns not used: {listed(unused)}" if unused else ""
    if not given and part.templates.get("prompt") == "{text}\n":
        more += "; to learn the text itself: --prompt '' --completion '{text}'"
    say(f"{file}: {count} rows, format {part.form}{more}")
    empty = tuple(number for number, is_blank in zip(usable, blank, strict=False) if is_blank)
    return replace(part, left_out=source.left_out, blank=empty)


def _described(file: str, rows: Rows, given: Templates) -> Part:
    if given:
        return Part(file, "columns", dict(given))
    columns = guess.columns_of(rows)
    try:
        form = recognise(rows, Part(file, "auto", {}).section(), f"init: {file!r}")
    except DataError:
        templates = guess.templates_of(rows)
        is_other = is_preference(columns) or columns == ["prompt"] or any(mark in columns for mark in MARKS)
        if is_other or guess.turn_columns(rows) or (templates is None and guess.nested_column(rows) is not None):
            raise
        if templates is None:
            unnamed = [name for name in columns if not can_name(name)]
            raise DataError(
                f"init: {file!r} has the columns {listed(columns)}, and which is asked and which answered is not "
                "plain; allowed are templates over them; give --prompt '{COLUMN}\\n' --completion '{COLUMN}'"
                + (f"; no template can name {listed(map(repr, unnamed))}: {RENAME}" if unnamed else "")
            ) from None
        return Part(file, "columns", templates)
    if form == "text" and (templates := guess.answer_to_text(rows)):
        return Part(file, "columns", templates)
    turns = [] if any(column in columns for column in CHAT_COLUMNS) else guess.turn_columns(rows)
    return Part(file, form, {"messages": turns[0]} if form in ("messages", "sharegpt") and turns else {})
