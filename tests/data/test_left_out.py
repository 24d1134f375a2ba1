import json

import pytest

from rankray.config.sections import DataSection
from rankray.data.left_out import MOST_REASONS, OTHER, LeftOut, Unusable
from rankray.data.sources import Source
from rankray.data.tokenize import load_split
from rankray.errors import DataError

ASKED, SAID = {"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}
NULL = {"role": "assistant", "content": None}
HUMAN, GPT = {"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}
GOOD = {
    "messages": {"messages": [ASKED, SAID]},
    "sharegpt": {"conversations": [HUMAN, GPT]},
    "alpaca": {"instruction": "1", "input": "", "output": "2"},
    "prompt_completion": {"prompt": "1", "completion": "2"},
    "text": {"text": "1 plus 2 is 3"},
    "columns": {"q": "1", "a": "2"},
}
OTHERS = {"columns": {"prompt": "{q}\n", "completion": "{a}"}}
LEFT_OUT = [
    ("messages", {"messages": []}, "with no turns"),
    ("messages", {"messages": None}, "with no turns"),
    ("messages", {"messages": "[]"}, "with no turns"),
    ("messages", {"id": 7}, "with no turns"),
    ("messages", {"messages": [ASKED]}, "with no assistant turn"),
    ("messages", {"messages": [ASKED, {**SAID, "weight": 0}]}, "with assistant turns of weight 0 alone"),
    ("messages", {"messages": [ASKED, NULL]}, "with a turn without text"),
    ("messages", {"messages": [ASKED, {"role": "assistant", "refusal": "no"}]}, "with a turn without text"),
    ("messages", {"messages": [{**ASKED, "content": None}, SAID]}, "with a turn without text"),
    ("sharegpt", {"conversations": []}, "with no turns"),
    ("sharegpt", {"conversations": [HUMAN]}, "with no assistant turn"),
    ("sharegpt", {"conversations": [{"from": "system", "value": "x"}]}, "with no assistant turn"),
    ("sharegpt", {"conversations": [HUMAN, {"from": "gpt", "value": None}]}, "with a turn without text"),
    ("alpaca", {"instruction": None, "input": "x", "output": "2"}, "with no value in column 'instruction'"),
    ("alpaca", {"instruction": "1", "output": None}, "with no value in column 'output'"),
    ("alpaca", {"instruction": "1"}, "with no value in column 'output'"),
    ("alpaca", {"instruction": "1", "output": float("nan")}, "with no value in column 'output'"),
    ("alpaca", {"instruction": "1", "response": None}, "with no value in column 'response'"),
    ("alpaca", GOOD["alpaca"] | {"history": [["1", None]]}, "with a turn of the history without text"),
    ("prompt_completion", {"prompt": "1", "completion": None}, "with no value in column 'completion'"),
    ("prompt_completion", {"completion": "2"}, "with no value in column 'prompt'"),
    ("prompt_completion", {"prompt": [ASKED], "completion": []}, "with no answer"),
    ("prompt_completion", {"prompt": [ASKED, SAID], "completion": [ASKED]}, "with no assistant turn"),
    ("prompt_completion", {"prompt": "", "completion": " \n"}, "with an empty text"),
    ("text", {"text": None}, "with no value in column 'text'"),
    ("text", {"text": " \n"}, "with an empty text"),
    ("columns", {"q": "1", "a": None}, "with no value in column 'a'"),
    ("columns", {"q": "", "a": ""}, "with an empty text"),
    ("columns", {"a": "2"}, "with no value in column 'q'"),
]
BROKEN = [
    ("messages", {"messages": "hello"}, "holds 'hello'"),
    ("messages", {"messages": [ASKED, {"role": "assitant", "content": "2"}]}, "turn 2 has the role 'assitant'"),
    ("messages", {"messages": [ASKED, {"role": "assistant", "content": 5}]}, "turn 2 has content 5"),
    ("sharegpt", {"conversations": [HUMAN, {"from": "wizard", "value": "2"}]}, "turn 2 has the role 'wizard'"),
    ("alpaca", {"instruction": "1", "output": ["2"]}, r"column 'output' holds a list: \['2'\]"),
    ("alpaca", {"instruction": {"en": "1"}, "output": "2"}, "column 'instruction' holds a dict"),
    ("alpaca", {"instruction": "1", "input": ["x"], "output": "2"}, "column 'input' holds a list"),
    ("prompt_completion", {"prompt": "1", "completion": {"text": "2"}}, "column 'completion' holds a dict"),
    ("text", {"text": ["1"]}, "column 'text' holds a list"),
    ("columns", {"q": "1", "a": ["2"]}, "column 'a' holds a list"),
]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def source(path, form, tokenizer=None, split="train", **fields):
    data = DataSection(train=path, eval=path, format=form, **OTHERS.get(form, {}), **fields)
    return Source(split, data, tokenizer=tokenizer)


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize(("form", "row", "reason"), LEFT_OUT, ids=lambda each: str(each)[:40])
def test_a_row_with_nothing_to_train_on_is_left_out_and_counted(form, row, reason, split, tmp_path):
    good = GOOD[form]
    path = written(tmp_path / "t.jsonl", [good, row, good])
    both = [source(path, form, split=split), source(path, form, split=split, streaming=True)]
    examples = [list(each.placed()) for each in both]
    assert [len(placed) for placed in examples] == [2, 2]
    assert [[each.place for each in placed] for placed in examples] == [[f"{path}:1", f"{path}:3"]] * 2
    for each in both:
        assert each.left_out.as_json() == {"rows": 1, "of": 3, "reasons": {reason: {"rows": 1, "first": f"{path}:2"}}}
        assert each.left_out.indices == [1]


@pytest.mark.parametrize(("form", "row", "said"), BROKEN, ids=lambda each: str(each)[:40])
def test_a_row_of_another_shape_is_refused_with_its_place(form, row, said, tmp_path):
    path = written(tmp_path / "t.jsonl", [GOOD[form]] * 9 + [row])
    with pytest.raises(DataError, match=rf"t\.jsonl:10.*{said}"):
        source(path, form).examples()


@pytest.mark.parametrize("streaming", [False, True])
def test_half_of_the_rows_are_too_many(tmp_path, streaming):
    rows = [GOOD["alpaca"], {"instruction": "1", "output": None}, GOOD["alpaca"], {"instruction": None, "output": "2"}]
    path = written(tmp_path / "t.jsonl", [*rows, rows[1]])
    with pytest.raises(DataError) as raised:
        list(source(path, "alpaca", streaming=streaming).placed())
    text = str(raised.value)
    assert text.startswith(f"data.train: 3 of 5 rows of '{path}' have nothing to train on: 2 with no value in column")
    assert f"'output' (first: {path}:2), 1 with no value in column 'instruction' (first: {path}:4)" in text
    assert len(list(source(written(tmp_path / "u.jsonl", rows[:3]), "alpaca").placed())) == 2
    nothing = written(tmp_path / "n.jsonl", rows[1:2] * 3)
    with pytest.raises(
        DataError, match=rf"n.jsonl:1 has no value in column 'output'.*\(all 3 rows of '{nothing}' are so"
    ):
        list(source(nothing, "alpaca", streaming=streaming).placed())


def test_each_source_of_a_mixture_is_counted_and_judged_by_itself(tmp_path):
    chats = written(tmp_path / "chats.jsonl", [GOOD["sharegpt"]] * 4 + [{"conversations": []}])
    texts = written(tmp_path / "texts.jsonl", [GOOD["text"]] * 2 + [{"text": ""}])
    for streaming in (False, True):
        entries = [{"path": chats, "weight": 1}, {"path": texts, "weight": 1}]
        data = DataSection(train=entries, eval=chats, streaming=streaming)
        found = Source("train", data)
        assert len(list(found.placed())) == 4
        assert found.left_out.as_json()["reasons"] == {
            "with no turns": {"rows": 1, "first": f"{chats}:5"},
            "with an empty text": {"rows": 1, "first": f"{texts}:3"},
        }
        assert found.left_out.rows == 8
    written(tmp_path / "texts.jsonl", [GOOD["text"], {"text": ""}])
    with pytest.raises(DataError, match=r"^data.train: source 2: 1 of 2 rows of '.*texts.jsonl'"):
        Source("train", data).examples()


def test_what_where_and_weights_take_away_does_not_count(tmp_path):
    rows = [GOOD["alpaca"] | {"w": 1, "lang": "en"}] * 2 + [{"instruction": "1", "w": 1, "lang": "en"}]
    rows += [{"instruction": None, "w": 1, "lang": "de"}] * 9 + [GOOD["alpaca"] | {"w": 0, "lang": "en"}]
    found = source(written(tmp_path / "t.jsonl", rows), "alpaca", weight_column="w", where={"lang": "en"})
    assert len(found.examples()) == 2
    assert (found.left_out.count, found.left_out.rows) == (1, 4)


def test_a_column_that_a_later_part_of_a_stream_lacks(tmp_path):
    """As rows of JSON may leave a key out: of all rows, only a column that none has is refused."""
    rows = [GOOD["columns"]] * 2001 + [{"q": "1"}] * 1200
    path = written(tmp_path / "t.jsonl", rows)
    for streaming in (False, True):
        found = source(path, "columns", streaming=streaming)
        assert len(list(found.placed())) == 2001
        assert found.left_out.count == 1200


STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{{ '<user>' if m.role == 'user' else '<assistant>' }}{{ m.content }}"
    "{{ eos_token if m.role == 'assistant' else '' }}{% endfor %}{{ '<assistant>' if add_generation_prompt else '' }}"
)


@pytest.fixture
def strict(model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    tokenizer.chat_template = STRICT
    return tokenizer


def test_conversations_that_the_chat_template_refuses(tmp_path, strict):
    rows = [[HUMAN, GPT], [GPT, HUMAN, GPT], [HUMAN, HUMAN, GPT], [HUMAN, GPT, HUMAN, GPT], [HUMAN, GPT], [HUMAN]]
    path = written(tmp_path / "t.jsonl", [{"conversations": turns, "n": n} for n, turns in enumerate(rows)])
    with pytest.raises(DataError, match=r"3 of 6 rows .* 2 refused by the model's chat template \('Conversation roles"):
        source(path, "sharegpt", strict).examples()
    more = [{"conversations": rows[0], "n": 9}]
    path = written(tmp_path / "u.jsonl", [{"conversations": r, "n": n} for n, r in enumerate(rows)] + more)
    data = DataSection(train=path, eval=path, train_on="all")
    made, found = load_split("train", data, strict, limit=64), load_split("train", data, strict, limit=64)
    why = "refused by the model's chat template ('Conversation roles must alternate user/assistant')"
    for split in (made, found):  # the second one is read from the cache
        assert split.left_out.as_json() == {
            "rows": 3, "of": 7,
            "reasons": {
                why: {"rows": 2, "first": f"{path}:2"}, "with no assistant turn": {"rows": 1, "first": f"{path}:6"},
            },
        }  # fmt: skip
        assert [row["n"] for row in split.rows] == [0, 3, 4, 9]
        assert len(split.tokens) == len(split.dataset) == 4


def test_many_reasons_are_counted_together_and_few_are_named():
    left = LeftOut()
    for number in range(MOST_REASONS + 5):
        left.rows += 1
        left.add(Unusable(f"row {number}", f"reason {number}"), f"t:{number}")
    assert left.count == MOST_REASONS + 5
    assert left.reasons[OTHER] == (5, f"t:{MOST_REASONS}")
    assert left.line("data.eval").startswith("data.eval: 25 of 25 rows left out, with nothing to train on: 5 for other")
    assert left.line("data.eval").endswith("1 reason 1 (first: t:1), 18 for other reasons")
    again = LeftOut.from_json(json.loads(json.dumps(left.as_json())))
    assert (again.rows, again.reasons) == (left.rows, left.reasons)
    assert LeftOut().line("data.eval") == ""


def test_rows_of_a_known_reason_are_counted_under_it_when_there_are_too_many_reasons():
    left = LeftOut()
    for number in [*range(MOST_REASONS + 2), 0, 0]:
        left.rows += 1
        left.add(Unusable(f"row {number}", f"for reason {number}"), f"row {left.rows}")
    assert left.reasons["for reason 0"] == (3, "row 1")
    assert left.reasons[OTHER] == (2, f"row {MOST_REASONS + 1}")
    assert left.indices == list(range(MOST_REASONS + 4))


def test_all_rows_for_two_reasons_are_refused_with_both():
    left = LeftOut(2)
    left.add(Unusable("one", "with no turns"), "row 1")
    left.add(Unusable("two", "with no answer"), "row 2")
    with pytest.raises(DataError, match=r"^w: 2 of 2 rows of 's' have nothing.*: 1 with no turns.*, 1 with no answer"):
        left.refuse_most("w", "s")
