"""Each example once in a pass, whatever the number of workers; `test_workers.py` has the same with real workers."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler, prepare_data_loader, skip_first_batches
from accelerate.state import PartialState
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from rankray.finetune.batches import OwnBatches, deal_once, ignore_repeated, own_batches


@pytest.fixture(autouse=True)
def one_process():
    PartialState(cpu=True)


def dealt(rows, size, workers):
    """What each worker gets in a pass over so many rows: its batches, and the object that dealt them."""
    batches = BatchSampler(SequentialSampler(range(rows)), size, drop_last=False)
    everyone = [OwnBatches(batches, workers, worker) for worker in range(workers)]
    return [list(own) for own in everyone], everyone


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_a_step_is_made_of_the_same_examples_whatever_the_number_of_workers(workers):
    for rows, share, parts in itertools.product(range(1, 50), (1, 2, 3), (1, 2, 3)):
        given, everyone = dealt(rows, share, workers)
        assert [len(batches) for batches in given] == [len(own) for own in everyone] == [len(given[0])] * workers
        for own, batches in zip(everyone, given, strict=True):
            if own.ends_with_filler:
                assert batches.pop() == [0]
        size, found = workers * share * parts, []
        for start in range(0, len(given[0]), parts):
            found.append(sorted(row for batches in given for batch in batches[start : start + parts] for row in batch))
        assert found == [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]


def loaders(rows, size, workers, **options):
    """The loaders of a pass as accelerate prepares them, one for each worker."""
    loader = DataLoader([{"row": row, "labels": torch.tensor([row, row])} for row in range(rows)], size)
    settings = {"num_processes": workers, "rng_types": None, **options}
    return [prepare_data_loader(loader, process_index=worker, **settings) for worker in range(workers)]


def learnt(loader, flat=False):
    """The rows of each batch that still have labels."""
    parts = [ignore_repeated(batch, flat) for batch in loader]
    return [[int(row) for row in part["row"][part["labels"][:, 0] != -100]] for part in parts]


def test_accelerate_still_repeats_the_first_examples_of_a_pass():
    """The trap of docs/traps.md: where this fails, `batches.py` may have become unnecessary."""
    batches = BatchSampler(SequentialSampler(range(5)), 2, drop_last=False)
    assert list(BatchSamplerShard(batches, 2, 1)) == [[2, 3], [1, 2]]
    assert list(BatchSamplerShard(batches, 2, 0)) == [[0, 1], [4, 0]]


def test_a_seed_still_has_the_order_that_the_seed_before_it_has_a_pass_later():
    """A trap of docs/traps.md, which may then be left out."""
    samplers = [SeedableRandomSampler(range(20), data_seed=seed) for seed in (0, 1)]
    for sampler, number in zip(samplers, (1, 0), strict=True):
        sampler.set_epoch(number)
    assert list(samplers[0]) == list(samplers[1])


@pytest.mark.parametrize("split", [False, True])
def test_a_prepared_loader_deals_each_example_once(split):
    for rows, workers in ((13, 2), (13, 3), (1, 3), (4, 2), (5, 2)):
        made = loaders(rows, 2 * (workers if split else 1), workers, split_batches=split)
        for loader in made:
            deal_once(loader)
        found = [learnt(loader) for loader in made]
        assert {len(batches) for batches in found} == {-(-rows // (2 * workers))}
        assert sorted(row for batches in found for batch in batches for row in batch) == list(range(rows))
        assert {len(loader) for loader in made} == {len(found[0])}, "else workers plan different numbers of steps"


def test_a_filler_is_ignored_in_flat_batches_and_when_a_pass_is_resumed():
    [_, second] = loaders(9, 4, 2)
    deal_once(second)
    assert learnt(second, flat=True) == [[4, 5, 6, 7], []]
    assert learnt(skip_first_batches(second, 1), flat=True) == [[]]


def test_what_accelerate_repeats_is_ignored_where_it_deals():
    """Evaluation, where all workers' batches must have the same size."""
    for rows, workers in ((13, 2), (13, 3), (1, 3), (4, 2), (5, 2)):
        for split in (False, True):
            made = loaders(rows, 2 * (workers if split else 1), workers, split_batches=split)
            found = [learnt(loader) for loader in made]
            assert sorted(row for batches in found for batch in batches for row in batch) == list(range(rows))


def test_rows_that_are_no_examples_are_left_alone():
    """A collator of one's own may make two rows of each example."""

    def twice(rows):
        return {"row": torch.tensor(rows * 2), "labels": torch.zeros(2 * len(rows), 2, dtype=torch.long)}

    loader = DataLoader(range(5), 2, collate_fn=twice)
    [alone], [_, second] = (
        [prepare_data_loader(loader, num_processes=workers, process_index=worker) for worker in range(workers)]
        for workers in (1, 2)
    )
    assert learnt(alone) == [[0, 1, 0, 1], [2, 3, 2, 3], [4, 4]]
    assert learnt(second) == [[2, 3, 2, 3], [1, 2, 1, 2]], (
        "those are repeated, but which rows belong to which is unknown"
    )


def test_other_loaders_stay_as_they_are():
    [alone] = loaders(5, 2, 1)
    whole = DataLoader(range(13), 2, drop_last=True)
    for loader in (alone, SimpleNamespace(), prepare_data_loader(whole, num_processes=2, process_index=0)):
        deal_once(loader)
        assert own_batches(loader) is None
    assert learnt(alone) == [[0, 1], [2, 3], [4]]
