"""The commits of datasets on the hub: what their branches or tags were when a study was opened, for all its trials.

`rankray.model.pin` says why. Several datasets have several commits, so a pinned configuration has a mapping as
`data.revision`: hub id to commit. Needs neither torch nor `datasets`.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankray.config.schema import Config
from rankray.data.files import hub_parts, is_file_source
from rankray.data.sources import pin_name, revision_of
from rankray.errors import DataError, first_line

logger = logging.getLogger(__name__)

MAIN = "main"
COMMIT = re.compile(r"[0-9a-f]{40}")
SPLITS = ("train", "eval", "test")


def asked_revisions(config: Config) -> dict[str, str]:
    """Return the revision that a configuration asks for of each hub dataset it may use, by the dataset's id.

    Where an entry of a mixture names its own revision, the key is `pin_name`: `id@revision`.
    Those that the space may choose and those of `evaluate.also` are among them. Empty where the space searches the
    revision itself. What is no dataset's name is left out here, and refused with its place by `preflight`.
    """
    if any(path == "data.revision" or path.startswith("data.revision.") for path in config.space):
        return {}
    found: dict[str, str] = {}
    named = config.data.revision if isinstance(config.data.revision, Mapping) else {}
    for source, own in _sources(config):
        if name := _name(source):
            found[pin_name(name, own)] = revision_of(source, config.data, "data", own) or MAIN
    for section in config.evaluate.also.values():
        if not is_file_source(section.data) and (name := _name(section.data)):
            found.setdefault(name, named.get(name, MAIN))
    return found


def _name(source: str) -> str:
    """Return the id of a hub dataset, or an empty text where the source is none."""
    try:
        return hub_parts(source, "data")[0]
    except DataError as error:
        logger.debug("%s", error)
        return ""


def pinned(config: Config, held: Mapping[str, str] | None = None) -> Config:
    """Return the configuration with the revisions of its hub datasets resolved to commits.

    Args:
        config: the configuration.
        held: the commits that the study has for the same revisions already, which stay.

    Raises:
        DataError: there is no such dataset or revision on the hub, or the hub does not answer and nothing is cached.
    """
    asked = asked_revisions(config)
    if not asked:
        return config
    known = held or {}
    commits = {key: known.get(key) or commit_of(key.partition("@")[0], rev) for key, rev in asked.items()}
    return config.model_copy(update={"data": config.data.model_copy(update={"revision": commits})})


def commit_of(dataset: str, revision: str) -> str:
    """Return the commit that a revision of a dataset is now; without a connection, the one in the hub's local cache.

    Raises:
        DataError: it cannot be found.
    """
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset, revision=revision).sha)
    except Exception as error:  # of the hub's library, of its connection, or of an id that cannot be one
        logger.debug("revision %s of %s cannot be resolved", revision, dataset, exc_info=True)
        has_answered = getattr(error, "response", None) is not None
        if not has_answered and (cached := _cached_commit(dataset, revision)):
            return cached
        first = first_line(error)
        raise DataError(
            f"data.revision: {dataset!r} at revision {revision!r} cannot be found ({first}); allowed is a dataset of "
            "the hub, with a branch, tag or commit as data.revision, or a local file; check both, and the connection"
        ) from error


def _cached_commit(dataset: str, revision: str) -> str:
    """Return the commit that the hub's local cache has for a revision, or an empty text."""
    from huggingface_hub import snapshot_download

    try:
        place = snapshot_download(
            dataset, repo_type="dataset", revision=revision, local_files_only=True, allow_patterns=[]
        )
    except Exception as error:
        logger.debug("%s is not in the hub's cache: %s", dataset, error)
        return ""
    return Path(place).name  # .../snapshots/<commit>


def _sources(config: Config) -> list[tuple[str, str | None]]:
    """Return every hub dataset that a split may be, `id:config:split`, each with the revision its entry gives."""
    given: list[Any] = [getattr(config.data, split) for split in SPLITS if getattr(config.data, split) is not None]
    for split in SPLITS:
        given += config.space.get(f"data.{split}", {}).get("choice", [])
    found: list[tuple[Any, Any]] = []
    for each in given:
        tree = json.loads(each) if isinstance(each, str) and each.startswith("[") else each
        for entry in tree if isinstance(tree, list) else [tree]:
            if isinstance(entry, dict):
                found.append((entry.get("path"), entry.get("revision")))
            else:
                found.append((getattr(entry, "path", entry), getattr(entry, "revision", None)))
    return [(path, own) for path, own in found if isinstance(path, str) and not is_file_source(path)]
