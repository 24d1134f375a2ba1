import gzip
import json
from pathlib import Path

import pyarrow
import pytest

from rankray.config.params import config_from
from rankray.config.sections import DataSection, SourceSection
from rankray.data.chat import Given
from rankray.data.files import file_fingerprint
from rankray.data.sources import Source, fingerprint, mixed
from rankray.data.where import READING, chosen
from rankray.errors import ConfigError, DataError


def write(path, rows, pack=lambda raw: raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return str(path)


def numbered(name, count):
    return [{"prompt": f"{name}{i}", "completion": "x", "n": i} for i in range(count)]


def prompts(train, **fields):
    source = Source("train", DataSection(train=train, eval="e.jsonl", **fields))
    return [placed.example.prompt for placed in source.examples()]


def zstd(raw):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as packed:
        packed.write(raw)
    return sink.getvalue().to_pybytes()


def test_patterns_directories_and_compressed_files(tmp_path):
    write(tmp_path / "d" / "b.jsonl.gz", numbered("b", 2), gzip.compress)
    write(tmp_path / "d" / "a.jsonl", numbered("a", 1))
    write(tmp_path / "d" / "deep" / "c.JSONL.zst", numbered("c", 1), zstd)
    (tmp_path / "d" / "readme.md").write_text("no rows")
    assert prompts(str(tmp_path / "d")) == ["a0", "b0", "b1", "c0"]
    assert prompts(str(tmp_path / "d" / "*.jsonl*")) == ["a0", "b0", "b1"]
    assert prompts(str(tmp_path / "d" / "?.jsonl")) == ["a0"]


def test_a_broken_packed_file_says_where(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a", "completion": "b"}\n{"prompt": \n'))
    with pytest.raises(DataError, match=r"a.jsonl.gz:2:12: not JSON"):
        prompts(str(path))
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"a.jsonl.gz' cannot be read"):
        prompts(str(path))


def test_nothing_to_read(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "*.jsonl"):
        with pytest.raises(DataError, match=r"^data.train: .* holds no data file; allowed is "):
            prompts(str(source))


def test_a_list_in_an_object_and_a_table_with_tabs(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": numbered("a", 2)}))
    (tmp_path / "b.json").write_text(json.dumps({"prompt": "one", "completion": "row", "data": ["x"]}))
    (tmp_path / "c.tsv").write_text('prompt\tcompletion\n"a, b"\tc\n')
    assert prompts(str(tmp_path / "a.json")) == ["a0", "a1"]
    assert prompts(str(tmp_path / "b.json")) == ["one"]
    assert prompts(str(tmp_path / "c.tsv")) == ["a, b"]


def test_what_datasets_saves_on_disk(tmp_path):
    import datasets

    datasets.Dataset.from_list(numbered("a", 2)).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "dataset_info.json").unlink()
    (tmp_path / "saved" / "state.json").unlink()
    assert prompts(str(tmp_path / "saved")) == ["a0", "a1"]


def test_several_sources_alternate(tmp_path):
    entries = [{"path": write(tmp_path / f"{name}.jsonl", numbered(name, n))} for name, n in (("a", 4), ("b", 2))]
    assert prompts(entries) == ["a0", "b0", "a1", "a2", "b1", "a3"]
    assert prompts([{**entries[0], "max_examples": 1}, entries[1]["path"]]) == ["b0", "a0", "b1"]
    assert prompts(entries, max_examples=2) == ["a0", "b0"]


@pytest.mark.parametrize(("weights", "counts"), [((3, 1), (90, 30)), ((0.5, 0.5), (60, 60)), ((1, 0.01), (90, 1))])
def test_weights_are_shares_and_nothing_is_repeated(tmp_path, weights, counts):
    entries = [
        {"path": write(tmp_path / f"{name}.jsonl", numbered(name, n)), "weight": weight}
        for (name, n), weight in zip((("a", 90), ("b", 60)), weights, strict=True)
    ]
    found = prompts(entries)
    assert tuple(sum(prompt.startswith(name) for prompt in found) for name in "ab") == counts
    assert len(set(found)) == len(found)
    assert found == prompts(entries)
    half = found[: len(found) // 2]
    assert sum(prompt.startswith("a") for prompt in half) == pytest.approx(counts[0] / 2, abs=1)


def test_each_source_has_its_own_form(tmp_path):
    alpaca = write(tmp_path / "a.jsonl", [{"instruction": "i", "output": "o"}])
    columns = write(tmp_path / "c.jsonl", [{"q": "q", "a": "a"}])
    given = [{"path": alpaca}, {"path": columns, "prompt": "{q}?", "completion": "{a}"}]
    source = Source("train", DataSection(train=given, eval="e.jsonl"))
    assert [placed.example.completion for placed in source.examples()] == ["o", "a"]
    assert source.forms == {alpaca: "alpaca", columns: "columns"}


def test_each_source_has_its_own_weights(tmp_path):
    rows = [{**row, "w": 0.5, "t": [2.0]} for row in numbered("a", 2)]
    plain, weighted = write(tmp_path / "p.jsonl", numbered("p", 2)), write(tmp_path / "w.jsonl", rows)
    entries = [{"path": plain}, {"path": weighted, "weight_column": "w", "token_weights": "t"}]
    found = [p.example for p in Source("train", DataSection(train=entries, eval="e.jsonl")).examples()]
    assert [example.prompt for example in found] == ["p0", "a0", "p1", "a1"]
    assert [example.given for example in found[:2]] == [None, Given(0.5, [2.0])]
    both = DataSection(train=[plain, {"path": weighted, "weight_column": "w"}], eval=entries, weight_column="n")
    found = [p.example for p in Source("train", both).examples()]
    assert [example.given for example in found] == [Given(0.5), None, Given(0.5)], "p0 has the weight 0"
    assert all(p.example.given is None for p in Source("eval", both).examples())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"weight_column": "W"}, r"source 2: weight_column: no column 'W'"),
        ({"weight_column": "prompt"}, r"source 2: weight_column: \S+b.jsonl:1: column 'prompt' holds the weight 'b0'"),
        ({"token_weights": "n"}, r"source 2: token_weights: \S+b.jsonl:1: column 'n' holds 0"),
        ({"prompt": "{q}"}, r"source 2: prompt: no column 'q'"),
        ({"revision": "v1"}, r".*b.jsonl' is a file, and has revision 'v1'; allowed is a revision of a dataset on"),
    ],
    ids=str,
)
def test_errors_in_a_source_name_it(tmp_path, own, said):
    one, other = (write(tmp_path / f"{name}.jsonl", numbered(name, 2)) for name in "ab")
    with pytest.raises(DataError, match=f"^data.train: {said}"):
        Source("train", DataSection(train=[one, {"path": other, **own}], eval=one)).examples()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("rows", "fields", "said"),
    [
        ([{"q": "a", "a": "b"}], {"prompt": "{p}", "completion": "{a}"}, "data.prompt: source 2: no column 'p'"),
        (
            [{"p": ["a"], "a": "b"}],
            {"prompt": "{p}", "completion": "{a}"},
            r"data.prompt: source 2: \S+b.jsonl:1: colu",
        ),
        (
            [{"a": "b"}, {"p": "", "a": "b"}],
            {"prompt": "{p}", "completion": "{a}"},
            "data.train: source 2: 1 of 2 rows of",
        ),
        ([{"m": "b"}], {"messages": "m", "format": "messages"}, r"data.messages: source 2: \S+b.jsonl:1 holds 'b'"),
        ([{"x": "b"}], {"messages": "m", "format": "messages"}, r"data.messages: source 2: no column 'm'"),
        ([{"x": "b"}], {}, "data.train: source 2: no known format has the columns x"),
        ([{"prompt": "a", "completion": "b"}], {"where": {"n": 1}}, "data.train: source 2: data.where names no column"),
        (
            [{"prompt": "a", "completion": "b", "n": 2}],
            {"where": {"n": 1}},
            "data.train: source 2: data.where leaves no",
        ),
        ([{"prompt": "a", "completion": "b"}], {"weight_column": "n"}, "data.weight_column: source 2: no column 'n'"),
    ],
    ids=str,
)
def test_errors_of_what_all_sources_share_name_the_one_they_concern(tmp_path, rows, fields, said, streaming):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    fits = {"p": "a", "a": "b", "m": turns, "prompt": "a", "completion": "b", "n": 1}
    one, other = write(tmp_path / "a.jsonl", [fits]), write(tmp_path / "b.jsonl", rows)
    data = DataSection(train=[one, other], eval=one, streaming=streaming, **fields)
    with pytest.raises(DataError, match=f"^{said}"):
        list(Source("train", data).placed())


