"""Directories, patterns and several files: what is trained on, held out, and kept for the last word."""

import json

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
