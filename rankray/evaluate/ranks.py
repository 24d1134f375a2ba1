"""The workers that evaluate together: each takes a share of the examples, and all get the whole result.

With one process everything is its own share. A model that is sharded over the workers (FSDP) can only compute while all
of them do, so there every worker takes as many batches and steps as the one with the most (`in_step`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed


class Ranks:
    """The workers of a trial, as seen from one of them.

    Args:
        model: what they evaluate.

    Attributes:
        rank: this worker's number, from 0.
        size: how many there are.
        in_step: whether the model is sharded, so that all have to compute at the same time.
    """

    def __init__(self, model: Any) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1
        self._device = model.device
        self.in_step = self.size > 1 and any(hasattr(each, "device_mesh") for each in model.parameters())

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Return the indices of this worker's part, the longest first: all parts take about as long.

        No worker gets more than an even number, and the sums of their lengths are about the same: the longest of what
        is left goes to the worker that has least so far.
        """
        room = self.largest(len(lengths))
        parts: list[list[int]] = [[] for _ in range(self.size)]
        loads = [0] * self.size
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            worker = min((each for each in range(self.size) if len(parts[each]) < room), key=loads.__getitem__)
            parts[worker].append(index)
            loads[worker] += lengths[index]
        return parts[self.rank]

    def largest(self, count: int) -> int:
        """Return the most items that a worker gets of so many."""
        return -(-count // self.size)

    def batches(self, mine: int, count: int, batch_size: int) -> int:
        """Return how many batches this worker takes for `mine` of `count` items; the same number everywhere in step."""
        return -(-(self.largest(count) if self.in_step else mine) // batch_size)

    def any(self, flag: bool) -> bool:
        """Return whether any worker says so, where they are in step; this worker's own flag elsewhere."""
        if not self.in_step:
            return flag
        held = torch.tensor([float(flag)], device=self._device)
        distributed.all_reduce(held, op=distributed.ReduceOp.MAX)
        return bool(held.item())

    def sum(self, vector: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all workers."""
        if self.size > 1:
            vector = vector.to(self._device)
            distributed.all_reduce(vector)
        return vector
