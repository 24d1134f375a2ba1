"""Datasets of the Hugging Face hub, in the cache of `datasets`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import datasets.fingerprint

from rankray.data.files import Rows, hub_parts
from rankray.errors import DataError


class HubOrigin:
    """One split of a dataset.

    Args:
        source: `hub-id:config:split`, or `hub-id:split`.
        where: how an error begins.
        revision: a branch, tag or commit; None takes the newest.

    Raises:
        DataError: it is not of that form, or cannot be loaded.
    """

    def __init__(self, source: str, where: str, revision: str | None = None) -> None:
        self._source, self._loaded = source, _load(source, where, revision)
        self.stamp: Any = self._look(source)

    def tables(self) -> list[Rows]:
        """Return its rows."""
        return [Rows(self._loaded.to_list(), self._source)]

    def _look(self, source: str) -> Any:
        """Return the cache files, whose paths hold the dataset's revision; a hash of the rows where there are none."""
        files = [Path(file["filename"]) for file in self._loaded.cache_files]
        if not files:
            return [source, datasets.fingerprint.Hasher.hash(self._loaded.to_list())]
        return [source, *([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _check_commit(loaded: datasets.Dataset, source: str, where: str, commit: str) -> None:
    """Refuse another commit than the one asked for: without a connection `datasets` takes what its cache has."""
    files = [Path(file["filename"]) for file in loaded.cache_files]
    others = [part for file in files for part in file.parts if re.fullmatch(r"[0-9a-f]{40}", part) and part != commit]
    if others:
        raise DataError(
            f"{where}: {source!r} is needed at commit {commit}, and the hub cannot be reached; its cache on this "
            f"machine has {others[0]}; allowed is the commit that the study began with; connect, or copy that cache"
        )


def _load(source: str, where: str, revision: str | None) -> datasets.Dataset:
    name, config, split = hub_parts(source, where)
    pinned = {} if revision is None else {"revision": revision}
    try:
        loaded = datasets.load_dataset(name, config, split=split, **pinned)
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{where}: {source!r} cannot be loaded ({first}); allowed is hub-id:config:split of a dataset on the hub; "
            "check the three parts and the connection, or give a local file"
        ) from error
    if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
        _check_commit(loaded, source, where, revision)
    return loaded
