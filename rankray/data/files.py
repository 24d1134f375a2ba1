"""Reading data files into rows, the same way for `check` and for training. Needs no torch and no `datasets`.

A source is either the path of a file, recognised by its ending, or a dataset on the Hugging Face hub,
`hub-id:config:split` (or `hub-id:split` where there is only one configuration). A relative path is relative to the
current directory (`rankray.paths` makes the paths of a configuration absolute before). Text is UTF-8, with or without a
byte order mark; the lines of a .jsonl file end at line feeds alone. In a .csv file every value is text; the other
formats keep their types. Nothing is cached on disk, so a changed file is never confused with its earlier content.

Whatever a parser does with a broken file, the caller gets one `DataError` with the place: `file:line`, or the number of
the item or row.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from rankray.data.parse import COMPRESSED, READERS, TEXTS, Row, first_line
from rankray.errors import DataError, nearest
from rankray.paths import resolved

logger = logging.getLogger(__name__)

FORMS = (
    "hub-id:config:split, or the path of a .jsonl, .json, .parquet, .arrow, .csv, .tsv or .txt file (text also as .gz "
    "or .zst), a directory of them, or a pattern such as data/*.jsonl"
)

ABOUT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files in a directory of data that describe the others: of `datasets`, and of LLaMA-Factory."""


HELD_OUT = re.compile(r"(?<![a-z])(eval|evaluation|valid|validation|val|dev|held[-_]?out)(?![a-z])")
TEST = re.compile(r"(?<![a-z])test(?![a-z])")
"""What names of files and splits have, in lower case, that are not for training."""


class Rows(list[Row]):
    """The rows of a source, each with its place.

    Attributes:
        source: the file or the hub's dataset, as the place begins; empty if unknown.
        unit: what is counted: `line`, `item` or `row`.
        numbers: the number of each row in the source; None counts from 1.
    """

    def __init__(
        self, rows: Iterable[Row] = (), source: str = "", unit: str = "row", numbers: Sequence[int] | None = None
    ) -> None:
        super().__init__(rows)
        self.source, self.unit, self.numbers = source, unit, numbers

    def take(self, indices: Sequence[int]) -> Rows:
        """Return some rows, from 0, with their places."""
        numbers = [i + 1 if self.numbers is None else self.numbers[i] for i in indices]
        return Rows([self[i] for i in indices], self.source, self.unit, numbers)

    def first(self, count: int | None) -> Rows:
        """Return the first `count` rows with their places; None returns all."""
        return self if count is None else Rows(self[:count], self.source, self.unit, self.numbers)


def place_of(rows: Sequence[Row], index: int) -> str:
    """Return where row `index` (from 0) stands: `file.jsonl:7`, or `file.json: item 7`; `row 7` if that is unknown."""
    unit, source = getattr(rows, "unit", "row"), getattr(rows, "source", "")
    numbers = getattr(rows, "numbers", None)
    number = index + 1 if numbers is None else numbers[index]
    if source and unit == "line":
        return f"{source}:{number}"
    return f"{source}: {unit} {number}" if source else f"{unit} {number}"


def is_file_source(source: str) -> bool:
    """Whether a source is local: a file by its ending, a pattern with `*` or `?`, or a directory that is there."""
    return ending(source) in READERS or is_pattern(source) or Path(source).is_dir()


def is_pattern(source: str) -> bool:
    """Whether a source names several files at once."""
    return any(sign in source for sign in "*?")


def ending(source: str | Path) -> str:
    """Return a file's ending that says how it is read, in lower case: `.jsonl` of `x.JSONL.gz`."""
    path = Path(source)
    inner = Path(path.stem).suffix.lower() if path.suffix.lower() in COMPRESSED else ""
    return inner if inner in TEXTS else path.suffix.lower()


def check_one_set(source: str, where: str, splits: bool = True) -> None:
    """Refuse a directory of several data sets, or of the splits of one, as a single source.

    `datasets` writes `dataset_dict.json` beside the splits that it saves; a copy of a hub dataset names its
    configurations in README.md.

    Args:
        source: a directory, or anything else, which passes.
        where: how an error begins.
        splits: refuse several splits of one set, too.

    Raises:
        DataError: it is such a directory; says what to name instead.
    """
    path = Path(source)
    if not path.is_dir():
        return
    if splits and (path / "dataset_dict.json").is_file():
        names = [each.name for each in sorted(path.iterdir()) if each.is_dir()]
        raise DataError(
            f"{where}: {source!r} holds the splits {', '.join(names)}; allowed is one of them; name it: "
            f"{path / (names[0] if names else 'train')}"
        )
    named = _configurations(path / "README.md")
    if len(named) > 1:
        raise DataError(
            f"{where}: {source!r} holds the configurations {', '.join(named)} of one dataset, by its README.md; "
            f"allowed are the files of one; name them, as in {path / named[0] / '*'}"
        )


def _configurations(card: Path) -> list[str]:
    """Return the names under `configs` in the front matter of a dataset's card; none without one."""
    if not card.is_file():
        return []
    from huggingface_hub.repocard import metadata_load

    try:
        named = (metadata_load(card) or {}).get("configs")
    except Exception as error:  # of the parser's own kind, or the system's
        logger.debug("%s: its front matter cannot be read: %s", card, error)
        return []
    entries = named if isinstance(named, list) else []
    return [str(each["config_name"]) for each in entries if isinstance(each, dict) and "config_name" in each]


