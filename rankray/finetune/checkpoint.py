"""Checkpoints: complete Hugging Face directories, written under a temporary name and renamed when complete.

    <directory>/step-000030/
        model.safetensors (or adapter_model.safetensors), config, tokenizer    loadable with from_pretrained
        optimizer.pt  scheduler.pt  rng_state.pth  trainer_state.json          transformers' own, to resume from
        rankray.json                                                           see `Progress`
        rankray-manifest.json                                                  sizes and digests of all of it

Resuming reads data, never code: weights are safetensors, and transformers reads the `.pt` and `.pth` files with
`torch.load(weights_only=True)` (for the RNG state it also allows numpy's plain array types). The trainer's pickled
`training_args.bin` is deleted.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rankray.checkpoints import manifest, places
from rankray.checkpoints.manifest import STATE_FILE
from rankray.config import Config
from rankray.config.where import PATHS
from rankray.errors import ConfigError, ModelError, StorageError, StorageFull, first_line, shown
from rankray.paths import same_path

logger = logging.getLogger(__name__)

PARTIAL = ".partial-"
SMALLEST_ROOM_BYTES = 1 << 16
"""A disk with less room than this is full."""
RESUMED_WITH = ("model", "data", "train")
"""Sections of the configuration whose values a checkpoint is resumed with."""
CHANGEABLE = frozenset(
    {
        "train.max_steps",
        "train.epochs",
        "train.threads",
        "train.micro_batch_size",
        "train.checkpoint_every_steps",
        "data.eval",
        "data.test",
    }
)
"""Fields of these sections that may differ all the same, because they have their effect from the next step on."""


@dataclass(frozen=True)
class Progress:
    """How far a trial has come at a checkpoint.

    Attributes:
        step: optimizer steps done, over all seeds.
        seed_index: which of the trial's training runs this is, from 0.
        seed_step: optimizer steps done in this run.
        metrics: the metrics reported at this step.
        own_metrics: the `eval/...` metrics of this run alone, before the mean with the finished runs.
        finished: the final `eval/...` metrics of the runs before this one.
        train_sums: the sums behind the `train/...` metrics of the next report, so far.
        config: what it was trained with, without the store, so that it can be evaluated by itself.
        manifest: whether the checkpoint must have a list of its files (`rankray.checkpoints.manifest`).
    """

    step: int
    seed_index: int
    seed_step: int
    metrics: dict[str, float] = field(default_factory=dict)
    own_metrics: dict[str, float] = field(default_factory=dict)
    finished: list[dict[str, float]] = field(default_factory=list)
    train_sums: list[float] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    manifest: bool = field(default=False, compare=False)


def write_checkpoint(
    directory: Path,
    progress: Progress,
    save: Callable[[str], None],
    leads: bool = True,
    wait: Callable[[], None] = lambda: None,
    rank: int = 0,
) -> str:
    """Write a checkpoint and return its path. It appears under its name complete or not at all.

    Args:
        directory: of the trial.
        progress: the content of `rankray.json`.
        save: writes everything else into a given directory; every worker calls it, for its own RNG state.
        leads: whether this worker makes and renames the directory.
        wait: returns when all workers have called it.
        rank: of this worker among all of the trial.

    Raises:
        StorageFull: there is no room for it.
        StorageError: the directory does not take it. What `save` raises of its own is passed on.
    """
    final = directory / f"step-{progress.step:06d}"
    partial = directory / f"{PARTIAL}{final.name}"
    try:
        if leads:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        wait()
        save(str(partial))
        wait()
        if leads:
            written = asdict(replace(progress, manifest=True))
            (partial / STATE_FILE).write_text(json.dumps(written, indent=1), encoding="utf-8")
            manifest.write(partial, rank)
            _put_in_place(partial, final)
    except Exception as error:
        full = _is_full(error, directory)
        failed = isinstance(error, OSError) and error.errno is not None
        if not (full or failed or places.obstacle(str(directory))):
            raise
        shutil.rmtree(partial, ignore_errors=True)
        step, why = progress.step, first_line(error)
        if full:
            raise StorageFull(
                f"storage: {directory} is full, and the checkpoint of step {step} could not be written ({why}); needed "
                "is room for it; free some space, or give another storage"
            ) from error
        raise StorageError(
            f"storage: {directory} fails: the checkpoint of step {step} could not be written ({why}); needed is a "
            "directory that takes files; look at the disk, the mount and the permissions"
        ) from error
    wait()
    return str(final)


def _is_full(error: BaseException, directory: Path) -> bool:
    """Whether an error says that a disk or a quota is full; torch and safetensors say so in words of their own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "No space left on device" in str(seen) or "Disk quota exceeded" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    writes = isinstance(error, OSError) or any(word in str(error) for word in ("PytorchStreamWriter", "file write"))
    try:
        return writes and shutil.disk_usage(directory).free < SMALLEST_ROOM_BYTES
    except OSError as unknown:
        logger.debug("the room in %s is unknown: %s", directory, unknown)
        return False


def read_progress(checkpoint: str) -> Progress:
    """Return where the trial stood at a checkpoint.

    Raises:
        ModelError: it is not a checkpoint of rankray, or it is incomplete.
    """
    file = Path(checkpoint) / STATE_FILE
    try:
        return Progress(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"checkpoint: {checkpoint!r} cannot be resumed ({error}); allowed is a directory that holds {STATE_FILE}; "
            "take an earlier checkpoint, or start without one"
        ) from error


def check_resumable(progress: Progress, config: Config, checkpoint: str) -> None:
    """Refuse to resume with settings that would have no effect, because the checkpoint's own are restored.

    `CHANGEABLE` may differ, and so may the loss, which is computed anew.

    Raises:
        ConfigError: names the first field that differs.
    """
    now = config.model_dump(mode="json", include=set(RESUMED_WITH))
    for section in RESUMED_WITH:
        before = progress.config.get(section, {})
        for name in before:
            path = f"{section}.{name}"
            old, new = before[name], now[section].get(name)
            if old == new or path in CHANGEABLE or name not in now[section]:
                continue
            if path in PATHS and isinstance(old, str) and isinstance(new, str) and same_path(old, new):
                continue
            raise ConfigError(
                f"{path}: got {shown(new)}, and {checkpoint!r} was trained with {shown(old)}, which it restores; "
                f"allowed to differ are {', '.join(sorted(CHANGEABLE))} and the loss; set it back, or train without "
                "--resume"
            )


def remove_partial(directory: Path) -> None:
    """Remove unfinished checkpoints, which killed processes left in a trial's directory."""
    for path in directory.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            logger.debug("%s could not be removed", path)


def _put_in_place(partial: Path, final: Path) -> None:
    for file in partial.rglob("*"):
        if file.is_file():
            _flush(file)
    if final.exists():
        shutil.rmtree(final)
    os.replace(partial, final)
    _flush(final.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
