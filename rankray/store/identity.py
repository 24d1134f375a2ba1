"""What a study is: its configuration, stored without secrets, and what may not change when it is opened again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rankray.config.schema import FREE_FIELDS, Config
from rankray.config.where import PATHS
from rankray.errors import LONGEST_NAME, StudyMismatch, shown
from rankray.paths import same_path

logger = logging.getLogger(__name__)

FINGERPRINTS = ("data", "model", "model_files", "choices")
"""Entries of the provenance that must stay the same, too: `model_files` are the tokenizer, the chat template,
generation settings and pickled weights, `choices` the data and models that the space may choose. What a study of an
earlier version does not have is not compared."""
ADDABLE_FIELDS = ("data.test",)
"""Fields that a study may be given later, because nothing of what it holds depends on them."""
BEFORE = 30
"""Characters of two long texts that are shown before the first one that differs."""
_ABSENT = object()


def snapshot(config: Config) -> dict[str, Any]:
    """Return the resolved configuration as plain JSON types, without the store's URL."""
    tree: dict[str, Any] = json.loads(config.model_dump_json(exclude={"store"}))
    return tree


def restore(stored: Mapping[str, Any], url: str) -> Config:
    """Return the configuration of a stored study; `url` (masked) stands in for its store.

    Raises:
        ValidationError: it was stored by a version whose fields this one does not know.
    """
    return Config.model_validate({**stored, "store": url})


def check_same(name: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compare two identities, `{"config": ..., "provenance": ...}`.

    Fields that say how a search is run (`FREE_FIELDS`) may differ. A field that did not exist when the study was made
    counts as its default. A study may be opened with what it never had of `ADDABLE_FIELDS`. Two spellings of one path
    are the same, and so are files of the same content, wherever they are.

    Raises:
        StudyMismatch: lists every field that differs, with both values.
    """
    old, new = _flat(_with_defaults(stored["config"])), _flat(given["config"])
    before, now = stored.get("provenance", {}), given.get("provenance", {})
    lines = [
        f"  {path}: {_apart(old.get(path, _ABSENT), new.get(path, _ABSENT))}"
        for path in dict.fromkeys([*new, *old])
        if not _free(path)
        and old.get(path, _ABSENT) != new.get(path, _ABSENT)
        and not _added(path, old, new)
        and not _same_source(path, old.get(path), new.get(path), before, now)
    ]
    lines += [
        f"  {key}: {_apart(before[key], now[key])}"
        for key in FINGERPRINTS
        if before.get(key) is not None and now.get(key) is not None and _differ(before[key], now[key])
    ]
    if lines:
        raise StudyMismatch(
            f"study {name}: a study of this name exists and was made from something else:\n"
            + "\n".join(lines)
            + "\nstart another study with --name other (study.warm_start: "
            + f"{name} begins it with the best of this one), or set these back to resume this one"
        )


def _added(path: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a field that the study never had is given now, and may be; a test set of the hub has a commit, too."""
    if path == "data.revision":
        return old.get(path) is None and path not in new
    if path.startswith("data.revision."):
        used = json.dumps([old.get("data.train"), old.get("data.eval")])
        return path not in old and f"{path.removeprefix('data.revision.')}:" not in used
    return path in ADDABLE_FIELDS and old.get(path) is None


def _differ(before: Any, now: Any) -> bool:
    """Whether two fingerprints differ; of two mappings, in an entry that both have."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return any(before[key] != now[key] for key in before.keys() & now.keys())
    return bool(before != now)


def _same_source(path: str, old: Any, new: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two spellings of a path name the same data or model: the same place, or the same content."""
    kind, field = path.removeprefix("space."), path.split(".")
    if kind not in PATHS:
        return False
    if kind != path:
        return _same_choices(old, new)
    if not isinstance(old, str) or not isinstance(new, str):
        return False
    prints = [each.get(field[0]) for each in (before, now)]
    if field[0] == "data":
        prints = [each.get(field[1]) if isinstance(each, Mapping) else None for each in prints]
    same_content = isinstance(prints[0], str) and prints[0].startswith("sha256:") and prints[0] == prints[1]
    return same_content or same_path(old, new)


def _same_choices(old: Any, new: Any) -> bool:
    one, other = (each.get("choice") if isinstance(each, Mapping) else None for each in (old, new))
    if not isinstance(one, list) or not isinstance(other, list) or len(one) != len(other):
        return False
    return {**old, "choice": 0} == {**new, "choice": 0} and all(
        left == right or same_path(str(left), str(right)) for left, right in zip(one, other, strict=True)
    )


def as_stored(config: Config, stored: Mapping[str, Any]) -> Config:
    """Return the configuration with the paths of its space spelled as the study has them, where they are the same.

    Optuna takes a choice that is spelled in another way for another choice.
    """
    space = stored.get("space") or {}
    kept = {path: space[path] for path in PATHS if _same_choices(space.get(path), config.space.get(path))}
    return config.model_copy(update={"space": config.space | kept}) if kept else config


def _with_defaults(stored: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return snapshot(restore(stored, "sqlite:///unused.db"))
    except ValidationError as error:
        logger.debug("stored configuration: does not fit this version, and is compared as it is: %s", error)
        return dict(stored)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a mapping of dotted path to value; lists and the entries of `space` are values."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and prefix != "space." and value:
            flat.update(_flat(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def _free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE_FIELDS)


def _apart(old: Any, new: Any) -> str:
    """Return two values as `stored ..., given ...`; of long texts, as chat templates are, where they differ."""
    texts = [_shown(old), _shown(new)]
    if any(map(_is_long, texts)):
        same = next((i for i, (one, two) in enumerate(zip(*texts, strict=False)) if one != two), min(map(len, texts)))
        begin = max(0, same - BEFORE)
        if begin:
            texts = [f"...{shown(text[begin:])}" for text in texts]
        else:
            texts = [shown(text) if _is_long(text) else text for text in texts]
    return f"stored {texts[0]}, given {texts[1]}"


def _is_long(text: str) -> bool:
    return len(text) > LONGEST_NAME or "\n" in text


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value)