def test_what_an_entry_does_not_say_leaves_its_stamp_alone(tmp_path):
    path = write(tmp_path / "a.jsonl", numbered("a", 2))
    [entry] = Source("train", DataSection(train=[{"path": path}], eval=path)).stamp[1]
    assert list(entry) == ["path", "weight", "max_examples", "where", "format", "prompt", "completion", "messages"]
    [entry] = Source("train", DataSection(train=[{"path": path, "weight_column": "n"}], eval=path)).stamp[1]
    assert entry["weight_column"] == "n"


def test_only_conditions_let_the_stamp_say_how_they_are_read(tmp_path):
    """Tokens that are kept of rows without conditions stay; those of rows that were chosen in another way do not."""
    path = write(tmp_path / "a.jsonl", numbered("a", 4))
    assert len(Source("train", DataSection(train=path, eval=path)).stamp) == 4
    for given in ({"train": path, "where": {"n": 1}}, {"train": [{"path": path, "where": {"n": 1}}]}):
        assert Source("train", DataSection(eval=path, **given)).stamp[4] == READING


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({"n": 2}, [2]),
        ({"n": [0, 3]}, [0, 3]),
        ({"n": ">= 2"}, [2, 3]),
        ({"n": "< 2"}, [0, 1]),
        ({"n": "!= 1"}, [0, 2, 3]),
        ({"n": "> 0", "prompt": "a1"}, [1]),
    ],
)
def test_conditions_on_columns(tmp_path, where, kept):
    path = write(tmp_path / "a.jsonl", numbered("a", 4))
    assert prompts(path, where=where) == [f"a{n}" for n in kept]


