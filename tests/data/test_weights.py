"""Weights from the data: which token has which, and what is refused, with its row."""

import json
from decimal import Decimal

import numpy as np
import pytest
import torch

from rankray.config.sections import DataSection
from rankray.data.encode import encode
from rankray.data.sources import Source
from rankray.data.tokenize import load_split
from rankray.data.weights import number
from rankray.errors import DataError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


@pytest.fixture
def source(tmp_path):
    def make(rows, **data):
        file = tmp_path / "t.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"prompt": "{q}\n", "completion": "{a}"} if "q" in rows[0] else {}
        return DataSection(train=str(file), eval=str(file), **{**given, **data})

    return make


def weights_of(data, tokenizer, split="train"):
    """Return for each example (token's text, weight) of every token."""
    placed = Source(split, data).examples()
    found = encode([p.example for p in placed], tokenizer, data, [p.place for p in placed])
    return [
        None if each.weights is None else list(zip(map(tokenizer.decode, each.input_ids), each.weights, strict=True))
        for each in found
    ]


def texts(found, keep):
    return "".join(text for text, weight in found if keep(weight))


def test_without_weights_nothing_changes(source, tokenizer):
    data = source([{"q": "1", "a": "2", "w": 3}])
    assert weights_of(data, tokenizer) == [None]


def test_an_example_weighs_on_all_its_completion(source, tokenizer):
    rows = [{"q": "1", "a": "23", "w": 0.5}, {"q": "1", "a": "2", "w": 0}, {"q": "1", "a": "2", "w": 1}]
    one, other = weights_of(source(rows, weight_column="w"), tokenizer)
    assert texts(one, lambda w: w == 0.5) == "23<eos>"
    assert texts(one, lambda w: w == 0.0) == "1\n"
    assert other is None
    assert weights_of(source(rows, weight_column="w"), tokenizer, "eval") == [None] * 3


def test_the_prompt_is_trained_on_beside_it(source, tokenizer):
    rows = [{"q": "1", "a": "2", "w": 0.5}]
    [found] = weights_of(source(rows, weight_column="w", prompt_weight=0.1), tokenizer)
    assert texts(found, lambda w: w == -0.5) == "1\n"
    assert texts(found, lambda w: w == 0.5) == "2<eos>"
    data = source(rows, prompt_weight=0.1)
    split = load_split("train", data, tokenizer, limit=64)
    assert split.dataset[0]["labels"] == split.dataset[0]["input_ids"]
    assert split.lengths().supervised_tokens == 2, "sizes are those of completions, whatever the prompt's weight"
    assert load_split("eval", data, tokenizer, limit=64).dataset[0]["labels"][0] == -100


def test_trials_with_different_prompt_weights_share_their_tokens(source, tokenizer):
    data = source([{"q": "1", "a": "2"}])
    first, second, none = (
        load_split("train", data.model_copy(update={"prompt_weight": weight}), tokenizer, limit=64).table.cache_files
        for weight in (0.1, 1.0, 0.0)
    )
    assert first == second != none


def test_one_number_for_each_token_of_the_completion(source, tokenizer):
    rows = [{"q": "1 plus 2 is?", "a": "3 4", "t": [0.5, 2]}]
    count = len(tokenizer("3 4")["input_ids"])
    rows[0]["t"] = [float(i) for i in range(count)]
    data = source(rows, token_weights="t")
    [found] = weights_of(data, tokenizer)
    assert [w for _, w in found[-count - 1 :]] == [*rows[0]["t"], 1.0], "the end token has weight 1"
    rows[0]["t"].append(7.0)
    [found] = weights_of(source(rows, token_weights="t"), tokenizer)
    assert found[-1] == ("<eos>", 7.0)
    split = load_split("train", source(rows, token_weights="t"), tokenizer, limit=64)
    assert split.dataset[0]["labels"][-count - 1] == -100, "weight 0 is not trained on"


def test_characters_of_the_completion(source, tokenizer):
    rows = [{"q": "1 plus 2 is?", "a": "3 is 4", "t": [{"start": 2, "end": 4, "weight": 0.25}]}]
    [found] = weights_of(source([*rows, {**rows[0], "t": []}], token_weights="t"), tokenizer)[:1]
    assert texts(found, lambda w: w == 0.25).strip() == "is"
    assert texts(found, lambda w: w == 1.0) == "3 4<eos>"


def test_a_token_has_the_mean_of_its_characters_spaces_aside(source, tokenizer):
    rows = [{"q": "1", "a": " plus", "t": [{"start": 1, "end": 3, "weight": 0.0}]}]
    assert len(tokenizer(" plus")["input_ids"]) == 1
    [found] = weights_of(source(rows, token_weights="t", prompt="{q}"), tokenizer)
    assert found[-2] == (" plus", 0.5)


def test_turns_have_weights(source, tokenizer):
    tokenizer.chat_template = CHATML
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "first", "weight": 0.5},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "second", "train": False},
        {"role": "assistant", "content": "third"},
    ]
    rows = [{"messages": turns, "w": 2}]
    [found] = weights_of(source(rows, train_on="all"), tokenizer)
    assert texts(found, lambda w: w == 0.5) == "first<|im_end|>\n"
    assert texts(found, lambda w: w == 1.0) == "third<|im_end|>\n"
    [found] = weights_of(source(rows, train_on="all", weight_column="w", prompt_weight=0.3), tokenizer)
    assert texts(found, lambda w: w == 1.0) == "first<|im_end|>\n"
    assert texts(found, lambda w: w == 2.0) == "third<|im_end|>\n"
    assert texts(found, lambda w: w == 0.0) == "second<|im_end|>\n"
    assert "user\none" in texts(found, lambda w: w == -2.0)
    [last] = weights_of(source(rows, prompt_weight=0.3), tokenizer)
    assert texts(last, lambda w: w == 1.0) == "third<|im_end|>\n"
    assert "first<|im_end|>" in texts(last, lambda w: w == -1.0), "an earlier turn is the last one's prompt"


