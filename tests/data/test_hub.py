"""Slices of streamed splits are the rows that `datasets` takes of downloaded ones."""

import datasets
import pytest
from datasets import SplitDict, SplitInfo

from rankray.data.hub import _streamed_slices

SIZES = {"train": 33, "test": 7}
SPLITS = {name: datasets.Dataset.from_list([{"n": f"{name} {i}"} for i in range(size)]) for name, size in SIZES.items()}


@pytest.mark.parametrize("has_card", [True, False])
@pytest.mark.parametrize(
    "spec",
    ["train[:5%]", "train[95%:]", "train[10:20]", "train[30:]", "train[-10:]", "train+test[:3]", "train[:2]+train[4:]"],
)
def test_a_slice_has_the_rows_it_has_without_streaming(spec, has_card):
    whole, loaded = datasets.DatasetDict(SPLITS), []

    def load(name):
        loaded.append(name)
        stream = whole[name].to_iterable_dataset()
        if has_card:
            stream.info.splits = SplitDict({name: SplitInfo(name, num_examples=SIZES[name])})
        return stream

    cuts = datasets.ReadInstruction.from_spec(spec).to_absolute(SIZES)
    wanted = [SPLITS[cut.splitname][i]["n"] for cut in cuts for i in range(cut.from_, cut.to)]
    assert [row["n"] for row in _streamed_slices(load, spec)] == wanted
    assert len(loaded) == len(set(loaded))
