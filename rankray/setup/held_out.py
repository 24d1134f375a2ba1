"""Setting examples aside: a search needs data it does not train on, and often there are none beside what is given."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from rankray.data.files import FORMS, HELD_OUT, TEST, row_parts
from rankray.data.parse import ROWS_AT_A_TIME
from rankray.errors import DataError

SHARE = 0.1
MOST = 1000
"""The most examples that are set aside."""
PERCENT = 5
"""How much of a hub dataset is held out where nothing else is asked for."""
SEED = 0


def sorted_out(files: Sequence[Path], base: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return which files are trained on, which are held out, and which are for the last word, by their names.

    Args:
        files: of one directory or pattern.
        base: the directory; the names below it count.
    """
    named = {file: str(file.relative_to(base) if file.is_relative_to(base) else file.name).lower() for file in files}
    held_out = [file for file, name in named.items() if HELD_OUT.search(name)]
    test = [file for file, name in named.items() if TEST.search(name) and file not in held_out]
    return [file for file in files if file not in held_out and file not in test], held_out, test


def set_aside(
    files: Sequence[Path], directory: Path, stem: str, unusable: Collection[int] = (), blank: Collection[int] = ()
) -> tuple[Path, Path, int]:
    """Write two files from the rows of some: the rows without the held-out ones, and those.

    Every tenth row at random, at least one and at most `MOST`, with a fixed seed; the order stays as it is. Rows
    without an answer are among them as they are drawn, but never alone. Only a part of the rows is in memory.

    Args:
        files: data files, whose rows have one form.
        directory: where the two are written, as `STEM.train.jsonl` and `STEM.eval.jsonl`.
        stem: what their names begin with.
        unusable: rows, from 0, that no example is made from; they stay where they are.
        blank: rows, from 0, whose answer is empty.

    Returns:
        The two files, and how many rows the second has.

    Raises:
        DataError: a file cannot be read, there are no two rows to train on, or something would have to be overwritten.
    """
    places = directory / f"{stem}.train.jsonl", directory / f"{stem}.eval.jsonl"
    for place in places:
        if place.exists():
            again = shlex.join(["--data", str(places[0]), "--eval", str(places[1])])
            both = f"train on what an earlier init set aside with {again}, or remove both"
            way = both if all(each.is_file() for each in places) else "remove it, or give --eval"
            raise DataError(f"init: {str(place)!r} exists; allowed is a new file; {way}")
    count = sum(len(part) for file in files for part in row_parts(str(file), "init", ROWS_AT_A_TIME))
    usable = [number for number in range(count) if number not in unusable] if unusable else range(count)
    if len(usable) < 2:
        raise DataError(
            f"init: {str(files[0])!r} holds one row to train on; needed are two, one to hold out; give --eval, or more "
            "rows"
        )
    answered = [number for number in usable if number not in blank] if blank else usable
    if len(answered) < 2:
        what = "one row with an answer" if answered else "no row with an answer"
        raise DataError(
            f"init: {str(files[0])!r} holds {what}; needed are two, one to hold out; name the column of the answers "
            "with --completion, give --eval, or fill the rows"
        )
    size = max(1, min(MOST, round(len(usable) * SHARE)))
    held = set(random.Random(SEED).sample(usable, size))
    if held.isdisjoint(answered):
        held = set(random.Random(SEED).sample(answered, min(size, len(answered) // 2)))
    number = 0
    with places[0].open("w", encoding="utf-8") as train, places[1].open("w", encoding="utf-8") as held_out:
        for file in files:
            for part in row_parts(str(file), "init", ROWS_AT_A_TIME):
                for row in part:
                    line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
                    (held_out if number in held else train).write(line)
                    number += 1
    return places[0], places[1], len(held)


def halves_of_hub(source: str, percent: int = PERCENT) -> tuple[str, str]:
    """Return two slices of one split of a hub dataset: its last so many percent are the second, the rest the first.

    Raises:
        DataError: the split is already sliced.
    """
    if source.endswith("]"):
        raise DataError(f"init: {source!r} is a slice; allowed is a whole split; give --eval. Sources are {FORMS}")
    return f"{source}[:{100 - percent}%]", f"{source}[{100 - percent}%:]"
