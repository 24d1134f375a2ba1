import json

import pyarrow
import pyarrow.parquet
import pytest

from rankray.data.files import file_fingerprint, hub_parts, is_file_source, read_rows
from rankray.errors import DataError

ROWS = [{"q": "one, two", "n": 1}, {"q": 'say "é"', "n": 2}]


def write(path, kind):
    if kind == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    elif kind == ".json":
        path.write_text(json.dumps(ROWS, indent=1))
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        path.write_text('q,n\n"one, two",1\n"say ""é""",2\n')


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".parquet", ".csv"])
def test_every_form_gives_the_same_rows(tmp_path, kind):
    file = tmp_path / f"data{kind}"
    write(file, kind)
    rows = read_rows(str(file), "data.train")
    expected = [{"q": row["q"], "n": str(row["n"])} for row in ROWS] if kind == ".csv" else ROWS
    assert rows == expected


def test_json_may_also_be_lines(tmp_path):
    file = tmp_path / "data.json"
    write(file, ".jsonl")
    assert read_rows(str(file), "x") == ROWS


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"^here: no file .*did you mean 'train.jsonl'.*; allowed is .*; fix the path"):
        read_rows(str(tmp_path / "trian.jsonl"), "here")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is list"),
        ("a.json", "[{}, 3]", "item 2 is int"),
        ("a.csv", "a,b\n1,2,3\n", "row 1 has more values"),
        ("a.parquet", "not parquet", "cannot be read as .parquet"),
        ("a.jsonl", "", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
    ],
)
def test_broken_files_say_where(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"^here: .*{said}"):
        read_rows(str(tmp_path / name), "here")


def test_the_ending_tells_a_file_from_a_hub_id():
    assert is_file_source("a/b.JSONL")
    assert not is_file_source("openai/gsm8k:main:train")
    assert hub_parts("openai/gsm8k:main:train[:10]", "x") == ("openai/gsm8k", "main", "train[:10]")
    assert hub_parts("openai/gsm8k:train", "x") == ("openai/gsm8k", None, "train")


@pytest.mark.parametrize("source", ["data.txt", "openai/gsm8k", "./x:y:z", "a:b:c:d", "a::c"])
def test_anything_else_is_refused(source):
    with pytest.raises(DataError, match=r"^here: .*hub-id:config:split"):
        hub_parts(source, "here")


def test_fingerprints_follow_the_content(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"a" * 300_000)
    whole, sampled = file_fingerprint(file), file_fingerprint(file, sample_above_bytes=1000)
    file.write_bytes(b"a" * 299_999 + b"b")
    assert file_fingerprint(file) != whole
    assert file_fingerprint(file, sample_above_bytes=1000) != sampled
    assert file_fingerprint(file, sample_above_bytes=300_000) == file_fingerprint(file)