def test_characters_of_the_last_turn(source, tokenizer):
    tokenizer.chat_template = CHATML
    turns = [{"role": "user", "content": "3 is"}, {"role": "assistant", "content": " 3 is"}]
    rows = [{"messages": turns, "t": [{"start": 3, "end": 5, "weight": 0.5}]}]
    [found] = weights_of(source(rows, token_weights="t"), tokenizer)
    assert texts(found, lambda w: w == 0.5).strip() == "is"
    assert "is" not in texts(found, lambda w: w == 1.0)


BAD = [None, "", "x", -1, float("nan"), float("inf"), [1], 1e7]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_bad_weight_is_refused_with_its_row(source, bad):
    rows = [{"q": "1", "a": "2", "w": 1}, {"q": "1", "a": "2", "w": bad}]
    with pytest.raises(
        DataError,
        match=r"^data.weight_column: .*t.jsonl:2: column 'w' holds .*; allowed is a number from 0 to 1,000,000",
    ):
        Source("train", source(rows, weight_column="w")).examples()


@pytest.mark.parametrize("given", [1, 1.0, True, "1", " 1e0 ", Decimal("1.00"), 0, "0", Decimal(0), 1_000_000])
def test_a_weight_may_be_written_in_several_ways(given):
    """Text in .csv files, decimals in .parquet files."""
    assert number(given, "x") == float(given)


@pytest.mark.parametrize("given", [np.float32(0.5), np.int64(2), np.bool_(True), torch.tensor(0.5), torch.tensor(2)])
def test_a_weight_may_be_a_number_of_numpy_or_torch(given):
    assert number(given, "x") == float(given)
    assert type(number(given, "x")) is float


@pytest.mark.parametrize("given", [np.float32("nan"), torch.tensor(-1.0), torch.ones(1), np.ones(2)])
def test_one_that_is_no_weight_is_refused(given):
    with pytest.raises(DataError, match=r"^x holds the weight .*; allowed is a number from 0"):
        number(given, "x")


@pytest.mark.parametrize("given", [Decimal("NaN"), Decimal(-1), "nan", "1,5", 1_000_001])
def test_what_is_no_weight_is_refused(given):
    with pytest.raises(DataError, match=r"^x holds the weight .*; allowed is a number from 0"):
        number(given, "x")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (None, "holds no list"),
        (0.5, "holds 0.5; allowed is a list"),
        ([], r"holds \[\]"),
        ([1, -1], "entry 2 holds the weight -1"),
        ([0, 0], "2 weights that are all 0"),
        ([{"start": 3, "end": 3, "weight": 1}], "entry 1 is .*start below end"),
        ([{"start": -1, "end": 1, "weight": 1}], "entry 1 is .*start below end"),
        ([{"start": 0, "end": 1.0, "weight": 1}], "entry 1 is .*start below end"),
        ([{"start": "0", "end": 1, "weight": 1}], "entry 1 is .*start below end"),
        ([{"start": 0, "end": 1}], "entry 1 holds no weight"),
        ([{"start": 0, "end": 1, "weight": 0}, 1], "entry 2 is 1"),
    ],
)
def test_bad_token_weights_are_refused_with_their_row(source, bad, why):
    good, bad = ({"q": "1", "a": "2", "t": given} for given in ([1, 1], bad))
    for line, rows in ((2, [good, bad]), (1, [bad, good])):
        with pytest.raises(DataError, match=rf"^data.token_weights: .*t.jsonl:{line}: column 't'.*{why}"):
            Source("train", source(rows, token_weights="t")).examples()


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([1.0] * 9, "holds 9 weights, and the completion has 1, or 2 with the one that ends it tokens"),
        ([{"start": 0, "end": 2, "weight": 1}], "entry 1 ends at character 2, and the completion has 1"),
        ([{"start": 0, "end": 1, "weight": 0}], "gives every character the weight 0"),
    ],
)
def test_token_weights_that_do_not_fit_are_refused_with_their_row(source, tokenizer, bad, why):
    data = source([{"q": "1", "a": "2", "t": bad}], token_weights="t")
    with pytest.raises(DataError, match=rf"^data.token_weights: .*t.jsonl:1.*{why}"):
        load_split("train", data, tokenizer, limit=64)


def test_a_column_that_is_not_there(source):
    rows = [{"q": "1", "a": "2", "weight": 1}]
    with pytest.raises(DataError, match=r"^data.weight_column: no column 'wieght'.*weight"):
        Source("train", source(rows, weight_column="wieght")).examples()


def test_weights_that_leave_nothing(source):
    with pytest.raises(DataError, match="weights of 0, leave no row"):
        Source("train", source([{"q": "1", "a": "2", "w": 0}], weight_column="w")).examples()


def test_numbers_of_a_csv_are_text(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("prompt,completion,w\n1,2,0.5\n1,2,x\n")
    data = DataSection(train=str(file), eval=str(file), weight_column="w", max_examples=1)
    with pytest.raises(DataError, match=r"t.csv:3: column 'w' holds the weight 'x'"):
        Source("train", data).examples()
    file.write_text("prompt,completion,w\n1,2,0.5\n")
    assert Source("train", data).examples()[0].example.given.example == 0.5
