"""Datasets of the Hugging Face hub, in the cache of `datasets`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import datasets.fingerprint

from rankray.data.files import Rows, hub_parts
from rankray.data.pin import COMMIT, MAIN, commit_of
from rankray.errors import DataError, first_line


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
        name, _, _ = hub_parts(source, where)
        if streaming:
            revision = commit_of(name, revision or MAIN)
        self._loaded: Any = _load(source, where, revision, streaming)
        self.stamp: Any = [source, revision] if streaming else self._look(source)

    def tables(self) -> list[Rows]:
        """Return its rows."""
        return [Rows(self._loaded.to_list(), self._source)]

    def parts(self, size: int) -> Iterator[Rows]:
        """Yield its rows, so many at a time. A row's number is that within the slice.

        Raises:
            DataError: the hub stops answering, or there are none.
        """
        rows, begin = iter(self._loaded), 0
        while True:
            try:
                part = list(islice(rows, size))
            except Exception as error:
                raise _unloadable(self._source, self._where, error) from error
            if not (part or begin):
                raise DataError(f"{self._where}: {self._source!r} holds no rows; at least one is needed; take others")
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
        if streaming and any(sign in split for sign in "[+"):
            return _streamed_slices(lambda whole: datasets.load_dataset(name, config, split=whole, **options), split)
        loaded = datasets.load_dataset(name, config, split=split, **options)
    except Exception as error:
        raise _unloadable(source, where, error) from error
    if revision is not None and COMMIT.fullmatch(revision) and not streaming:
        _check_commit(loaded, source, where, revision)
    return loaded


def _streamed_slices(load: Callable[[str], datasets.IterableDataset], split: str) -> datasets.IterableDataset:
    """Return what `split` names, such as `train[:5%]+test[10:]`, of splits that are streamed.

    `datasets` cuts only what it has downloaded. The rows are those it would take. How many rows a split has is asked
    where that matters: of the dataset's card, and where it does not say, the split is gone through once to count them.
    """
    named = dict.fromkeys(part.partition("[")[0] for part in split.split("+"))
    wholes = {name: load(name) for name in named}
    if all(re.fullmatch(r"[^\[]+(\[\d*:\d*\])?", part) for part in split.split("+")):
        sizes = dict.fromkeys(wholes, sys.maxsize)
    else:
        sizes = {name: _size(whole, name) for name, whole in wholes.items()}
    parts = []
    for cut in datasets.ReadInstruction.from_spec(split).to_absolute(sizes):
        whole = wholes[cut.splitname]
        parts.append(whole.skip(cut.from_).take(cut.to - cut.from_) if cut.to < sys.maxsize else whole.skip(cut.from_))
    return datasets.concatenate_datasets(parts)


def _size(whole: datasets.IterableDataset, split: str) -> int:
    known = (whole.info.splits or {}).get(split)
    return (known.num_examples if known is not None else 0) or sum(1 for _ in whole)


def _unloadable(source: str, where: str, error: Exception) -> DataError:
    first = first_line(error)
    return DataError(
        f"{where}: {source!r} cannot be loaded ({first}); allowed is hub-id:config:split of a dataset on the hub; "
        "check the three parts and the connection, or give a local file"
    )