def files_of(source: str, where: str) -> list[Path]:
    """Return the data files of a local source in the order of their names: itself, or those it stands for.

    Files and directories whose names begin with a dot are left out, unless a pattern names them so: copies that
    notebooks keep, and what systems put beside files. So are the caches that `datasets` puts beside what it has saved.

    Raises:
        DataError: a directory or a pattern with no data file, or a URL.
    """
    refuse_url(source, where)
    path = Path(source)
    if path.is_dir():
        found = [file for file in path.rglob("*") if file.is_file() and ending(file) in READERS]
        found = [file for file in found if file.name not in ABOUT_DATA and not _hidden(file.relative_to(path).parts)]
        found = [file for file in found if ending(file) != ".txt"] or found  # notes beside the data
    elif is_pattern(source) and not path.is_file():
        begin = Path(path.anchor) if path.anchor else Path()
        found = [file for file in begin.glob(str(path.relative_to(begin))) if file.is_file()]
        found = [file for file in found if ending(file) in READERS and not _hidden(file.parts, path.parts)]
    else:
        return [path]
    saved = {directory: _saved_in(directory) for directory in {file.parent for file in found}}
    found = [file for file in found if not (names := saved[file.parent]) or file.name in names or not _arrow(file)]
    if not found:
        raise DataError(f"{where}: {source!r} holds no data file; allowed is {FORMS}; fix the path or the pattern")
    return sorted(found)


def refuse_url(source: str, where: str) -> None:
    """Refuse an address on the network, of which a path or a hub id would be read.

    Raises:
        DataError: it is one.
    """
    if "://" in source:
        raise DataError(
            f"{where}: {source!r} is a URL; allowed is {FORMS}; download it and give the file, or write the dataset of "
            "the hub as hub-id:config:split"
        )


def _hidden(parts: Sequence[str], named: Sequence[str] = ()) -> bool:
    """Whether a name in a path begins with a dot, and none of `named`, parts of a pattern, asks for it."""
    asked = [part for part in named if part.startswith(".")]
    dotted = [part for part in parts if part == "__MACOSX" or (part.startswith(".") and part != "..")]
    return any(not any(fnmatchcase(part, each) for each in asked) for part in dotted)


def _arrow(file: Path) -> bool:
    return file.suffix.lower() == ".arrow"


def _saved_in(directory: Path) -> list[str]:
    """Return the files of a data set that `datasets` has saved in a directory, by its state.json; none without one."""
    try:
        state = json.loads((directory / "state.json").read_bytes())
        return [str(each["filename"]) for each in state["_data_files"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, LookupError, TypeError) as error:
        logger.debug("%s: its state.json cannot be read: %s", directory, error)
        return []


def hub_parts(source: str, where: str) -> tuple[str, str | None, str]:
    """Split `hub-id:config:split` into its parts; the configuration is None in `hub-id:split`.

    A split may be sliced, as in `train[:100]`.

    Raises:
        DataError: it is neither of these forms.
    """
    refuse_url(source, where)
    named, bracket, sliced = source.partition("[")
    parts = named.split(":")
    if len(parts) not in (2, 3) or not all(parts) or source.startswith((".", "/", "~")):
        ending = Path(source).suffix
        given = f"{source!r} ends in {ending!r}" if ending and len(parts) == 1 else f"got {source!r}"
        raise DataError(f"{where}: {given}; allowed is {FORMS}; convert the file, or write the source in that form")
    return parts[0], parts[1] if len(parts) == 3 else None, parts[-1] + bracket + sliced


def read_rows(source: str, where: str) -> Rows:
    """Read the rows of a data file.

    Args:
        source: path of a file with one of the known endings.
        where: how an error message begins, such as `search.yaml:7: data.train`.

    Raises:
        DataError: the file is missing, cannot be parsed, holds something other than rows, or is empty.
    """
    [rows] = row_parts(source, where, None)
    return rows


def row_parts(source: str, where: str, size: int | None) -> Iterator[Rows]:
    """Yield the rows of a data file in parts of so many, of which only one is in memory; None is one part.

    A .json file is one value, and is in memory as a whole. Arguments and errors are those of `read_rows`.
    """
    try:
        path = Path(resolved(source))
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not os.path.isfile(path):
        raise DataError(f"{where}: no file {source!r}{_beside(path)}; allowed is {FORMS}; fix the path")
    found, has_rows = READERS[ending(path)](path), False
    while True:
        try:
            part = list(islice(found, size))
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        except Exception as error:  # a parser may raise anything for a file that is broken on purpose
            logger.debug("%s cannot be read", path, exc_info=True)
            raise DataError(
                f"{where}: {source!r} cannot be read as {path.suffix} ({first_line(error)}); allowed is {FORMS}; "
                "fix the file or its ending"
            ) from error
        if part:
            has_rows = True
            yield Rows([each.row for each in part], str(path), part[0].unit, [each.number for each in part])
        if size is None or len(part) < size:
            break
    if not has_rows:
        raise DataError(f"{where}: {source!r} holds no rows; at least one is needed; give a file with examples")


def file_fingerprint(path: Path, sample_above_bytes: int | None = None) -> str:
    """Return `sha256:...` of a file's content.

    Args:
        path: the file.
        sample_above_bytes: hash only the size and 64 evenly spaced blocks of 64 KiB of a file larger than this.
    """
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        if sample_above_bytes is None or size <= sample_above_bytes:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            digest.update(str(size).encode())
            for index in range(64):
                file.seek(index * (size - (1 << 16)) // 63)
                digest.update(file.read(1 << 16))
    return f"sha256:{digest.hexdigest()}"


def _beside(path: Path) -> str:
    parent = path.parent
    for begin in range(1, len(path.parts)):
        below = os.path.join(*path.parts[begin:])
        if os.path.isfile(below):
            return f" (there is {below!r} in the current directory; a path in a file is relative to that file)"
    if not os.path.isdir(parent):
        return f" (there is no directory {str(parent)!r})"
    return nearest(path.name, [p.name for p in parent.iterdir() if ending(p) in READERS])
