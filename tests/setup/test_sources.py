"""Directories, patterns and several files: what is trained on, held out, and kept for the last word."""

import json
from pathlib import Path

import pytest

from rankray.errors import DataError
from rankray.setup.sources import choose

SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
ALPACA, CHAT, ASKED = {"instruction": "a", "output": "b"}, {"conversations": SAID}, {"question": "a", "answer": "b"}


@pytest.fixture
def chosen(tmp_path):
    def go(files, *train, held_out=(), templates=None):
        place = tmp_path / "data"
        for name, row in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text((json.dumps(row) + "\n") * 20)
        said, made = [], []
        sources = [str(place / name) for name in train]
        held = [str(place / name) for name in held_out]
        found = choose(sources, held, templates or {}, tmp_path, made, said.append)
        splits = ([(part.path.removeprefix(f"{tmp_path}/"), part.form) for part in each]
                  for each in (found.train, found.held_out, found.test))  # fmt: skip
        return [*splits, "\n".join(said)]

    return go


def test_shards_are_one_set_of_which_a_part_is_held_out(chosen):
    files = {f"part-{i}.jsonl": ASKED for i in range(3)} | {"dataset_info.json": {"a": {"file_name": "part-0.jsonl"}}}
    train, held_out, test, said = chosen(files, "")
    assert (train, held_out, test) == ([("data.train.jsonl", "columns")], [("data.eval.jsonl", "columns")], [])
    assert "set 6 examples aside" in said
    assert '54 rows, format columns, prompt: "{question}\\n", completion: "{answer}"' in said
    assert chosen(files, "part-0*.jsonl", held_out=["part-2.jsonl"])[1] == [("data/part-2.jsonl", "columns")]


def test_files_of_different_forms_are_a_mixture(chosen):
    train, held_out, _, _ = chosen({"a.jsonl": ALPACA, "b.jsonl": CHAT, "c.jsonl": ALPACA}, "")
    assert train == [("data.a.train.jsonl", "alpaca"), ("b.train.jsonl", "sharegpt")]
    assert held_out == [("data.a.eval.jsonl", "alpaca"), ("b.eval.jsonl", "sharegpt")]


def test_held_out_files_are_found_by_their_names(chosen):
    train, held_out, test, said = chosen({"train.jsonl": ASKED, "validation.jsonl": ASKED, "test.jsonl": ASKED}, "")
    assert (train, held_out, test) == tuple(
        [(f"data/{name}.jsonl", "columns")] for name in ("train", "validation", "test")
    )
    assert "held out by name: validation.jsonl" in said


def test_a_test_set_alone_is_for_the_last_word(chosen):
    train, held_out, test, _ = chosen({"train.jsonl": ASKED, "test.jsonl": ASKED}, "")
    assert (train, held_out) == ([("train.train.jsonl", "columns")], [("train.eval.jsonl", "columns")])
    assert test == [("data/test.jsonl", "columns")]


def test_a_column_of_turns_is_named(chosen, tmp_path):
    chosen({"a.jsonl": {"dialogue": SAID}}, "a.jsonl")
    said = chosen({"b.jsonl": {"dialogue": SAID, "id": 1}}, "b.jsonl")[3]
    assert 'format sharegpt, messages: "dialogue"; columns not used: id' in said


def test_a_text_with_a_label_is_asked_for_the_label(chosen, tmp_path):
    train, held_out, _, said = chosen({"a.jsonl": {"text": "t", "label": "good"}}, "a.jsonl")
    assert (train, held_out) == ([("a.train.jsonl", "columns")], [("a.eval.jsonl", "columns")])
    assert 'format columns, prompt: "{text}\\n", completion: "{label}"; to learn the text itself: --prompt \'\'' in said
    (tmp_path / "a.train.jsonl").unlink()
    (tmp_path / "a.eval.jsonl").unlink()
    said = chosen({}, "a.jsonl", templates={"prompt": "", "completion": "{text}"})[3]
    assert 'format columns, prompt: "", completion: "{text}"; columns not used: label' in said


def test_an_error_names_the_users_own_file(chosen, tmp_path):
    with pytest.raises(DataError, match=r"^init: .*/data/a.jsonl:1 has a history whose entry 1"):
        chosen({"a.jsonl": {**ALPACA, "history": [["q"]]}}, "a.jsonl")
    with pytest.raises(DataError, match=r"^init: .*a preference set"):
        chosen({"a.jsonl": {"prompt": "a", "chosen": "b", "rejected": "c"}}, "a.jsonl")
    assert list(tmp_path.glob("*.jsonl")) == []


