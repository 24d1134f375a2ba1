"""Datasets of the Hugging Face hub, in the cache of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import datasets.fingerprint

from rankray.data.files import Rows, hub_parts
from rankray.data.pin import COMMIT, MAIN, commit_of
from rankray.errors import DataError


class HubOrigin:
    """One split of a dataset.

    Args:
        source: `hub-id:config:split`, or `hub-id:split`.
        where: how an error begins.
        revision: a branch, tag or commit; None takes the newest.
        streaming: read it from the hub part by part, without downloading it as a whole.

    Raises:
        DataError: it is not of that form, or cannot be loaded.
    """

    def __init__(self, source: str, where: str, revision: str | None = None, streaming: bool = False) -> None:
        self._source, self._where = source, where
        name, _, split = hub_parts(source, where)
        if streaming and "[" in split:
            raise DataError(
                f"{where}: {source!r} is a slice, which data.streaming cannot take; allowed are whole splits; take "
                "data.max_examples, or leave out data.streaming"
            )
        if streaming:
            revision = commit_of(name, revision or MAIN)
        self._loaded: Any = _load(source, where, revision, streaming)
        self.stamp: Any = [source, revision] if streaming else self._look(source)

    def tables(self) -> list[Rows]:
        """Return its rows."""
        return [Rows(self._loaded.to_list(), self._source)]

    def parts(self, size: int) -> Iterator[Rows]:
        """Yield its rows, so many at a time.

        Raises:
            DataError: the hub stops answering.
        """
        rows, begin = iter(self._loaded), 0
        while True:
            try:
                part = list(islice(rows, size))
            except Exception as error:
                raise _unloadable(self._source, self._where, error) from error
            if not part:
                return
            yield Rows(part, self._source, numbers=range(begin + 1, begin + len(part) + 1))
            begin += len(part)

    def _look(self, source: str) -> Any:
        """Return the cache files, whose paths hold the dataset's revision; a hash of the rows where there are none."""
        files = [Path(file["filename"]) for file in self._loaded.cache_files]
        if not files:
            return [source, datasets.fingerprint.Hasher.hash(self._loaded.to_list())]
        return [source, *([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files)]


def _check_commit(loaded: datasets.Dataset, source: str, where: str, commit: str) -> None:
    """Refuse another commit than the one asked for: without a connection `datasets` takes what its cache has."""
    files = [Path(file["filename"]) for file in loaded.cache_files]
    others = [part for file in files for part in file.parts if COMMIT.fullmatch(part) and part != commit]
    if others:
        raise DataError(
            f"{where}: {source!r} is needed at commit {commit}, and the hub cannot be reached; its cache on this "
            f"machine has {others[0]}; allowed is the commit that the study began with; connect, or copy that cache"
        )


def _load(source: str, where: str, revision: str | None, streaming: bool) -> Any:
    name, config, split = hub_parts(source, where)
    given = {"revision": revision, "streaming": streaming}
    options: dict[str, Any] = {option: value for option, value in given.items() if value}
    try:
        loaded = datasets.load_dataset(name, config, split=split, **options)
    except Exception as error:
        raise _unloadable(source, where, error) from error
    if revision is not None and COMMIT.fullmatch(revision) and not streaming:
        _check_commit(loaded, source, where, revision)
    return loaded


def _unloadable(source: str, where: str, error: Exception) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        f"{where}: {source!r} cannot be loaded ({first}); allowed is hub-id:config:split of a dataset on the hub; "
        "check the three parts and the connection, or give a local file"
    )
