"""Where a study comes from: its file, the git commit beside it, and where each value was written."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.config import LoadedConfig

logger = logging.getLogger(__name__)

GIT_SECONDS = 5.0
"""How long git may take: a working tree on a slow disk must not keep a search from starting."""
OWN_PLACE = ("name", "store", "storage")
"""Fields of the file that say where a study is kept, not what it does."""


def lineage(loaded: LoadedConfig) -> dict[str, Any]:
    """Return what is stored of a study's origin beside the fingerprints of its data and model.

    Returns:
        `file`; `places`, dotted path to `file:line` of every fixed value that stands in the file, and to `--set path`
        or the like (GIVEN) of all that was given elsewhere; and `git`, the commit of the directory of the file, where
        it is in a repository, as `<hash>` or `<hash> with changes`.
    """
    from rankray.config import all_fields
    from rankray.config.load import GIVEN

    fields = set(all_fields()) - set(OWN_PLACE)
    places = {".".join(map(str, key)): place for key, place in loaded.places.items()}
    file = Path(loaded.file).absolute()
    found: dict[str, Any] = {
        "file": str(file),
        "places": {
            path: place
            for path, place in places.items()
            if place.startswith(GIVEN) or (path in fields and path.split(".")[0] != "space")
        },
    }
    commit = _git(file.parent)
    return found | ({"git": commit} if commit else {})


def _git(directory: Path) -> str:
    """Return the commit that a directory is at, or an empty string."""

    def run(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(directory), *words], capture_output=True, text=True, timeout=GIT_SECONDS, check=True
        )
        return done.stdout.strip()

    try:
        commit = run("rev-parse", "HEAD")
        return f"{commit} with changes" if run("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError) as error:
        logger.debug("%s: no git commit is stored with the study: %s", directory, error)
        return ""
