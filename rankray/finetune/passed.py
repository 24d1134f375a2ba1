"""Remember what passed the check that needs the libraries of training, so that it is made once.

`trial_check` imports torch and TRL, seconds of work before a search starts. Its verdict depends on the configuration,
on the files it names and on what is installed; a configuration that passed is not checked again while none of these
has changed. Only what passed is remembered. `rankray check` always checks, and remembers too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankray import paths
from rankray.config import Config
from rankray.config.space import RATE
from rankray.data.left_out import LeftOut
from rankray.data.lengths import LengthTable
from rankray.finetune import schedules
from rankray.finetune.preflight import Findings

logger = logging.getLogger(__name__)

LOOKED_AT = ("model", "data", "loss", "train", "evaluate")
"""The sections of a configuration that `trial_check` looks at; and GPUs per worker, and what it looks at of the space:
all of it with `train.sft.*`, and the learning rates where `train.sft` has a schedule (`rate_check`)."""
LINES = ("notes", "warnings", "unseen")
"""What a check says in lines, all of which are kept."""
KEPT_DAYS = 30
COMMIT = re.compile(r"[0-9a-f]{40}")


def key_of(config: Config, fingerprints: Mapping[str, Any]) -> str | None:
    """Return under which name a check of a configuration is remembered; None if it cannot be.

    Args:
        config: as it is trained, its model's revision pinned.
        fingerprints: of its data and model, as `preflight` finds them.

    A path in the space, data of the hub and a model without a commit have no fingerprint here.
    """
    tree = config.model_dump(mode="json", include=set(LOOKED_AT))
    for name in ("functions", "every_steps"):
        tree["evaluate"].pop(name)
    tree["gpus"] = config.resources.gpus_per_worker
    space = config.model_dump(mode="json", include={"space"})["space"]
    if not any(path.startswith("train.sft.") for path in space):
        has_schedule = schedules.TYPE in config.train.sft or schedules.SETTINGS in config.train.sft
        space = {RATE: space[RATE]} if has_schedule and RATE in space else {}
    tree["space"] = space
    splits = fingerprints.get("data", {})
    has_prints = bool(splits) and all(str(each).startswith("sha256:") for each in splits.values())
    is_known = "model_files" in fingerprints or COMMIT.fullmatch(config.model.revision or "") is not None
    if not has_prints or not is_known or any(path.startswith(("data.", "model.")) for path in config.space):
        return None
    text = json.dumps([tree, dict(fingerprints), _installed()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def recall(key: str) -> Findings | None:
    """Return what the check found that passed under this name; None if there was none, or it cannot be read."""
    try:
        tree = json.loads(_file(key).read_text(encoding="utf-8"))
        data = {split: LengthTable(**table) for split, table in tree["data"].items()}
        left_out = {split: LeftOut.from_json(each) for split, each in tree["left_out"].items()}
        notes, warnings, unseen = (list(tree[name]) for name in LINES)
        return Findings(data=data, left_out=left_out, notes=notes, warnings=warnings, unseen=unseen)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("no check is remembered as %s: %s", key, error)
        return None


def remember(key: str, found: Findings) -> None:
    """Keep what a check found that passed; where nothing can be written, the next one is made again."""
    tables = {split: table.as_json() for split, table in found.data.items()}
    left_out = {split: each.as_json() for split, each in found.left_out.items()}
    text = json.dumps({"data": tables, "left_out": left_out, **{name: getattr(found, name) for name in LINES}})
    file = _file(key)
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _delete_old(file.parent)
        handle, unfinished = tempfile.mkstemp(dir=file.parent, prefix=".")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(unfinished, file)
    except OSError as error:
        logger.debug("that this configuration passed is not kept: %s", error)


def _file(key: str) -> Path:
    return paths.cache_home() / "checked" / f"{key}.json"


def _delete_old(place: Path) -> None:
    oldest = time.time() - KEPT_DAYS * 86_400
    for file in place.iterdir():
        if file.stat().st_mtime < oldest:
            file.unlink(missing_ok=True)


def _installed() -> list[str]:
    """Return what is installed, and which accelerators there are: names and times of files, nothing is imported."""
    package = Path(__file__).resolve().parents[1]
    ours = sorted(f"{file} {file.stat().st_mtime_ns}" for file in package.rglob("*.py"))
    libraries = sorted(
        {info.name for place in {entry for entry in sys.path if entry} for info in Path(place).glob("*.dist-info")}
    )
    accelerators = ("nvidia[0-9]*", "kfd", "dri/*")
    devices = sorted(str(device) for pattern in accelerators for device in Path("/dev").glob(pattern))
    return [sys.version, os.environ.get("CUDA_VISIBLE_DEVICES", ""), *ours, *libraries, *devices]
