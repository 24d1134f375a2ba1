from __future__ import annotations

import csv
from pathlib import Path

import pyarrow.parquet
import pytest

from rankray.contracts import Report
from rankray.errors import StoreError
from rankray.store import open_study
from rankray.store.export import step_rows, trial_rows, write_csv, write_parquet
from store.helpers import begin, make_config

SPACE = {"loss.max_scale": {"choice": [None, 2.0]}, "train.seed": {"int": [1, 9]}, "model.dtype": {"choice": ["auto"]}}
POINTS = [{"loss.max_scale": None, "train.seed": 1}, {"loss.max_scale": 2.0, "train.seed": 2}]


@pytest.fixture
def study(file_url: str):
    config = make_config(space=SPACE, study={"trials": 3, "warm_start": POINTS, "pruner": "none"})
    with open_study(file_url, config) as store:
        for value in (1.0, 2.0):
            number = begin(store).number
            store.report(number, Report(10, {"eval/nll": value, "train/loss": float("nan")}, f"c{number}"))
            store.complete(number, {"eval/nll": value, "eval/accuracy": 0.5})
        store.fail(begin(store).number, 'it said "no", twice', retry=False)
        yield store


def test_one_row_per_trial(study, tmp_path: Path) -> None:
    write_csv(trial_rows(study), tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete", "complete", "failed"]
    assert [row["params.loss.max_scale"] for row in rows[:2]] == ["", "2.0"]
    assert [row["metrics.eval/nll"] for row in rows] == ["1.0", "2.0", ""]
    assert rows[2]["reason"] == 'it said "no", twice'
    assert [row["checkpoint"] for row in rows] == ["c0", "c1", ""]
    names = list(rows[0])
    assert names.index("params.train.seed") < names.index("metrics.eval/nll")


def test_one_row_per_report_in_parquet(study, tmp_path: Path) -> None:
    write_parquet(step_rows(study), tmp_path / "s.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "s.parquet").to_pylist()
    assert [(row["number"], row["step"], row["metrics.eval/nll"]) for row in table] == [(0, 10, 1.0), (1, 10, 2.0)]
    assert [(row["stop"], row["checkpoint"], row["metrics.train/loss"]) for row in table] == [
        (False, "c0", None),
        (False, "c1", None),
    ]


def test_columns_of_several_kinds_become_texts(tmp_path: Path) -> None:
    rows = [{"a": 1, "b": 1}, {"a": 2.5, "b": "x"}, {"a": None, "b": None}]
    write_parquet(rows, tmp_path / "m.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "m.parquet").to_pydict() == {
        "a": [1.0, 2.5, None],
        "b": ["1", "x", None],
    }


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_an_empty_study_and_a_file_that_cannot_be_written(write, tmp_path: Path) -> None:
    write([], tmp_path / "empty")
    assert (tmp_path / "empty").exists()
    with pytest.raises(StoreError, match="cannot be written"):
        write([{"a": 1}], tmp_path / "none" / "file")
