import codecs
import csv
import json
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rankray.config.sections import DataSection
from rankray.data.files import (
    Rows,
    check_one_set,
    ending,
    file_fingerprint,
    files_of,
    hub_parts,
    is_file_source,
    place_of,
    read_rows,
)
from rankray.data.sources import Source
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
        ("a.jsonl", '{"a": 1}\n\n{"a": \n', "a.jsonl:3:7: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: cannot be read .it holds a list.; .* name a file that is one list .* .json"),
        ("a.jsonl", '\n[\n {"a": 1}\n]\n', "a.jsonl:2:2: not JSON .*name a file that is one list or one object .json"),
        ("a.jsonl", '{\n "a": 1\n}\n', "a.jsonl:1:2: not JSON .*name a file that is one list or one object .json"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "a.jsonl:2: holds a list; allowed is an object"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, "a.jsonl:2: cannot be read .nested too deep.; allowed is one object"),
        ("a.jsonl", '{"a": %s}\n' % ("1" * 5000), "a.jsonl:1: cannot be read .Exceeds the limit"),
        ("a.jsonl", '{"a": "x"}\n{"a": "\\ud83d"}\n', "a.jsonl:2: column 'a' holds half of a character"),
        ("a.jsonl", '{"a": ["x", {"b": "\\udc00"}]}\n', "a.jsonl:1: column 'a' holds half of a character"),
        ("a.json", "[{}, 3]", "a.json: item 2: holds a int"),
        ("a.json", "null", "a.json: holds null; allowed is a list of objects"),
        ("a.json", "42", "a.json: holds a int"),
        ("a.json", "[" * 100_000, "a.json:1: cannot be read .nested too deep"),
        ("a.json", '[{"a": 1},\n {"a": 2,}]', "a.json:2:(10|9): not JSON"),  # Python 3.13 names the comma
        ("a.json", '{"a": 1}\n{"a": 2,}\n', "a.json:2:(9|8): not JSON"),
        ("a.csv", "a,b\nx,y\n\n1,2,3\n", "a.csv:4: 3 values, and the header has 2"),
        ("a.csv", 'a,b\n"x\ny",2\n1,2,3\n', "a.csv:4: 3 values"),
        ("a.csv", 'a,b\n1,"2\n', "a.csv:2: not CSV"),
        ("a.csv", 'a,b\n1, "2, 3"\n', "a.csv:2: 3 values, .*quote values with commas, without a space before"),
        ("a.tsv", "a\tb\n1\t2\t3\n", "a.tsv:2: 3 values, .*quote values with tabs"),
        ("a.csv", "a,b,a\n1,2,3\n", "a.csv:1: column 'a' is there twice"),
        ("a.parquet", "not parquet", "cannot be read as .parquet"),
        ("a.jsonl", "", "holds no rows"),
        ("a.csv", "a,b\n", "holds no rows"),
    ],
)
def test_broken_files_say_where(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=f"^here: .*{said}"):
        read_rows(str(tmp_path / name), "here")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_what_is_not_utf8_says_in_which_line(tmp_path, name):
    first = b"a\n" if name == "a.csv" else b'{"a": 1}\n'
    (tmp_path / name).write_bytes(first + "é".encode("latin-1"))
    with pytest.raises(DataError, match=rf"{name}:2: not UTF-8 .byte 0xe9.; allowed is text in UTF-8"):
        read_rows(str(tmp_path / name), "here")
    (tmp_path / name).write_bytes("a".encode("utf-16"))
    with pytest.raises(DataError, match=f"begins as UTF-16 does; .*iconv -f UTF-16 -t UTF-8 .*{name} > NEW"):
        read_rows(str(tmp_path / name), "here")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
@pytest.mark.parametrize("kind", ["UTF-16LE", "UTF-16BE"])
def test_utf_16_without_a_byte_order_mark_is_no_text(tmp_path, name, kind):
    """Each of its bytes is one of UTF-8, too."""
    (tmp_path / name).write_bytes('{"a": 1}\n'.encode(kind))
    with pytest.raises(DataError, match=rf"{name}:1: every second byte is 0, as in {kind}; .*iconv -f {kind} -t UTF-8"):
        read_rows(str(tmp_path / name), "here")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    text = {"a.json": '[{"a": "1"}]', "a.csv": "a\n1\n"}.get(name, '{"a": "1"}\n')
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read_rows(str(tmp_path / name), "x") == [{"a": "1"}]


