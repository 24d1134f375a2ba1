"""Where a study comes from: its file, the git commit beside it, and where each value was written."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.store import StudyStore

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


def base_has_changed(study: StudyStore, config: Config, where: str) -> bool:
    """Return whether the local model below the adapters of a study is another than when the study was made.

    Args:
        study: what knows its model's fingerprint.
        config: of one of its trials.
        where: how errors begin.

    Raises:
        ModelError: the model is not there any more.
    """
    from rankray.finetune.preflight import check_model_files

    if config.model.lora is None or config.model.path != study.config.model.path:
        return False
    prints, directory = check_model_files(config.model.path, where)
    before = study.provenance
    return directory is not None and any(before.get(key, value) != value for key, value in prints.items())


def other_base(checkpoint: Path, config: Config) -> str:
    """Return a warning where a directory's adapters were not trained on a configuration's model; empty where they were.

    Local models are the same where their files are.
    """
    import json

    from rankray.errors import UserError
    from rankray.finetune.preflight import check_model_files
    from rankray.model.export import ADAPTER

    try:
        base = json.loads((checkpoint / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        logger.debug("%s holds no adapters: %s", checkpoint, error)
        return ""
    if not isinstance(base, str) or not base or base == config.model.path:
        return ""
    try:
        if check_model_files(base, "evaluate")[0] == check_model_files(config.model.path, "evaluate")[0]:
            return ""
    except UserError as error:
        logger.debug("the model below the adapters cannot be compared: %s", error)
    return (
        f"model.path: the adapters in {str(checkpoint)!r} were trained on {base!r}, and are put on "
        f"{config.model.path!r}: the figures are those of neither, unless it is the same model in another place"
    )


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
