"""Data sets as the files of other tools name them: on the hub, local files, or files of a loader of `datasets`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankray.config.sections import is_jinja
from rankray.data.files import is_file_source
from rankray.data.templates import SIGNS, can_name
from rankray.errors import ConfigError
from rankray.setup.foreign import Draft

LOADERS = ("json", "csv", "parquet", "text", "arrow")
"""Names of the loaders of `datasets`, which stand in the place of a data set's where its files are named."""
TEMPLATE = "conversations are rendered by the tokenizer's own chat template, or by data.chat_template"
"""What is said of a chat template that another tool knows by its name."""


def source(name: Any, config: Any, split: Any) -> str:
    """Return a data source: a file as it is, a dataset of the hub with configuration and split."""
    text = str(name)
    if is_file_source(text):
        return text
    return ":".join(str(part) for part in (text, config, split) if part)


def listed(given: Any) -> list[dict[str, Any]]:
    """Return data sets as mappings, however few of them and whatever else they are written as."""
    items = given if isinstance(given, list) else [given]
    return [dict(item) if isinstance(item, Mapping) else {"path": str(item)} for item in items]


def of_file(draft: Draft, path: str, split: Any, where: str) -> dict[str, Any]:
    """Return the entry for a local file; of a split only its first rows can be asked for, others get a note."""
    if not is_file_source(path) or split in (None, "train"):
        return {"path": path}
    first = re.fullmatch(r"train\[:(\d+)\]", str(split))
    if first:
        return {"path": path, "max_examples": int(first[1])}
    draft.note(where, split, "all rows of a file are read; write the part that is wanted to a file of its own")
    return {"path": path}


def is_a_part(item: Mapping[str, Any]) -> bool:
    """Whether a data set is some rows of a local file, which nothing here can name."""
    files = [str(each) for each in (item.get("path"), item.get("data_files")) if isinstance(each, str)]
    return "[" in str(item.get("split") or "") and any(map(is_file_source, files))


def entries(draft: Draft, item: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    """Return the entries of `data.train` for a data set that a mapping names; keys that it takes are left out after.

    Args:
        draft: for notes.
        item: `path`, `name`, `split`, `data_files`, `revision`, as `datasets.load_dataset` takes them.
        where: how a note begins, such as `datasets`.
    """
    split = item.get("split") or "train"
    files, path = item.get("data_files"), str(item.get("path"))
    if isinstance(files, Mapping):
        others = [name for name in files if name != split]
        if others:
            draft.note(f"{where}.data_files", others, f"other splits than {split!r} are not trained on")
        files = files.get(split)
    named = files if isinstance(files, list) else [files] if files else []
    local = [str(name) for name in named if is_file_source(str(name))]
    if local and (path in LOADERS or path == "None" or len(local) == 1):
        made = [of_file(draft, name, split, f"{where}.split") for name in local]
    else:
        if named:
            draft.note(f"{where}.data_files", files, "all files of the split are taken")
        made = [of_file(draft, source(path, item.get("name"), split), split, f"{where}.split")]
    if item.get("data_dir"):
        draft.note(f"{where}.data_dir", item["data_dir"], "all directories of the data set are taken")
    if item.get("revision") and not is_file_source(made[0]["path"]):
        made = [{**entry, "revision": str(item["revision"])} for entry in made]
    return made


def leftovers(draft: Draft, item: Mapping[str, Any], known: set[str], where: str) -> None:
    """Say what of a data set's mapping has no counterpart.

    Args:
        draft: for notes.
        item: the mapping.
        known: keys that were taken over, or need no word.
        where: how a note begins.
    """
    for name, value in item.items():
        if name not in known and value not in (None, False, "", [], {}):
            draft.note(f"{where}.{name}", value, "has no counterpart here")


def column_field(column: str, where: str) -> str:
    """Return a column's field in a template.

    Args:
        column: its name.
        where: how an error begins, such as `datasets.type`.

    Raises:
        ConfigError: a name that no template can have.
    """
    if can_name(column):
        return f"{{{column}}}"
    raise ConfigError(
        f"import: {where}: the column {column!r} cannot stand in a template; allowed are names without {SIGNS} and "
        "without a question mark at their end; rename the column"
    )


def chat_template(draft: Draft, name: str, given: Any, base: Path) -> None:
    """Take over a chat template that is a Jinja text or a file, or lies in a model's directory; else say so.

    Args:
        draft: the configuration in the making.
        name: what the other tool calls it.
        given: what it says; None for nothing.
        base: what relative paths are relative to.
    """
    if given is None:
        return
    text = str(given)
    places = [] if is_jinja(text) else [base / text, base / text / "chat_template.jinja"]
    if is_jinja(text):
        draft.set("data.chat_template", text)
    elif found := next((place for place in places if place.is_file()), None):
        draft.set("data.chat_template", str(found.absolute()))
    else:
        draft.note(name, given, "no file of this name is here; give its text in data.chat_template")