@pytest.mark.parametrize("name", ["a.jsonl", "lines.json"])
def test_only_a_line_feed_ends_a_line_of_json(tmp_path, name):
    rows = [{"a": "one\u2028two\x85three\u2029"}, {"a": "four\x0cfive"}]
    lines = [json.dumps(row, ensure_ascii=False).replace("\\u0085", "\x85") for row in rows]
    (tmp_path / name).write_text("\r\n".join(lines), encoding="utf-8", newline="")
    assert read_rows(str(tmp_path / name), "x") == rows


def test_a_field_of_csv_may_be_long_and_the_limit_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    (tmp_path / "a.csv").write_text(f"a,b\n{'x' * 300_000},1\n")
    assert len(read_rows(str(tmp_path / "a.csv"), "x")[0]["a"]) == 300_000
    assert csv.field_size_limit() == before


def test_an_escaped_whole_character_is_text(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "\\ud83d\\ude00"}')
    assert read_rows(str(tmp_path / "a.jsonl"), "x") == [{"a": "\U0001f600"}]


def test_a_date_that_python_does_not_have_is_one_line(tmp_path):
    column = pyarrow.array([2**62], pyarrow.timestamp("us"))
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"^here: .*cannot be read as .parquet \("):
        read_rows(str(tmp_path / "a.parquet"), "here")


def test_rows_know_their_place(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n{"a": 1}\n\n\n{"a": 2}\n')
    rows = read_rows(str(tmp_path / "a.jsonl"), "x")
    assert [place_of(rows, index) for index in (0, 1)] == [f"{tmp_path}/a.jsonl:2", f"{tmp_path}/a.jsonl:5"]
    assert place_of(rows.first(1), 0) == f"{tmp_path}/a.jsonl:2"
    assert place_of([{"a": 1}], 0) == "row 1"
    assert place_of(Rows([{}], "hub/id:train"), 0) == "hub/id:train: row 1"


def test_the_ending_tells_a_file_from_a_hub_id():
    assert is_file_source("a/b.JSONL")
    assert not is_file_source("openai/gsm8k:main:train")
    assert hub_parts("openai/gsm8k:main:train[:10]", "x") == ("openai/gsm8k", "main", "train[:10]")
    assert hub_parts("openai/gsm8k:train", "x") == ("openai/gsm8k", None, "train")


@pytest.mark.parametrize("source", ["https://example.org/a.jsonl", "s3://bucket/a", "hf://datasets/a/b/*.parquet"])
def test_a_url_is_called_one(source):
    """A path would be 'https:/example.org/a.jsonl', and a hub id 's3' with the split '//bucket/a'."""
    for call in (hub_parts, files_of):
        with pytest.raises(DataError, match=rf"^x: '{re.escape(source)}' is a URL; .*; download it and give the file"):
            call(source, "x")


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


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"q": ["a", "b"], "a": ["c", "d"]}, "a list of values under each of 'q', 'a'"),
        ({"0": {"q": "a"}, "1": {"q": "b"}}, "an object under each of '0', '1'"),
        ({"q": {"0": "a", "1": "b"}, "a": {"0": "c", "1": "d"}}, "an object under each of 'q', 'a'"),
        ({"train": [{"q": "a"}] * 2, "validation": [{"q": "a"}] * 3}, "a list of rows under each of 'train', 'valid"),
        ({"train": [{"q": "a"}] * 2}, "a list of rows under each of 'train'"),
    ],
    ids=str,
)
def test_objects_that_hold_many_rows_in_another_way_are_refused(tmp_path, tree, said):
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=rf"a.json: holds {said}.*orient='records'"):
        read_rows(str(tmp_path / "a.json"), "here")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        {"q": "a", "choices": ["b", "c"]},
        {"text": ["a"]},
        {"meta": {"a": 1}},
    ],
    ids=str,
)
def test_an_object_of_one_row_stays_one(tmp_path, row):
    (tmp_path / "a.json").write_text(json.dumps(row))
    assert read_rows(str(tmp_path / "a.json"), "here") == [row]


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_a_table_with_other_separators_is_refused(tmp_path, sign):
    (tmp_path / "a.csv").write_text(f"q{sign}a\n1{sign}2\n")
    with pytest.raises(DataError, match=r"a.csv:1: the values of the header .* are separated by .*change its ending"):
        read_rows(str(tmp_path / "a.csv"), "here")


