"""Setting examples aside: a search needs data it does not train on, and a single file has none."""

from __future__ import annotations

import json
import random
from pathlib import Path

from rankray.data.files import FORMS, ending, read_rows
from rankray.errors import DataError

SHARE = 0.1
MOST = 1000
"""The most examples that are set aside."""
SEED = 0


def set_aside(file: Path, directory: Path) -> tuple[Path, Path, int]:
    """Write two files from one: its rows without the held-out ones, and those.

    Every tenth row at random, at least one and at most `MOST`, with a fixed seed; the order stays as it is.

    Args:
        file: a data file.
        directory: where the two are written, as `NAME.train.jsonl` and `NAME.eval.jsonl`.

    Returns:
        The two files, and how many rows the second has.

    Raises:
        DataError: the file cannot be read, has a single row, or would have to be overwritten.
    """
    rows = read_rows(str(file), "init")
    if len(rows) < 2:
        raise DataError(
            f"init: {str(file)!r} holds one row; needed are two, one to hold out; give --eval, or more rows"
        )
    held = set(random.Random(SEED).sample(range(len(rows)), max(1, min(MOST, round(len(rows) * SHARE)))))
    stem = file.name[: file.name.lower().rindex(ending(file))]
    places = directory / f"{stem}.train.jsonl", directory / f"{stem}.eval.jsonl"
    for place, kept in zip(places, (False, True), strict=True):
        if place.exists():
            raise DataError(f"init: {str(place)!r} exists; allowed is a new file; remove it, or give --eval")
        lines = [json.dumps(row, ensure_ascii=False, default=str) for i, row in enumerate(rows) if (i in held) == kept]
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return places[0], places[1], len(held)


def halves_of_hub(source: str) -> tuple[str, str]:
    """Return two slices of one split of a hub dataset: its first 95 %, and the rest.

    Raises:
        DataError: the split is already sliced.
    """
    if source.endswith("]"):
        raise DataError(f"init: {source!r} is a slice; allowed is a whole split; give --eval. Sources are {FORMS}")
    return f"{source}[:95%]", f"{source}[95%:]"
