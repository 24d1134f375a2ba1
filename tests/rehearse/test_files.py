"""Files that are tables, and files that are not."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from rankray.errors import UserError
from rankray.rehearse.files import rows_of


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_csv_file_says_itself_what_separates_its_cells(separator: str, tmp_path: Path) -> None:
    file = tmp_path / "a.CSV"
    lines = [["", "seed", "note"], ["0", "1", '"a, b; c"'], ["1", "2", ""]]
    file.write_text("\ufeff" + "\r\n".join(separator.join(cells) for cells in lines) + "\r\n\r\n", encoding="utf-8")
    columns, rows = rows_of(file)
    assert columns == ["", "seed", "note"]
    assert rows == [{"": "0", "seed": "1", "note": "a, b; c"}, {"": "1", "seed": "2", "note": ""}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "has no rows .columns: none.; allowed: one row per setting"),
        (b"seed,step\n", "has no rows .columns: seed, step."),
        (b"seed,step\n1,2,3\n", "a.csv:2: got 3 cells; allowed: 2"),
        (b"seed,step\n1,2\n\n1\n", "a.csv:4: got 1 cells; allowed: 2"),
        (b"seed,step,seed\n1,2,3\n", "the column 'seed' twice"),
        (b"seed\xff,step\n1,2\n", "is no csv file that can be read .'utf-8' codec"),
        (b'seed,step\n"' + b"x" * 200_000 + b'",2\n', "is no csv file that can be read .field larger"),
    ],
)
def test_what_is_no_csv_says_so(text: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(text)
    with pytest.raises(UserError, match=says):
        rows_of(tmp_path / "a.csv")


def test_a_packed_csv_file_is_read_and_half_of_one_is_none(tmp_path: Path) -> None:
    packed = gzip.compress(b"seed,step\n1,2\n" + b"3,4\n" * 10_000)
    (tmp_path / "a.csv.gz").write_bytes(packed)
    (tmp_path / "half.csv.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "none.csv.gz").write_bytes(b"seed,step\n1,2\n")
    columns, rows = rows_of(tmp_path / "a.csv.gz")
    assert (columns, rows[0], len(rows)) == (["seed", "step"], {"seed": "1", "step": "2"}, 10_001)
    for name in ("half", "none"):
        with pytest.raises(UserError, match="is no csv file that can be read"):
            rows_of(tmp_path / f"{name}.csv.gz")
    with pytest.raises(UserError, match=r"got .gz; allowed: .csv, .parquet, .csv.gz; rename the file"):
        rows_of(_empty(tmp_path / "a.parquet.gz"))


def _empty(file: Path) -> Path:
    file.touch()
    return file


def test_a_parquet_file_is_read_alone_whatever_its_directory_is_called(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    place = tmp_path / "seed=7"
    place.mkdir()
    pyarrow.parquet.write_table(pyarrow.table({"step": [1, 2]}), place / "a.parquet")
    assert rows_of(place / "a.parquet") == (["step"], [{"step": 1}, {"step": 2}])
    twice = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["step", "step"])
    pyarrow.parquet.write_table(twice, place / "b.parquet")
    pyarrow.parquet.write_table(pyarrow.table({}), place / "c.parquet")
    for name, says in (("b", "the column 'step' twice"), ("c", "has no rows")):
        with pytest.raises(UserError, match=says):
            rows_of(place / f"{name}.parquet")
