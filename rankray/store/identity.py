"""What a study is: its configuration, stored without secrets, and what may not change when it is opened again."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rankray.config.schema import FREE_FIELDS, Config
from rankray.errors import StudyMismatch

logger = logging.getLogger(__name__)

FINGERPRINTS = ("data", "model")
"""Entries of the provenance that must stay the same, too."""
ADDABLE_FIELDS = ("data.test",)
"""Fields that a study may be given later, because nothing of what it holds depends on them."""
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
    counts as its default. A study may be opened with what it never had of `ADDABLE_FIELDS`.

    Raises:
        StudyMismatch: lists every field that differs, with both values.
    """
    old, new = _flat(_with_defaults(stored["config"])), _flat(given["config"])
    lines = [
        f"  {path}: stored {_shown(old.get(path, _ABSENT))}, given {_shown(new.get(path, _ABSENT))}"
        for path in dict.fromkeys([*new, *old])
        if not _free(path) and old.get(path, _ABSENT) != new.get(path, _ABSENT) and not _added(path, old)
    ]
    before, now = stored.get("provenance", {}), given.get("provenance", {})
    lines += [
        f"  {key}: stored {_shown(before[key])}, given {_shown(now[key])}"
        for key in FINGERPRINTS
        if before.get(key) is not None and now.get(key) is not None and _differ(before[key], now[key])
    ]
    if lines:
        raise StudyMismatch(
            f"study {name}: a study of this name exists and was made from something else:\n"
            + "\n".join(lines)
            + "\nstart another study with --name other, or set these back to resume this one"
        )


def _added(path: str, old: Mapping[str, Any]) -> bool:
    """Whether a field that the study never had is given now, and may be."""
    return path in ADDABLE_FIELDS and old.get(path) is None


def _differ(before: Any, now: Any) -> bool:
    """Whether two fingerprints differ; of two mappings, in an entry that both have."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return any(before[key] != now[key] for key in before.keys() & now.keys())
    return bool(before != now)


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


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    return value if isinstance(value, str) else json.dumps(value)
