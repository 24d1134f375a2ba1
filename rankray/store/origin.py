"""What a study was made from, as a command needs it that is to do the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rankray.config.load import GIVEN
from rankray.config.params import get_path, plain
from rankray.store.confirmation import CONFIRMS
from rankray.store.identity import snapshot
from rankray.store.migrate import CONFIG, EARLIER_LOSS
from rankray.store.records import PROVENANCE
from rankray.store.stored import clean, mapping, reading
from rankray.store.trials import StudyStore


def origin(study: StudyStore) -> dict[str, Any]:
    """Return where a study's configuration came from.

    Returns:
        `study` and `store` (its URL without a password); `file`, or None where the study was made without one;
        `overrides`, path to value of all that the command line or a call gave in place of the file (`--set`, `--name`),
        of which a path may be a section, or one of `space`; `pins`, path to value of what its file does not name: the
        commits of the hub that the study was pinned to, and defaults that it keeps from an earlier version;
        `confirms`, the search that it confirms, or None; and `metric`, the first one that it selects by.
    """
    with reading(study.name):
        found: dict[str, Any] = clean(_origin(study))
        return found


def storages(study: StudyStore) -> list[str]:
    """Return the places below which a study's checkpoints may lie: its storage now, and the one it was begun with."""
    first = mapping(study.storage.get_study_user_attrs(study.study_id).get(CONFIG)).get("storage")
    return list(dict.fromkeys([study.config.storage, *([first] if isinstance(first, str) else [])]))


def _origin(study: StudyStore) -> dict[str, Any]:
    attributes = study.storage.get_study_user_attrs(study.study_id)
    provenance, first = mapping(attributes.get(PROVENANCE)), mapping(attributes.get(CONFIG))
    overrides = dict[str, Any]()
    for path, place in mapping(provenance.get("places")).items():
        if str(place).startswith(GIVEN) and path != "store":
            with suppress(KeyError):
                overrides[path] = _value(study, path)
    if mapping(first.get("study")).get("trials") != study.config.study.trials:  # extended, or made shorter, since
        overrides["study.trials"] = study.config.study.trials
    file, confirms = provenance.get("file"), provenance.get(CONFIRMS)
    return {
        "study": study.name,
        "store": study.url,
        # where there is no file, an earlier version stored the study's name
        "file": file if isinstance(file, str) and os.path.isabs(file) else None,
        "overrides": overrides,
        "pins": _pins(study, provenance) | _earlier_loss(study, provenance),
        "confirms": str(confirms) if confirms else None,
        "metric": study.config.study.metric,
    }


def _pins(study: StudyStore, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the revisions that another run needs to train on the very model and data of this study."""
    pins: dict[str, Any] = {}
    model, data = study.config.model.revision, study.config.data.revision
    asked = provenance.get("model_revision")
    if asked and model and model != asked:
        pins["model.revision"] = model
    of_data = mapping(provenance.get("data_revisions"))
    if isinstance(data, Mapping) and any(data.get(name) != revision for name, revision in of_data.items()):
        pins["data.revision"] = dict(data)
    return pins


def _earlier_loss(study: StudyStore, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the loss of a study of an earlier version, or of its confirmation, has in place of today's defaults.

    Where the file names such a field, or an override its section, there is nothing to add.
    """
    places, loss = mapping(provenance.get("places")), study.config.loss
    if str(places.get("loss", "")).startswith(GIVEN):
        return {}
    kept = {f"loss.{key}": value for key, value in EARLIER_LOSS.items() if getattr(loss, key) == value}
    return {path: value for path, value in kept.items() if path not in places}


def _value(study: StudyStore, path: str) -> Any:
    section, _, rest = path.partition(".")
    if section != "space":
        return plain(get_path(study.config, path))
    space = snapshot(study.config)["space"]
    return space[rest] if rest else space
