"""Batches of several workers in which no example comes twice in one pass.

accelerate completes the last batches of a pass with examples from its beginning, so that all workers have as many
batches of the same size. Those examples would be trained on twice, and evaluated twice. Here the last batch is as small
as it is, and a worker that has none left gets a filler: one example, whose labels are ignored. It still makes its
forward and backward pass, without which the others would wait for ever.

A batch of the optimizer is then made of the same examples whatever the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import BatchSamplerShard
from accelerate.state import GradientState
from torch.utils.data import BatchSampler

from rankray.loss.tokens import IGNORED


class OwnBatches(BatchSampler):
    """One worker's batches of a pass: the first worker's, the second's, ..., and again, as accelerate deals them.

    Args:
        batches: those of all workers; the last one may be smaller.
        workers: how many workers share them.
        worker: which one this is, from 0.
    """

    def __init__(self, batches: Any, workers: int, worker: int) -> None:
        self.batches, self.workers, self.worker = batches, workers, worker
        self.sampler, self.batch_size, self.drop_last = batches.sampler, batches.batch_size, False

    @property
    def last_round(self) -> int:
        """How many workers have a batch in the last round."""
        return len(self.batches) % self.workers or self.workers

    @property
    def ends_with_filler(self) -> bool:
        """Whether this worker's last batch is a filler: one example, of which nothing may be learnt."""
        return self.worker >= self.last_round

    def __len__(self) -> int:
        return -(-len(self.batches) // self.workers)

    def __iter__(self) -> Iterator[list[int]]:
        first: list[int] = []
        for index, batch in enumerate(self.batches):
            first = first or list(batch[:1])
            if index % self.workers == self.worker:
                yield batch
        if self.ends_with_filler:
            yield first


def deal_once(loader: Any) -> None:
    """Make a loader that accelerate has prepared for several workers deal each example once.

    accelerate's own dealing stays where there is one worker, a stream, whole batches only (`dataloader_drop_last`), or
    a sampler that has dealt the batches itself.
    """
    shard = getattr(loader, "batch_sampler", None)
    if not isinstance(shard, BatchSamplerShard) or shard.num_processes == 1 or shard.drop_last:
        return
    workers, batches = shard.num_processes, shard.batch_sampler
    if shard.split_batches:  # a batch that is split among the workers is a batch for each of them
        batches = BatchSampler(batches.sampler, shard.batch_size // workers, drop_last=False)
    own = OwnBatches(batches, workers, shard.process_index)
    shard.batch_sampler, shard.batch_size, shard.split_batches = own, own.batch_size, False
    shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False


def own_batches(loader: Any) -> OwnBatches | None:
    """Return what deals a loader's batches since `deal_once`, also where its first batches are skipped."""
    sampler = loader
    while sampler is not None and not isinstance(sampler, OwnBatches):
        sampler = getattr(sampler, "batch_sampler", None)
    return sampler


def ignore_repeated(batch: Any, flat: bool) -> Any:
    """Return a batch of the loader that is being read, with the labels ignored of what the pass has had already.

    That is a filler, and where accelerate deals, the rows that it repeats.

    Args:
        batch: as the loader has given it.
        flat: whether all examples of a batch are in one row, where those repeated cannot be told from the others.
    """
    state = GradientState()
    if not state.end_of_dataloader or "labels" not in batch:
        return batch
    labels_BT = batch["labels"]
    if own := own_batches(state.active_dataloader):
        keep = 0 if own.ends_with_filler else len(labels_BT)
    else:
        keep = len(labels_BT) if flat else _rows_before_the_end(state.active_dataloader, len(labels_BT))
    if keep == len(labels_BT):
        return batch
    labels_BT = labels_BT.clone()
    labels_BT[keep:] = IGNORED
    return {**batch, "labels": labels_BT}


def _rows_before_the_end(loader: Any, rows: int) -> int:
    """Return how many rows of this worker's last batch are not from the beginning again.

    All of them where that cannot be known: of a stream, and where a row is not an example.
    """
    shard = getattr(loader, "batch_sampler", None)
    if not isinstance(shard, BatchSamplerShard) or shard.num_processes == 1 or loader.remainder <= 0:
        return rows
    share = shard.batch_size // (shard.num_processes if shard.split_batches else 1)
    return min(max(loader.remainder - shard.process_index * rows, 0), rows) if rows == share else rows