@pytest.mark.parametrize("sign", [";", ",", "|"])
def test_so_is_one_that_is_called_tsv(tmp_path, sign):
    (tmp_path / "a.tsv").write_text(f"q{sign}a\n1{sign}2\n")
    with pytest.raises(DataError, match=r"a.tsv:1: the values of the header .* are separated by .*change its ending"):
        read_rows(str(tmp_path / "a.tsv"), "here")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_paragraphs_of_a_text_are_rows(tmp_path, end):
    file = tmp_path / "a.txt"
    file.write_bytes(end.join(["", "one", "more", "", " ", "two", ""]).encode("utf-8-sig"))
    rows = read_rows(str(file), "here")
    assert rows == [{"text": "one\nmore"}, {"text": "two"}]
    assert [place_of(rows, i) for i in (0, 1)] == [f"{file}:2", f"{file}:6"]
    file.write_bytes(end.join(["", "one", "more ", ""]).encode())
    assert read_rows(str(file), "here") == [{"text": "one"}, {"text": "more "}], "without blank lines each line is one"
    file.write_bytes(b"\n \n")
    with pytest.raises(DataError, match="holds no rows"):
        read_rows(str(file), "here")


def test_notes_beside_data_are_no_data(tmp_path):
    (tmp_path / "requirements.txt").write_text("torch")
    assert [file.name for file in files_of(str(tmp_path), "here")] == ["requirements.txt"]
    (tmp_path / "a.jsonl").write_text('{"a": 1}')
    assert [file.name for file in files_of(str(tmp_path), "here")] == ["a.jsonl"]


CARD = """---
license: mit
dataset_info:
- config_name: other
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
{more}tags:
- config_name: none
---
# A set
"""


def test_a_directory_of_several_sets_is_refused(tmp_path):
    check_one_set(str(tmp_path), "here")
    card = tmp_path / "README.md"
    for text in ("no matter", "---\n---\n", CARD.format(more="")):
        card.write_text(text)
        check_one_set(str(tmp_path), "here")
    card.write_text(CARD.format(more="- config_name: 'socratic'\n  data_files: x\n"))
    with pytest.raises(DataError, match=r"^here: .* holds the configurations main, socratic of .*main/\*"):
        check_one_set(str(tmp_path), "here")


def test_the_splits_that_datasets_saves_are_not_one_source(tmp_path):
    rows = datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}] * 2)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    data = DataSection(train=str(tmp_path / "saved"), eval="e.jsonl")
    with pytest.raises(DataError, match=r"^data.train: .*holds the splits test, train; .*name it: "):
        Source("train", data)
    check_one_set(str(tmp_path / "saved"), "init", splits=False)
    assert len(Source("train", data.model_copy(update={"train": str(tmp_path / "saved" / "train")})).examples()) == 2


