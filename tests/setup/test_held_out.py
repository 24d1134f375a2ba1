import json
import re

import pytest

from rankray.data.files import read_rows
from rankray.errors import DataError
from rankray.setup.held_out import halves_of_hub, set_aside, sorted_out


def test_every_row_is_in_one_of_the_two(tmp_path):
    rows = [{"n": i, "text": f"é{i}"} for i in range(50)]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    train, held_out, count = set_aside([tmp_path / "x.json"], tmp_path, "x")
    kept, aside = read_rows(str(train), "x"), read_rows(str(held_out), "x")
    assert (train.name, held_out.name, count, len(aside)) == ("x.train.jsonl", "x.eval.jsonl", 5, 5)
    assert sorted([*kept, *aside], key=lambda row: row["n"]) == rows
    assert kept == sorted(kept, key=lambda row: row["n"])


def test_what_cannot_be_set_aside(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="holds one row"):
        set_aside([tmp_path / "x.jsonl"], tmp_path, "x")
    (tmp_path / "y.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    (tmp_path / "y.train.jsonl").write_text("mine")
    with pytest.raises(DataError, match=r"y.train.jsonl' exists"):
        set_aside([tmp_path / "y.jsonl"], tmp_path, "y")
    assert (tmp_path / "y.train.jsonl").read_text() == "mine"
    (tmp_path / "y.eval.jsonl").write_text("mine")
    again = f"with --data {tmp_path}/y.train.jsonl --eval {tmp_path}/y.eval.jsonl"
    with pytest.raises(DataError, match=rf"train on what an earlier init set aside {re.escape(again)}"):
        set_aside([tmp_path / "y.jsonl"], tmp_path, "y")


def test_names_say_what_is_held_out(tmp_path):
    names = [
        "train-00000.parquet",
        "validation-00000.parquet",
        "test-0.parquet",
        "contest.jsonl",
        "dev/x.jsonl",
        "evals.json",
    ]
    files = [tmp_path / name for name in names]
    train, held_out, test = ([str(f.relative_to(tmp_path)) for f in each] for each in sorted_out(files, tmp_path))
    assert train == ["train-00000.parquet", "contest.jsonl", "evals.json"]
    assert held_out == ["validation-00000.parquet", "dev/x.jsonl"]
    assert test == ["test-0.parquet"]


def test_slices_of_the_hub():
    assert halves_of_hub("a/b:main:train") == ("a/b:main:train[:95%]", "a/b:main:train[95%:]")
    with pytest.raises(DataError, match="is a slice"):
        halves_of_hub("a/b:train[:10]")
