"""A clean process for each training run: what the run changes in the process is restored at its end.

Restored are torch's thread count, its choice of deterministic algorithms and of TF32, accelerate's state and the
environment variables of accelerate, FSDP and `full_determinism`. With `model.resident`, which hands out copies of the
base weights, a trial in a used process gives the same numbers as in a fresh one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rankray.finetune.trainer import reset_accelerate

LIBRARY_VARIABLES = ("ACCELERATE_", "FSDP_", "CUDA_LAUNCH_", "CUBLAS_", "ASCEND_", "HCCL_", "FLASH_ATTENTION_")
"""How the environment variables begin that transformers sets, for accelerate and for `full_determinism`."""


@contextmanager
def clean_process(threads: int | None) -> Iterator[None]:
    """Start a run with the state of a fresh process, and restore that state afterwards.

    Args:
        threads: CPU threads of torch in the calling thread; None leaves their number as it is.
    """
    threads_before = torch.get_num_threads()
    variables_before = {name: value for name, value in os.environ.items() if name.startswith(LIBRARY_VARIABLES)}
    reset_accelerate()
    torch.set_num_threads(threads or threads_before)
    with _frozen_heap(), _same_arithmetic():
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            _restore_variables(variables_before)
            reset_accelerate()
            free_memory()


@contextmanager
def _frozen_heap() -> Iterator[None]:
    """Exclude what exists already from garbage collection: the libraries' objects alone take it half a second."""
    freezes = gc.get_freeze_count() == 0
    if freezes:
        gc.freeze()
    try:
        yield
    finally:
        if freezes:
            gc.unfreeze()


@contextmanager
def _same_arithmetic() -> Iterator[None]:
    """Put back which algorithms and products torch uses: `full_determinism` and `tf32` set that for the process."""
    backends: Any = torch.backends
    is_deterministic = torch.are_deterministic_algorithms_enabled()
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = backends.cudnn.deterministic, backends.cudnn.benchmark
    precision = backends.fp32_precision
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(is_deterministic, warn_only=warns_only)
        backends.cudnn.deterministic, backends.cudnn.benchmark = cudnn
        backends.fp32_precision = precision


def _restore_variables(before: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.startswith(LIBRARY_VARIABLES)]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)


def free_memory() -> None:
    """Collect what the last training run left behind, on the accelerator too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