def test_conditions_that_cannot_hold(tmp_path):
    path = write(tmp_path / "a.jsonl", [*numbered("a", 2), {"prompt": "x", "completion": "y", "n": [1]}])
    with pytest.raises(DataError, match=r"data.where names no column 'm'"):
        prompts(path, where={"m": 1})
    with pytest.raises(DataError, match=r"data.where leaves no row of "):
        prompts(path, where={"n": 9})
    with pytest.raises(DataError, match=r"data.where.n: \[1\] cannot be compared with '1'"):
        prompts(path, where={"n": "> 1"})


def test_places_survive_conditions(tmp_path):
    from rankray.data.files import place_of, read_rows

    rows = chosen(read_rows(write(tmp_path / "a.jsonl", numbered("a", 4)), "x"), {"n": "> 2"}, "x")
    assert place_of(rows, 0).endswith("a.jsonl:4")


def test_fingerprints_follow_all_files(tmp_path):
    one, other = write(tmp_path / "a.jsonl", numbered("a", 1)), write(tmp_path / "b.jsonl", numbered("b", 1))
    assert fingerprint(one, "w") == file_fingerprint(tmp_path / "a.jsonl")
    assert fingerprint("a/b:train", "w") == "a/b:train"
    both = fingerprint([SourceSection(path=one), SourceSection(path=other)], "w")
    assert both.startswith("sha256:")
    write(tmp_path / "b.jsonl", numbered("c", 1))
    assert fingerprint([SourceSection(path=one), SourceSection(path=other)], "w") != both
    assert fingerprint(str(tmp_path), "w") == fingerprint([SourceSection(path=one), SourceSection(path=other)], "w")