SETTINGS = {
    "package.json": {"name": "x", "version": "1.0.0", "scripts": {"a": "b"}, "dependencies": {"x": "1"}},
    "flat.json": {"rate": 0.1, "name": "x"},
    "nested.json": {"model": {"a": 1}, "train": {"b": 2}},
    "prompt.json": {"prompt": "You are kind.", "temperature": 1},
}


def placed(tmp_path, **files):
    (tmp_path / "data").mkdir()
    for name, tree in files.items():
        (tmp_path / "data" / name).write_text(json.dumps(tree))


@pytest.mark.parametrize("templates", [None, {"prompt": "{question}", "completion": "{answer}"}])
@pytest.mark.parametrize("held_out", [[], ["a.jsonl"]])
def test_settings_beside_the_data_are_left_out_and_said(chosen, tmp_path, templates, held_out):
    placed(tmp_path, **SETTINGS)
    train, _, _, said = chosen({"a.jsonl": ASKED}, "", templates=templates, held_out=held_out)
    assert train == [("data/a.jsonl" if held_out else "a.train.jsonl", "columns")]
    for name in SETTINGS:
        assert f"data/{name}: left out: one JSON object that is no row of data, such as settings; give --data " in said


def test_settings_that_are_named_like_held_out_data_are_none(chosen, tmp_path):
    placed(tmp_path, **{"eval.json": SETTINGS["flat.json"]})
    train, held_out, _, said = chosen({"a.jsonl": ASKED}, "")
    assert (train, held_out) == ([("a.train.jsonl", "columns")], [("a.eval.jsonl", "columns")])
    assert "held out by name" not in said


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"0": {"a": 1}, "1": {"a": 2}}, "holds an object under each of '0', '1'"),
        ({"train": [{"a": 1}, {"a": 2}]}, "holds a list of rows under each of 'train'"),
        ([{"x": 1}, {"x": 2}], "has the columns x"),
    ],
)
def test_data_in_another_form_are_no_settings(chosen, tmp_path, tree, said):
    placed(tmp_path, **{"b.json": tree})
    with pytest.raises(DataError, match=said):
        chosen({"a.jsonl": ASKED}, "")


def test_a_row_in_a_json_file_is_data_and_settings_alone_are_an_error(chosen, tmp_path):
    placed(tmp_path, **{"b.json": ASKED})
    assert "21 examples" not in chosen({"a.jsonl": ASKED}, "")[3]
    assert sum(1 for _ in (tmp_path / "data.train.jsonl").open()) + 2 == 21
    (tmp_path / "data" / "a.jsonl").unlink()
    placed_alone = tmp_path / "data" / "b.json"
    placed_alone.write_text(json.dumps(SETTINGS["flat.json"]))
    with pytest.raises(DataError, match="has the columns rate, name, and which is asked"):
        chosen({}, "b.json")


@pytest.mark.parametrize("place", ["a.jsonl", ""])
def test_not_only_rows_without_an_answer_are_held_out(tmp_path, place):
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"question": f"q{i}", "answer": "" if i < 18 else f"a{i}"} for i in range(20)]
    (data / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if not place:
        (data / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{"question": None}, *rows]))
    found = choose([str(data / place)], [], {}, tmp_path, [], lambda line: None)
    for [part] in (found.held_out, found.train):
        assert any(json.loads(line).get("answer") for line in Path(part.path).read_text().splitlines())


@pytest.mark.parametrize(("answered", "said"), [(0, "no row with an answer"), (1, "one row with an answer")])
def test_answers_are_needed_to_hold_some_out(tmp_path, answered, said):
    file = tmp_path / "a.jsonl"
    rows = [{"instruction": "q", "output": "a" if i < answered else ""} for i in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=f"a.jsonl' holds {said}; needed are two"):
        choose([str(file)], [], {}, tmp_path, [], lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_columns_that_no_template_can_name_are_said(chosen):
    with pytest.raises(
        DataError, match=r"no template can name '\{q\}', 'why\?': rename a column whose name has one of"
    ):
        chosen({"a.jsonl": {"{q}": "a", "why?": "b", "c": "d"}}, "a.jsonl")
