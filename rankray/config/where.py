"""Which values of a configuration are paths, and what they are relative to. The rule itself is in `rankray.paths`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankray.config.sections import is_jinja
from rankray.errors import ConfigError
from rankray.paths import resolved, resolved_url

Resolve = Callable[[str, Path], str]


def _data(given: str, base: Path) -> str:
    """A data source is the name of a dataset on the hub, `id:config:split`, or a path."""
    if "://" in given:
        return given
    last = given.rpartition(":")[2]
    is_pattern = any(sign in given for sign in "*?")
    is_path = (
        given.startswith((".", "/", "~")) or is_pattern or "." in last or os.path.exists(os.path.join(base, given))
    )
    return resolved(given, base) if is_path else given


def _model(given: str, base: Path) -> str:
    """A model is a hub id, or a directory; a relative one that does not begin with a dot must exist."""
    if given.startswith((".", "/", "~")) or os.path.isdir(os.path.join(base, given)):
        return resolved(given, base)
    if os.path.isdir(given):
        near = os.path.relpath(given, base)
        raise ValueError(
            f"got {given!r}, which is a directory of the current one, but not of {str(base)!r}, where the file is; "
            f"allowed: a path relative to the file, an absolute one, or a hub id; write {near}"
        )
    return given


def _storage(given: str, base: Path) -> str:
    return given if "://" in given else resolved(given, base)


PATHS: dict[str, Resolve] = {
    "data.train": _data,
    "data.eval": _data,
    "data.test": _data,
    "model.path": _model,
    "storage": _storage,
    "store": resolved_url,
}
"""Dotted path of a field that holds a path -> how it is made absolute."""


CHAT_TEMPLATE = "data.chat_template"
ALSO_DATA = "evaluate.also.*.data"
"""The path of the data of any further set, of which a file may have several."""


def resolve_tree(tree: dict[str, Any], base: Path, where: Callable[[str], str]) -> dict[str, str]:
    """Make the paths in a configuration's tree absolute, those that its space and its points name, too.

    Args:
        tree: changed in place; what is not as it should be is left to validation.
        base: what relative paths are relative to.
        where: from a dotted path to the place it was written at.

    Returns:
        What was written for each field whose value has changed.

    Raises:
        ConfigError: a path names a user that does not exist, or a directory relative to the wrong place.
    """
    written: dict[str, str] = {}

    def change(holder: Any, key: Any, path: str) -> None:
        if isinstance(holder, dict | list) and isinstance(holder[key], list):  # several sources
            for index, entry in enumerate(holder[key]):
                if isinstance(entry, dict) and "path" in entry:
                    change(entry, "path", path)
                elif isinstance(entry, str):
                    change(holder[key], index, path)
        elif isinstance(holder, dict | list) and isinstance(holder[key], str) and holder[key]:
            given = holder[key]
            try:
                holder[key] = _data(given, base) if path == ALSO_DATA else PATHS[path](given, base)
            except ValueError as error:
                raise ConfigError(f"{where(path)}: {path}: {error}") from None
            if holder[key] != given and path not in written:
                written[path] = given

    for path in PATHS:
        section, _, key = path.rpartition(".")
        holder = tree.get(section) if section else tree
        if isinstance(holder, dict) and key in holder:
            change(holder, key, path)
    evaluate = tree.get("evaluate")
    also = evaluate.get("also") if isinstance(evaluate, dict) else None
    for each in also.values() if isinstance(also, dict) else ():
        if isinstance(each, dict) and "data" in each:
            change(each, "data", ALSO_DATA)
    data = tree.get("data")
    if isinstance(data, dict) and "chat_template" in data:
        given = data["chat_template"]
        data["chat_template"] = _template_text(given, base, where)
        if data["chat_template"] != given:
            written[CHAT_TEMPLATE] = given
    for holder, key, path in _searched(tree):
        if path == CHAT_TEMPLATE:
            holder[key] = _template_text(holder[key], base, where)
        elif path in PATHS:
            change(holder, key, path)
    return written


def _searched(tree: dict[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """Yield where the space and the points to try first hold a value of a field: mapping or list, key, dotted path.

    Those are the choices of a field, the values of others that an entry of the space depends on, and the points.
    """
    space, study = tree.get("space"), tree.get("study")
    for path, entry in space.items() if isinstance(space, dict) else ():
        if not isinstance(entry, dict):
            continue
        choices, when = entry.get("choice"), entry.get("when")
        yield from ((choices, index, path) for index in range(len(choices) if isinstance(choices, list) else 0))
        for other, values in when.items() if isinstance(when, dict) else ():
            if isinstance(values, list):
                yield from ((values, index, other) for index in range(len(values)))
            else:
                yield when, other, other
    for field in ("known", "baselines", "warm_start"):
        points = study.get(field) if isinstance(study, dict) else None
        for point in points if isinstance(points, list) else ():
            yield from ((point, path, path) for path in list(point if isinstance(point, dict) else ()))


def _template_text(given: Any, base: Path, where: Callable[[str], str]) -> Any:
    """Return the text of a chat template for its path, so that every worker has it, and a study keeps it."""
    if not isinstance(given, str) or is_jinja(given) or not ("/" in given or "." in given):
        return given  # no path: the text itself, or a name
    place = f"{where(CHAT_TEMPLATE)}: {CHAT_TEMPLATE}: {given!r}"
    try:
        path = Path(resolved(given, base))
        if not path.is_file():  # a device or a pipe would be read for ever
            raise FileNotFoundError("no such file")
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place} cannot be read ({error}); allowed: a Jinja file of UTF-8 text; correct the path"
        ) from None
    if not is_jinja(text):
        raise ConfigError(
            f"{place} is no Jinja template: it has no {{{{ }}}} or {{% %}}; allowed: what a tokenizer has as its "
            "chat_template; give such a file"
        )
    return text
