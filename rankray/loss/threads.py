"""Rows divided among threads: numpy releases the interpreter's lock while it works on a row."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

WORTH_A_THREAD = 200_000
"""Numbers below which starting a thread costs more than it saves."""


def over_rows(function: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Same value as `function(*arrays)`, with the rows divided among as many threads as torch uses.

    For long steps, such as sorting: threads that return to the interpreter every few microseconds spend their time
    waiting for each other.

    Args:
        function: makes one result per row, from that row alone.
        arrays: all with the same number of rows.
    """
    threads = min(torch.get_num_threads(), len(arrays[0]), arrays[0].size // WORTH_A_THREAD)
    if threads < 2:
        return function(*arrays)
    parts = [np.array_split(array, threads) for array in arrays]
    first, *others = zip(*parts, strict=True)
    waiting = [_pool(threads - 1).submit(function, *part) for part in others]
    done = function(*first)
    return np.concatenate([done, *(future.result() for future in waiting)])


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rankray-rows")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # the threads of a pool do not exist in a forked process
