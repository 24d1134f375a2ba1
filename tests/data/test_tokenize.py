import json

import pytest

from rankray.config.sections import DataSection
from rankray.data import tokenize
from rankray.data.encode import Tokens
from rankray.data.tokenize import load_split
from rankray.errors import DataError, ModelError


@pytest.fixture
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def section(source, **fields):
    given = {"prompt": "{q}\n", "completion": "{a}", **fields}
    return DataSection(train=source, eval=source, **given)


def test_only_the_completion_has_labels(tmp_path, tokenizer):
    source = write(tmp_path / "x.jsonl", [{"q": "1 plus 2 is?", "a": "3"}, {"q": "", "a": "ab"}])
    split = load_split("train", section(source), tokenizer, limit=64)
    row = split.dataset[0]
    supervised = [i for i, label in enumerate(row["labels"]) if label != -100]
    assert tokenizer.decode(row["input_ids"]) == "1 plus 2 is?\n3<eos>"
    assert tokenizer.decode([row["labels"][i] for i in supervised]) == "3<eos>"
    assert supervised == list(range(supervised[0], len(row["labels"])))
    assert split.rows[0] == {"q": "1 plus 2 is?", "a": "3", "prompt": "1 plus 2 is?\n", "completion": "3"}
    assert split.own_rows == split.rows


def test_eos_is_not_doubled(tmp_path, tokenizer):
    source = write(tmp_path / "x.jsonl", [{"q": "1", "a": "3<eos>"}])
    [example] = load_split("train", section(source), tokenizer, limit=64).tokens
    assert example.input_ids.count(tokenizer.eos_token_id) == 1


def test_tokens_that_merge_across_the_boundary_belong_to_the_completion(tmp_path, tokenizer):
    source = write(tmp_path / "x.jsonl", [{"q": "1 pl", "a": "us 2"}])
    [example] = load_split("train", section(source, prompt="{q}"), tokenizer, limit=64).tokens
    alone = tokenizer("1 pl")["input_ids"]
    assert example.input_ids[: len(alone)] != alone
    assert tokenizer.decode(example.input_ids) == "1 plus 2<eos>"
    assert "plus" in tokenizer.decode(example.input_ids[example.start :])


def test_what_is_too_long_is_cut_and_what_is_left_unsupervised_dropped(tmp_path, tokenizer):
    rows = [{"q": "1", "a": "1 plus 2 is? " * 5}, {"q": "9 8 7 6 5 4 3 2 1 0 9 8 7 6", "a": "1"}]
    split = load_split("train", section(write(tmp_path / "x.jsonl", rows)), tokenizer, limit=10)
    assert [len(example.input_ids) for example in split.tokens] == [10, 10]
    assert [example.supervised for example in split.tokens] == [True, False]
    assert split.dropped == 1
    assert len(split.dataset) == 1
    assert split.dataset[0]["labels"][-1] != -100


def test_nothing_left_is_an_error(tmp_path, tokenizer):
    source = write(tmp_path / "x.jsonl", [{"q": "1 plus 2 is? 4 plus 5 is?", "a": "1"}])
    with pytest.raises(
        DataError, match=r"^data.max_length: 4 leaves no completion token of any of the 1 examples of data.train"
    ):
        load_split("train", section(source), tokenizer, limit=4)


def test_a_lone_first_token_cannot_be_predicted():
    assert not Tokens([5], 0).supervised
    assert Tokens([5, 6], 0).supervised
    assert not Tokens([5, 6], 2).supervised


def test_messages_go_through_the_chat_template(tmp_path, tokenizer):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    source = write(tmp_path / "x.jsonl", [{"chat": [*turns, {"role": "user", "content": "again"}, turns[1]]}])
    split = load_split("eval", section(source, messages="chat"), tokenizer, limit=200)
    [example] = split.tokens
    assert (
        tokenizer.decode(example.input_ids[: example.start])
        == "<user> hi\n<assistant> ho<eos>\n<user> again\n<assistant> "
    )
    assert tokenizer.decode(example.input_ids[example.start :]) == "ho<eos>\n"
    assert split.rows[0]["completion"] == "ho"


def test_messages_without_a_chat_template(tmp_path, tokenizer):
    tokenizer.chat_template = None
    source = write(tmp_path / "x.jsonl", [{"chat": [{"role": "assistant", "content": "ho"}]}])
    with pytest.raises(ModelError, match=r"^data.messages: .*no chat template"):
        load_split("train", section(source, messages="chat"), tokenizer, limit=64)


def test_only_the_first_rows(data_file, tokenizer):
    data = section(str(data_file), prompt="{question}\n", completion="{answer}")
    assert [row["question"] for row in load_split("eval", data, tokenizer, 64, first=2).rows] == [
        "0 plus 0 is?",
        "0 plus 1 is?",
    ]


def test_a_hub_dataset_that_cannot_be_loaded(tokenizer, monkeypatch):
    import datasets

    def absent(name, config, split):
        raise ConnectionError(f"no {name} {config} {split}\nand more")

    monkeypatch.setattr(datasets, "load_dataset", absent)
    with pytest.raises(
        DataError, match=r"^data.train: 'a/b:c:train' cannot be loaded \(no a/b c train\); allowed is hub-id"
    ):
        load_split("train", section("a/b:c:train"), tokenizer, 64)


def test_a_hub_dataset(tokenizer, monkeypatch):
    import datasets

    rows = [{"q": "1", "a": "2"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: datasets.Dataset.from_list(rows))
    assert load_split("train", section("a/b:c:train"), tokenizer, 64).rows[0]["a"] == "2"


def test_one_part_of_a_split_may_keep_nothing(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenize, "ROWS_PER_PART", 2)
    long = {"q": "9 8 7 6 5 4 3 2 1 0 9 8 7 6", "a": "1"}
    for number, rows in enumerate(([{"q": "1", "a": "2"}] * 2 + [long] * 3, [long] * 3 + [{"q": "1", "a": "2"}] * 2)):
        split = load_split("train", section(write(tmp_path / f"{number}.jsonl", rows)), tokenizer, limit=10)
        assert (len(split.table), split.dropped, len(split.dataset)) == (5, 3, 2)
        assert split.lengths().lost == 3


def test_what_was_left_out_is_known_of_a_split_that_was_made_before(tmp_path, tokenizer):
    rows = [{"q": "1", "a": "2"}, {"q": "1", "a": None}, {"q": "3", "a": "2"}]
    source = write(tmp_path / "x.jsonl", rows)
    first, again = (load_split("train", section(source), tokenizer, limit=10).left_out for _ in range(2))
    assert first.as_json() == again.as_json()
    assert again.line("data.train").startswith("data.train: 1 of 3 rows left out, with nothing to train on: 1 with no")
    assert first.indices == [1]
