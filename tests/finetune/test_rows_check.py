from pathlib import Path

import pytest

from rankray.finetune.rows_check import warnings_of_names


@pytest.mark.parametrize(
    ("split", "files", "said"),
    [
        ("train", ["d/train.jsonl", "d/validation.jsonl", "d/test-00000-of-00001.parquet"], "validation.jsonl, test-0"),
        ("train", ["d/train/a.arrow", "d/test/a.arrow"], "a.arrow, held-out"),
        ("train", ["d/test/a.jsonl"], ""),
        ("train", ["d/contest.jsonl", "d/values.jsonl"], ""),
        ("train", [], ""),
        ("eval", ["d/test.jsonl"], "is a test split by its name"),
        ("eval", ["d/validation.jsonl"], ""),
    ],
    ids=str,
)
def test_names_that_say_something_else_are_warned_of(split, files, said):
    found = warnings_of_names(split, Path(files[0]).name if files else "", [Path(file) for file in files], "w")
    assert (said in found[0]) if said else (found == [])