def test_one_group_stays_as_it_is():
    assert mixed([[1, 2, 3]], [0.5]) == [1, 2, 3]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([{"pth": "a.jsonl"}], "source 1: pth: unknown key"),
        (["a.jsonl", {"path": "b.jsonl", "weight": -1}], "source 2: weight: got -1"),
        ([{"path": "a.jsonl", "weight": 1}, "b.jsonl"], "some sources have a weight; allowed: all of them or none"),
        ([], "at least 1 item"),
    ],
)
def test_entries_are_checked_one_by_one(entries, said):
    with pytest.raises(ConfigError, match=f"^data.train: .*{said}"):
        config_from({"name": "x", "model": {"path": "m"}, "data": {"train": entries, "eval": "e.jsonl"}})


def test_paths_of_entries_are_relative_to_the_file(tmp_path, monkeypatch):
    from rankray.config import load_config

    write(tmp_path / "here" / "a.jsonl", numbered("a", 1))
    (tmp_path / "here" / "x.yaml").write_text(
        "model: {path: m}\ndata: {train: [{path: a.jsonl}, a.jsonl, 'a/b:train', 'd/*'], eval: '*.jsonl'}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_config("here/x.yaml").config.data
    here = tmp_path / "here"
    assert [entry.path for entry in data.train] == [f"{here}/a.jsonl", f"{here}/a.jsonl", "a/b:train", f"{here}/d/*"]
    assert data.eval == f"{here}/*.jsonl"


def test_several_sources_as_one_text():
    from rankray.config.sections import source_text

    given = DataSection(train=[{"path": "a.jsonl", "weight": 2.0}, {"path": "b.jsonl", "weight": 1.0}], eval="e.jsonl")
    text = source_text(given.train)
    assert DataSection(train=text, eval="e.jsonl") == given
    assert source_text("a.jsonl") == "a.jsonl"


@pytest.mark.parametrize(
    "given",
    [
        {"where": {"n": "> 3"}},
        {"max_examples": 5},
        {"train": [{"path": "a", "weight": 1}, {"path": "b", "weight": 3, "max_examples": 9}]},
        {"train": [{"path": "a"}, {"path": "b", "where": {"n": [1, 2, 6]}}]},
        {"weight_column": "n"},
    ],
    ids=str,
)
def test_streamed_examples_are_the_same(tmp_path, monkeypatch, given):
    monkeypatch.setattr("rankray.data.sources.ROWS_AT_A_TIME", 3)
    for name, count in (("a", 10), ("b", 14)):
        write(tmp_path / f"{name}.jsonl", numbered(name, count))
    named = [{**entry, "path": str(tmp_path / f"{entry['path']}.jsonl")} for entry in given.get("train", [])]
    data = DataSection(**{**given, "train": named or str(tmp_path / "*.jsonl"), "eval": "x.jsonl"})
    streamed = Source("train", data.model_copy(update={"streaming": True}))
    assert list(streamed.placed()) == Source("train", data).examples()
    assert streamed.stamp == Source("train", data).stamp, "both find the same tokens"


def test_streaming_has_the_same_errors(tmp_path):
    path = write(tmp_path / "a.jsonl", numbered("a", 4))
    for where, said in (({"m": 1}, "no column 'm'"), ({"n": 99}, "leaves no row of")):
        data = DataSection(train=path, eval=path, where=where, streaming=True)
        with pytest.raises(DataError, match=f"^data.train: data.where .*{said}"):
            list(Source("train", data).placed())


def test_whole_numbers_are_compared_to_their_last_digit(tmp_path):
    """As floats, ids of more than sixteen digits would count as equal."""
    path, first = str(tmp_path / "t.jsonl"), 2**53
    rows = [{"prompt": f"a{n}", "completion": "b", "n": first + n, "text": str(first + n)} for n in range(3)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for column in ("n", "text"):
        assert prompts(path, where={column: f"!= {first + 1}"}) == ["a0", "a2"]
        assert prompts(path, where={column: f"> {first}"}) == ["a1", "a2"]
        assert prompts(path, where={column: f"<= {first}.0"}) == ["a0"]
