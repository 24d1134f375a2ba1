"""From `data.train` or `data.eval` to examples with their rows and places: files, hub datasets, and mixtures of them.

A source is one path or hub id, or a list of entries with weights. Rows that `where` leaves out are dropped first, then
each entry is cut to its first `max_examples`. Entries with weights are mixed so that each has its share and no example
is repeated: the largest mixture that their sizes allow, drawn with a fixed seed. Entries alternate, so that any
beginning of a mixture has about its shares. Rows with nothing to train on are left out and counted
(`rankray.data.left_out`). Needs neither torch nor `datasets`.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rankray.config.sections import DataSection, SourceSection
from rankray.data.chat import Example
from rankray.data.examples import Places, try_examples
from rankray.data.files import (
    Rows,
    check_one_set,
    file_fingerprint,
    files_of,
    hub_parts,
    is_file_source,
    place_of,
    read_rows,
    row_parts,
)
from rankray.data.formats import recognise, unused_columns
from rankray.data.left_out import LeftOut, Unusable
from rankray.data.mixture import merged, mixed
from rankray.data.parse import ROWS_AT_A_TIME, Row
from rankray.data.rendering import fitted
from rankray.data.weights import with_weights
from rankray.data.where import READING, chosen
from rankray.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

OWN_FIELDS = ("prompt", "completion", "messages", "weight_column", "token_weights")
"""Fields of `data` that an entry may have of its own, beside its form; errors about them have a place each."""


class Placed(NamedTuple):
    """An example, the row it was made from, and where that row stands (`train.jsonl:7`)."""

    example: Example
    row: Row
    place: str


class Origin(Protocol):
    """Where the rows of one entry come from.

    Attributes:
        stamp: plain JSON types that change when the rows do.
    """

    stamp: Any

    def tables(self) -> list[Rows]:
        """Return the rows, file by file."""
        ...

    def parts(self, size: int) -> Iterator[Rows]:
        """Yield the rows, so many at a time; those of one part are of one file."""
        ...


class Source:
    """Everything that one field of `data` names.

    Args:
        split: `train`, `eval` or another field of `data` that names a source.
        data: the config's `data:` block.
        first: take only this many examples; None takes all.
        hub: opens a dataset of the hub, given its name, the error's place and a revision; None: local files only.
        places: how errors begin; None takes the fields' own names.
        tokenizer: conversations that its chat template refuses are left out; None: nobody looks at that.

    Attributes:
        forms: path -> the form of its rows, for all entries that `examples` has read.
        unused: path -> the columns that nothing is made from.

    Raises:
        DataError: a source that is neither a file nor a dataset's name, or that does not exist.
    """

    def __init__(
        self,
        split: str,
        data: DataSection,
        first: int | None = None,
        hub: Callable[[str, str, str | None], Origin] | None = None,
        places: Places | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self._data, self._split, self._tokenizer = data, split, tokenizer
        self._places = places or Places(source=f"data.{split}")
        limits = [limit for limit in (first, data.max_examples if split == "train" else None) if limit is not None]
        self._first = min(limits, default=None)
        self._entries = entries_of(getattr(data, split))
        self.forms: dict[str, str] = {}
        self.unused: dict[str, list[str]] = {}
        self._left_out: dict[int, LeftOut] = defaultdict(LeftOut)
        self._origins = [_origin(entry, self._places.source, data, hub) for entry in self._entries]
        mixture = [_stamped(entry) for entry in self._entries]
        self.stamp: Any = [[origin.stamp for origin in self._origins], mixture, data.where, self._first]
        self.stamp += [READING] if any(self._conditions(entry) for entry in self._entries) else []

    @property
    def left_out(self) -> LeftOut:
        """What was left out of the rows that were read so far; `where` is not among the reasons."""
        return sum(self._left_out.values(), LeftOut())

    def examples(self) -> list[Placed]:
        """Return the examples, filtered, limited and mixed.

        Raises:
            DataError: a source cannot be read, a row does not fit its form, or half of the rows have nothing to train
                on.
        """
        groups = [self._group(entry, origin) for entry, origin in zip(self._entries, self._origins, strict=True)]
        return mixed(groups, [entry.weight for entry in self._entries])[: self._first]

    def placed(self) -> Iterator[Placed]:
        """Yield the examples; with `data.streaming` only a part of them is in memory.

        They are the same then, but that the form of a file's rows is that of its first `ROWS_AT_A_TIME`.

        Raises:
            DataError: see `examples`.
        """
        if not self._data.streaming:
            return iter(self.examples())
        pairs = list(zip(self._entries, self._origins, strict=True))
        groups = [partial(self._streamed, entry, origin) for entry, origin in pairs]
        return islice(merged(groups, [entry.weight for entry in self._entries]), self._first)

    def _streamed(self, entry: SourceSection, origin: Origin) -> Iterator[Placed]:
        count = 0
        for placed in islice(self._all_streamed(entry, origin), entry.max_examples):
            count += 1
            yield placed
        if not count:
            raise self._nothing_left(entry)

    def _all_streamed(self, entry: SourceSection, origin: Origin) -> Iterator[Placed]:
        given, data, file, left = self._section(entry), self._section(entry), None, LeftOut()
        where = self._places_of(entry).source
        for part in origin.parts(ROWS_AT_A_TIME):
            is_first, file = part.source != file, part.source
            rows = chosen(part, self._conditions(entry), where, must_exist=is_first)
            if is_first:
                form = recognise(rows or part, given, _where_of(part, entry, where))
                self._note(entry, form, rows or part, given)
                data = given.model_copy(update={"format": form})
            if rows:
                placed = self._placed(rows, data, entry, left, is_first)
                self._keep(entry, left)
                yield from placed
        self._refuse_most(entry, left)

    def _refuse_most(self, entry: SourceSection, left: LeftOut) -> None:
        places = self._places_of(entry)
        is_named = self._section(entry).messages is not None
        left.refuse_most(places.messages if is_named else places.source, entry.path)

    def _keep(self, entry: SourceSection, left: LeftOut) -> None:
        """Keep what was left out of an entry, which may be read several times, and not always to its end."""
        number = self._number(entry)
        if left.rows >= self._left_out[number].rows:
            self._left_out[number] = left

    def _note(self, entry: SourceSection, form: str, rows: Rows, data: DataSection) -> None:
        self.forms[entry.path] = form
        known = self.unused.setdefault(entry.path, [])
        known += [name for name in unused_columns(form, rows, data) if name not in known]

    def _section(self, entry: SourceSection) -> DataSection:
        own = {name: getattr(entry, name) for name in ("format", "chat", *OWN_FIELDS)}
        return self._data.model_copy(update={name: value for name, value in own.items() if value is not None})

    def _places_of(self, entry: SourceSection) -> Places:
        """Return how errors begin: with the number of the entry where there are several, or it has the field itself."""
        number = self._number(entry)
        places = self._places
        if len(self._entries) > 1:
            places = Places(*(f"{place}: source {number}" for place in places))
        own = {
            name: f"{self._places.source}: source {number}: {name}"
            for name in OWN_FIELDS
            if getattr(entry, name) is not None
        }
        return places.with_own(own)

    def _number(self, entry: SourceSection) -> int:
        return next(i for i, each in enumerate(self._entries, start=1) if each is entry)

    def _conditions(self, entry: SourceSection) -> dict[str, Any]:
        return {**(self._data.where or {}), **(entry.where or {})}

    def _nothing_left(self, entry: SourceSection) -> DataError:
        is_plain = self._section(entry).weight_column is None
        why = "data.where leaves" if is_plain else "data.where, or weights of 0, leave"
        return DataError(
            f"{self._places_of(entry).source}: {why} no row of {entry.path!r}; at least one is needed; change it"
        )

    def _group(self, entry: SourceSection, origin: Origin) -> list[Placed]:
        data = self._section(entry)
        found: list[Placed] = []
        left, where = LeftOut(), self._places_of(entry).source
        for table in origin.tables():
            rows = chosen(table, self._conditions(entry), where)
            if rows:
                self._note(entry, recognise(rows, data, _where_of(table, entry, where)), rows, data)
                found += self._placed(rows, data, entry, left)
        self._keep(entry, left)
        self._refuse_most(entry, left)
        if not found:
            raise self._nothing_left(entry)
        return found[: entry.max_examples]

    def _placed(
        self, rows: Rows, data: DataSection, entry: SourceSection, left: LeftOut, is_first: bool = True
    ) -> list[Placed]:
        """Return the examples of some rows; only training has weights, and leaves out those of weight 0."""
        places = self._places_of(entry)
        kept: dict[int, Example] = {}
        for index, made in enumerate(try_examples(rows, data, places, is_first)):
            left.rows += 1
            if not isinstance(made, Unusable) and self._tokenizer is not None:
                made = fitted(self._tokenizer, made, place_of(rows, index), places.messages)
            if isinstance(made, Unusable):
                left.add(made, place_of(rows, index))
            else:
                kept[index] = made
        rows = rows if len(kept) == len(rows) else rows.take(list(kept))
        examples: Sequence[Example | None] = list(kept.values())
        if self._split == "train":
            examples = with_weights(list(kept.values()), rows, data, places)
        pairs = zip(examples, rows, strict=True)
        return [Placed(e, row, place_of(rows, i)) for i, (e, row) in enumerate(pairs) if e is not None]


def _where_of(rows: Rows, entry: SourceSection, where: str) -> str:
    """Return how an error about the form of some rows begins: with their file where the entry stands for several."""
    return where if Path(entry.path).is_file() else f"{where}: {rows.source}"


def entries_of(given: str | Sequence[SourceSection]) -> list[SourceSection]:
    """Return the entries of a source; a single path is one entry."""
    return [SourceSection(path=given)] if isinstance(given, str) else list(given)


def is_local(given: str | Sequence[SourceSection]) -> bool:
    """Whether all entries of a source are files, directories or patterns, not datasets of the hub."""
    return all(is_file_source(entry.path) for entry in entries_of(given))


def fingerprint(given: str | Sequence[SourceSection], where: str) -> str:
    """Return `sha256:...` of the content of all files of a source; a single hub dataset is its own name.

    Raises:
        DataError: a directory or a pattern without data files.
    """
    entries = entries_of(given)
    if len(entries) == 1 and not is_file_source(entries[0].path):
        return entries[0].path
    parts = [
        part
        for entry in entries
        for part in (map(file_fingerprint, files_of(entry.path, where)) if is_file_source(entry.path) else [entry.path])
    ]
    return parts[0] if len(parts) == 1 else f"sha256:{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"


def revision_of(source: str, data: DataSection, where: str, own: str | None = None) -> str | None:
    """Return the revision that a data section asks for of a hub dataset's split; None is the main branch.

    Args:
        source: `hub-id:config:split`.
        data: its `revision` may be a mapping, of datasets, and of `pin_name`s where it was pinned.
        where: how an error begins.
        own: the revision that the entry of a mixture gives itself.

    Raises:
        DataError: the source is not of the form `hub-id:config:split`.
    """
    name, _, _ = hub_parts(source, where)
    held = data.revision if isinstance(data.revision, Mapping) else {}
    if own is not None:
        return held.get(pin_name(name, own), own)
    return held.get(name) if isinstance(data.revision, Mapping) else data.revision


def refuse_revision(entry: SourceSection, where: str) -> None:
    """Refuse a revision of files.

    Raises:
        DataError: the entry has one.
    """
    if entry.revision is not None:
        raise DataError(
            f"{where}: {entry.path!r} is a file, and has revision {entry.revision!r}; allowed is a revision of a "
            "dataset on the hub; remove it"
        )


def pin_name(dataset: str, own: str | None = None) -> str:
    """Return the name under which the commit of a dataset is kept: `id@revision` where an entry gives its own."""
    return dataset if own is None else f"{dataset}@{own}"


def file_stamps(given: str | Sequence[SourceSection]) -> list[Any]:
    """Return path, size and time of every file of a source that is there; nothing for datasets of the hub."""
    found = [file for entry in entries_of(given) if is_file_source(entry.path) for file in _files(entry.path)]
    return [_stamp(file) for file in found if file.is_file()]


class _Files:
    """The files of one entry; later reads are refused if one has changed since the first look."""

    def __init__(self, path: str, where: str) -> None:
        check_one_set(path, where)
        self._path, self._where = path, where
        self.stamp: Any = self._look()

    def tables(self) -> list[Rows]:
        self._check_unchanged()
        return [read_rows(str(file), self._where) for file in files_of(self._path, self._where)]

    def _check_unchanged(self) -> None:
        if self._look() != self.stamp:
            raise DataError(
                f"{self._where}: {self._path!r} was changed while it was in use; a search needs data that do not "
                "change; start it again"
            )

    def parts(self, size: int) -> Iterator[Rows]:
        self._check_unchanged()
        for file in files_of(self._path, self._where):
            yield from row_parts(str(file), self._where, size)

    def _look(self) -> list[Any]:
        files = files_of(self._path, self._where)
        for file in files:
            if not file.is_file():
                read_rows(str(file), self._where)
        return [_stamp(file) for file in files]


class _Unread:
    """A dataset of the hub that is not opened here."""

    def __init__(self, path: str) -> None:
        self.stamp: Any = path

    def tables(self) -> list[Rows]:
        raise AssertionError(f"{self.stamp} is on the hub")

    def parts(self, size: int) -> Iterator[Rows]:
        raise AssertionError(f"{self.stamp} is on the hub")


def _origin(
    entry: SourceSection, where: str, data: DataSection, hub: Callable[[str, str, str | None], Origin] | None
) -> Origin:
    if is_file_source(entry.path):
        refuse_revision(entry, where)
        return _Files(entry.path, where)
    if hub is None:
        return _Unread(entry.path)
    return hub(entry.path, where, revision_of(entry.path, data, where, entry.revision))


def _stamped(entry: SourceSection) -> dict[str, Any]:
    """Return what of an entry decides on its examples; newer fields only where they are given, so that tokens stay."""
    names = ("chat", "weight_column", "token_weights", "revision")
    newer = {name for name in names if getattr(entry, name) is None}
    return entry.model_dump(mode="json", exclude=newer)


def _files(path: str) -> list[Path]:
    try:
        return files_of(path, "data")
    except DataError:
        return []


def _stamp(file: Path) -> list[Any]:
    state = file.stat()
    return [str(file.resolve()), state.st_size, state.st_mtime_ns]
