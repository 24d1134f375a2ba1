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
"""Fields that say where a study is kept, not what it does; a store's URL may hold a password."""


def lineage(loaded: LoadedConfig) -> dict[str, Any]:
    """Return what is stored of a study's origin beside the fingerprints of its data and model.

    Returns:
        `file`; `places`, dotted path to `file:line` or `--set path` of every fixed value that was given; and `git`, the
        commit of the directory of the file, where it is in a repository: `<hash>`, or `<hash> with changes`.
    """
    from rankray.config import all_fields

    fields = all_fields()
    given = [path for path in (".".join(map(str, key)) for key in loaded.places) if path in fields]
    file = Path(loaded.file).absolute()
    found: dict[str, Any] = {
        "file": str(file),
        "places": {path: loaded.where(path) for path in given if path.split(".")[0] not in (*OWN_PLACE, "space")},
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
