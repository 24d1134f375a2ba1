"""Reading part by part: the same rows, and a bounded memory whatever the size of the file."""

import gzip
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from rankray.data.files import place_of, read_rows, row_parts
from rankray.errors import DataError

ROWS = [{"prompt": f"{i}", "completion": f"{i} and more"} for i in range(25)]


def write(path):
    name = path.name
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    elif name.endswith(".csv"):
        path.write_text("prompt,completion\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in ROWS))
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text(json.dumps(ROWS) if name.endswith(".json") else text)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.parquet"])
def test_parts_are_the_rows_with_their_places(tmp_path, name):
    file = write(tmp_path / name)
    whole, parts = read_rows(file, "x"), list(row_parts(file, "x", 10))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [row for part in parts for row in part] == whole == ROWS
    assert place_of(parts[1], 3) == place_of(whole, 13)


def test_an_error_comes_where_it_is_met(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n' * 12 + "{\n")
    parts = row_parts(str(file), "here", 5)
    assert [len(next(parts)), len(next(parts))] == [5, 5]
    with pytest.raises(DataError, match=r"^here: .*a.jsonl:13:2: not JSON"):
        next(parts)


ENDINGS = ("jsonl", "parquet", "jsonl.gz", "csv")
MEMORY = """
import json, resource, sys
from rankray.config.sections import DataSection
from rankray.data.sources import Source
data = DataSection(train=sys.argv[1], eval=sys.argv[1], streaming=sys.argv[2] == "streaming")
import pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in Source("train", data).placed())
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def grown_mib(file, how):
    done = subprocess.run([sys.executable, "-c", MEMORY, file, how], capture_output=True, text=True, check=True)
    count, mib = done.stdout.split()
    return int(count), float(mib)


CASES = [("jsonl", 12_000, 25), *(pytest.param(end, 40_000, 100, marks=pytest.mark.slow) for end in ENDINGS)]


@pytest.mark.parametrize(("ending", "count", "most_mib"), CASES)
def test_a_large_file_is_read_in_bounded_memory(tmp_path, ending, count, most_mib):
    """60 or 200 MB of rows; read as a whole it takes more than the file, streamed a small part of it."""
    file = tmp_path / f"large.{ending}"
    row = {"prompt": "p" * 1000, "completion": "c" * 4000}
    if ending == "parquet":
        schema = pyarrow.Table.from_pylist([row]).schema
        with pyarrow.parquet.ParquetWriter(file, schema, compression="none", use_dictionary=False) as sink:
            for _ in range(count // 1000):
                sink.write_table(pyarrow.Table.from_pylist([row] * 1000))
    else:
        line = b"%s,%s\n" % (b"p" * 1000, b"c" * 4000) if ending == "csv" else json.dumps(row).encode() + b"\n"
        with gzip.open(file, "wb", 1) if ending.endswith("gz") else file.open("wb") as sink:
            sink.write(b"prompt,completion\n" if ending == "csv" else b"")
            for _ in range(count // 1000):
                sink.write(line * 1000)
    found, mib = grown_mib(str(file), "streaming")
    assert found == count
    assert mib < most_mib


def test_a_column_that_is_there_twice_is_refused_in_every_format(tmp_path):
    """The last one would be taken, and nothing said."""
    table = pyarrow.table([["a"], ["b"]], names=["x", "x"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for name, kind in (("t.arrow", pyarrow.ipc.new_stream), ("u.arrow", pyarrow.ipc.new_file)):
        with pyarrow.OSFile(str(tmp_path / name), "wb") as file, kind(file, table.schema) as writer:
            writer.write_table(table)
    texts = {
        "t.jsonl": '{"x": 1}\n{"x": 1, "y": {"z": 1, "x": 2}, "x": 3}\n',
        "t.json": '[{"x": 1, "x": 2}]',
        "u.json": '{"x": 1}\n{"x": 1, "x": 2}\n',
        "t.csv": "x,x\n1,2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in (*texts, "t.parquet", "t.arrow", "u.arrow"):
        with pytest.raises(DataError, match=rf"{name}.*'x' is there twice"):
            read_rows(str(tmp_path / name), "data.train")
