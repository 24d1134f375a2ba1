"""A trial that is named, and its checkpoint, found and fetched: what `show`, `export` and `evaluate NAME` read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankray.cli.common import say

if TYPE_CHECKING:
    from rankray.store import StudyStore


def trial_number(study: str, given: str) -> int:
    """Return the number that was given.

    Raises:
        UserError: it is none.
    """
    from rankray.errors import UserError, shown

    if not re.fullmatch(r"[0-9]{1,18}", given):
        raise UserError(
            f"show: got {shown(given)}; allowed: a trial's number, 0 or more, as rankray status {study} lists them; "
            f"give one, or rankray best {study} for the best"
        )
    return int(given)


def place_of(held: StudyStore, trial: dict[str, Any], verb: str) -> str:
    """Return a trial's checkpoint, which must lie in the study's own storage: the store is input.

    Args:
        held: the study.
        trial: as `views.trial` returns it.
        verb: what reads it, for errors.

    Raises:
        StoreError: it has none, or it lies elsewhere, or it was deleted.
    """
    from rankray.checkpoints import places
    from rankray.errors import StoreError
    from rankray.report.commands import retrain_command
    from rankray.store import views
    from rankray.store.origin import origin, storages

    checkpoint, allowed = trial["checkpoint"], [places.absolute(each) for each in storages(held)]
    where = f"{verb}: trial {trial['number']} of {held.name}"
    if not checkpoint:
        raise StoreError(f"{where} has no checkpoint; allowed: a trial that has one; choose another (rankray status)")
    place = next(filter(None, (places.below(each, checkpoint) for each in allowed)), None)
    if place is None:
        raise StoreError(
            f"{where}: its checkpoint {checkpoint} is not in the study's storage, {' or '.join(allowed)}; allowed: one "
            "below it; run this in the directory in which the search was started, if its storage is a relative path"
        )
    if not places.exists(place):
        again = f"train it again: {retrain_command(origin(held), trial['params'])}"
        if trial["number"] in views.retention(held)[1]:
            raise StoreError(
                f"{where}: its checkpoint {checkpoint} is not there, and was not deleted by study.keep_best; allowed: "
                f"where the search wrote it; bring it back, or {again}"
            )
        raise StoreError(
            f"{where}: its checkpoint {checkpoint} was deleted: study.keep_best keeps those of the best "
            f"{held.config.study.keep_best} trials; choose one of these, or {again}"
        )
    return place


def fetched(place: str, scratch: Path) -> Path:
    """Return a checkpoint on this machine's disk, complete and unchanged.

    Args:
        place: where it is.
        scratch: a directory for one that is downloaded.

    Raises:
        CheckpointDamaged: it is not.
    """
    from rankray.checkpoints import manifest, places

    directory = Path(place)
    if places.is_remote(place):
        directory = scratch / "checkpoint"
        places.download(place, directory)
    manifest.check(directory, place, lambda line: say(line, to_stderr=True))
    return directory