@pytest.mark.parametrize("matter", ["configs: [", "configs: 3", "configs:\n- a\n- {config_name: one}", "- x", ""])
def test_a_card_that_names_no_configurations_is_passed_over(tmp_path, matter):
    (tmp_path / "README.md").write_text(f"---\n{matter}\n---\nSome text.\n", encoding="utf-8")
    check_one_set(str(tmp_path), "data.train")


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (".", ["a.jsonl", "sub/b.jsonl"]),
        ("*.jsonl", ["a.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "sub/b.jsonl"]),
        (".*.jsonl", [".old.jsonl"]),
        (".ipynb_checkpoints/*", [".ipynb_checkpoints/a-checkpoint.jsonl"]),
    ],
)
def test_hidden_files_are_no_data_unless_a_pattern_names_them(tmp_path, source, names):
    place = tmp_path / ".mine"  # where the data stand may itself be hidden
    hidden = (".old.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "__MACOSX/x.jsonl", "sub/.cache/b.jsonl")
    for name in (*hidden, "a.jsonl", "sub/b.jsonl"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text('{"prompt": "a", "completion": "b"}\n')
    assert files_of(str(place / source), "data.train") == [place / name for name in names]


def test_caches_beside_what_datasets_saved_are_no_data(tmp_path):
    """`map` and `filter` of a data set that was loaded from a disk write their results there."""
    place = str(tmp_path / "saved")
    datasets.Dataset.from_list([{"prompt": str(n), "completion": "b"} for n in range(4)]).save_to_disk(place)
    loaded = datasets.load_from_disk(place)
    loaded.map(lambda row: {"completion": row["completion"] * 2})
    loaded.filter(lambda row: row["prompt"] != "0")
    assert len(list(Path(place).glob("*.arrow"))) == 3
    for source in (place, f"{place}/*.arrow"):
        found = Source("train", DataSection(train=source, eval="e.jsonl")).examples()
        assert [each.example.prompt for each in found] == ["0", "1", "2", "3"]
    (tmp_path / "saved" / "state.json").write_text("[]")
    assert len(files_of(place, "data.train")) == 3


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a.jsonl.gz", ".jsonl"),
        ("a.CSV.ZST", ".csv"),
        ("a.parquet.gz", ".gz"),
        ("a.b.jsonl", ".jsonl"),
        ("a.gz", ".gz"),
        ("a", ""),
        (".jsonl", ""),
    ],
)
def test_the_ending_says_how_a_file_is_read(source, said):
    assert ending(source) == said
    assert is_file_source(source) is (said in (".jsonl", ".csv"))


def test_a_file_whose_name_has_signs_of_patterns_is_itself(tmp_path):
    for name in ("what?.jsonl", "whats.jsonl", "a[1].jsonl"):
        (tmp_path / name).write_text('{"a": 1}\n')
    assert files_of(str(tmp_path / "what?.jsonl"), "x") == [tmp_path / "what?.jsonl"]
    assert files_of(str(tmp_path / "a[1].jsonl"), "x") == [tmp_path / "a[1].jsonl"]
    assert files_of(str(tmp_path / "what*.jsonl"), "x") == [tmp_path / "what?.jsonl", tmp_path / "whats.jsonl"]


def test_a_file_of_another_kind_is_named_with_its_ending():
    with pytest.raises(DataError, match=r"^x: 'data.xlsx' ends in '.xlsx'; allowed is hub-id"):
        hub_parts("data.xlsx", "x")
    with pytest.raises(DataError, match=r"^x: got 'openai/gsm8k'; allowed is hub-id"):
        hub_parts("openai/gsm8k", "x")


@pytest.mark.parametrize(("kind", "text"), [("CP1252", "“a”"), ("CP1252", "5 €"), ("LATIN1", "é"), ("LATIN1", "\xa0a")])
def test_the_encoding_that_a_file_likely_has_is_named(tmp_path, kind, text):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n' + json.dumps({"a": text}, ensure_ascii=False).encode(kind))
    with pytest.raises(DataError, match=rf"^here: \S+a.jsonl:2: not UTF-8 .*: iconv -f {kind} -t UTF-8"):
        read_rows(str(file), "here")


def test_empty_lines_of_a_table_are_no_rows(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("\n\na,b\n\n1,2\n\n,\n")
    rows = read_rows(str(file), "here")
    assert rows == [{"a": "1", "b": "2"}, {"a": "", "b": ""}]
    assert [place_of(rows, index) for index in (0, 1)] == [f"{file}:5", f"{file}:7"]


@pytest.mark.parametrize(
    ("tree", "rows"),
    [
        ({"data": [[1]], "rows": [{"a": 1}]}, [{"a": 1}]),
        ({"data": [], "examples": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"a": 1, "data": [1, 2]}, [{"a": 1, "data": [1, 2]}]),
        ({"data": [{"a": 1}, 2], "b": 1}, [{"data": [{"a": 1}, 2], "b": 1}]),
    ],
)
def test_the_list_of_rows_in_an_object_holds_objects_alone(tmp_path, tree, rows):
    (tmp_path / "a.json").write_text(json.dumps(tree))
    assert read_rows(str(tmp_path / "a.json"), "here") == rows
