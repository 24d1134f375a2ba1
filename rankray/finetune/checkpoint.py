"""Checkpoints: complete Hugging Face directories, written under another name and renamed when they are whole.

    <directory>/step-000030/
        model.safetensors (or adapter_model.safetensors), config, tokenizer    loadable with from_pretrained
        optimizer.pt  scheduler.pt  rng_state.pth  trainer_state.json          transformers' own, for going on
        rankray.json                                                           see `Progress`

What is read back is data, never code: weights are safetensors, and transformers reads the `.pt` and `.pth` files with
`torch.load(weights_only=True)` (it lets numpy's plain array types through for the RNG state). The pickled
`training_args.bin` that the trainer would add is not kept.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rankray.errors import ModelError

STATE_FILE = "rankray.json"
PARTIAL = ".partial-"


@dataclass(frozen=True)
class Progress:
    """Where a trial stands when a checkpoint is made.

    Attributes:
        step: optimizer steps done through all seeds.
        seed_index: which of the trial's training runs this is, from 0.
        seed_step: optimizer steps done in this run.
        metrics: the metrics reported at this step.
        own_metrics: this run's own `eval/...` metrics, before the mean with the finished runs.
        finished: the final `eval/...` metrics of the runs before this one.
        train_sums: what `train/...` metrics of the next report are made of so far, where no report has told them yet.
    """

    step: int
    seed_index: int
    seed_step: int
    metrics: dict[str, float] = field(default_factory=dict)
    own_metrics: dict[str, float] = field(default_factory=dict)
    finished: list[dict[str, float]] = field(default_factory=list)
    train_sums: list[float] = field(default_factory=list)


def write_checkpoint(
    directory: Path,
    progress: Progress,
    save: Callable[[str], None],
    leads: bool = True,
    wait: Callable[[], None] = lambda: None,
) -> str:
    """Write a checkpoint and return its path; it appears under its name complete or not at all.

    Args:
        directory: the trial's.
        progress: what goes into `rankray.json`.
        save: writes everything else into the directory it is given; each worker calls it, for its own RNG state.
        leads: whether this worker is the one that names and renames.
        wait: returns when all workers have called it.
    """
    final = directory / f"step-{progress.step:06d}"
    partial = directory / f"{PARTIAL}{final.name}"
    if leads:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    wait()
    save(str(partial))
    wait()
    if leads:
        (partial / STATE_FILE).write_text(json.dumps(asdict(progress), indent=1), encoding="utf-8")
        _put_in_place(partial, final)
    wait()
    return str(final)


def read_progress(checkpoint: str) -> Progress:
    """Return where the trial stood at a checkpoint.

    Raises:
        ModelError: it is not a checkpoint of rankray's, or not whole.
    """
    file = Path(checkpoint) / STATE_FILE
    try:
        return Progress(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"checkpoint: {checkpoint!r} cannot be resumed ({error}); allowed is a directory that holds {STATE_FILE}; "
            "take an earlier checkpoint or start afresh"
        ) from error


def remove_partial(directory: Path) -> None:
    """Remove what killed processes left half-written in a trial's directory."""
    for path in directory.glob(f"{PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


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
