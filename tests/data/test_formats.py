import json

import pytest

from rankray.config.sections import DataSection
from rankray.data.examples import Places, make_examples
from rankray.data.formats import ALPACA_WITH_INPUT, ALPACA_WITHOUT_INPUT, as_turns, recognise, unused_columns
from rankray.errors import DataError

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]


def section(**fields):
    return DataSection(train="t.jsonl", eval="e.jsonl", **fields)


def examples(*rows, **fields):
    return make_examples(rows, section(**fields), Places())


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"prompt": TURNS[:1], "completion": TURNS[1:]}, "prompt_completion"),
        ({"messages": TURNS}, "messages"),
        ({"messages": SAID}, "sharegpt"),
        ({"conversations": SAID, "id": "x"}, "sharegpt"),
        ({"conversations": TURNS}, "messages"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "response": "b"}, "alpaca"),
        ({"text": "a", "meta": {}}, "text"),
        ({"instruction": "a", "context": "c", "response": "b", "category": "x"}, "alpaca"),
        ({"dialogue": TURNS, "id": 1}, "messages"),
        ({"items": SAID}, "sharegpt"),
        ({"prompt": "a", "prompt_id": "x", "messages": TURNS}, "messages"),
        ({"prompt": "a", "completion": "b", "label": True}, "prompt_completion"),
    ],
)
def test_the_columns_show_the_form(row, form):
    assert recognise([row], section()) == form


def test_what_the_file_says_comes_before_the_columns():
    row = {"messages": TURNS, "text": "x", "q": "a", "a": "b", "prompt": "p", "completion": "c"}
    assert recognise([row], section(prompt="{q}", completion="{a}")) == "columns"
    assert recognise([row], section(messages="messages")) == "messages"
    assert recognise([row], section(format="text")) == "text"
    assert recognise([row], section()) == "prompt_completion"


def test_unknown_columns_say_what_to_write():
    with pytest.raises(DataError) as raised:
        recognise([{"Question": "a", "answer": "b"}], section())
    assert "columns Question, answer" in str(raised.value)
    assert 'data.prompt: "{Question}\\n" and data.completion: "{answer}"' in str(raised.value)
    with pytest.raises(DataError, match="a preference set"):
        recognise([{"chosen": "a", "rejected": "b"}], section())


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a", "response": "b"}], r'data.prompt: "{prompt}\\n" and data.completion: "{response}"'),
        ([{"prompt": TURNS[:1], "data_source": "x"}], r"a column of turns without answers \(prompt\)"),
        ([{"one": TURNS, "other": TURNS}], r"columns of turns \(one, other\).*data.messages"),
        ([{"data": ["a", "b"], "id": 1}], "'data' holds a list of str; .*data.messages"),
        ([{"translation": {"en": "a", "de": "b"}}], "'translation' holds a mapping"),
    ],
    ids=str,
)
def test_what_is_no_data_for_fine_tuning_says_what_to_do(rows, said):
    with pytest.raises(DataError, match=rf"(?s)^data.train: .*{said}"):
        recognise(rows, section())


def test_columns_that_nothing_is_made_from():
    def unused(row, **fields):
        return unused_columns(recognise([row], section(**fields)), [row], section(**fields))

    assert unused({"instruction": "a", "context": "c", "response": "b", "category": "x", "empty": ""}) == ["category"]
    assert unused({"instruction": "a", "input": "", "output": "b", "text": "all"}) == ["text"]
    assert unused({"messages": TURNS, "tools": [], "prompt": "p", "id": 1}) == ["prompt", "id"]
    assert unused({"q": "a", "a": "b", "c": 1, "w": 1}, prompt="{{x}} {q?}", completion="{a}", weight_column="w") == [
        "c"
    ]


def test_dollys_context_is_the_input():
    [example] = examples({"instruction": "Add", "context": "1 2", "response": "3", "category": "x"})
    assert "### Input:\n1 2" in example.prompt


def test_functions_and_a_system_prompt_beside_the_turns():
    [example] = examples({"messages": TURNS, "functions": [{"name": "f"}], "system_prompt": "s"})
    assert example.asked[0] == {"role": "system", "content": "s"}
    assert example.tools == [{"type": "function", "function": {"name": "f"}}]


def test_alpaca_is_stanfords_text():
    with_input, without = examples(
        {"instruction": "Add", "input": "1 2", "output": "3"}, {"instruction": "Say hi", "input": "", "output": "hi"}
    )
    assert with_input.prompt == (f"{ALPACA_WITH_INPUT}\n\n### Instruction:\nAdd\n\n### Input:\n1 2\n\n### Response:\n")
    assert without.prompt == f"{ALPACA_WITHOUT_INPUT}\n\n### Instruction:\nSay hi\n\n### Response:\n"
    assert (with_input.completion, without.completion) == ("3", "hi")
    [own] = examples({"instruction": "x", "input": None, "output": "y", "system": "Be brief."})
    assert own.prompt == "Be brief.\n\n### Instruction:\nx\n\n### Response:\n"


def test_alpacas_history_is_turns_before_the_last():
    row = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["q", "a"], ("r", "b")]}
    one, same, none = examples(row, {**row, "history": '[["q", "a"], ["r", "b"]]'}, {**row, "history": []})
    assert one == same
    assert [(turn["role"], turn["content"]) for turn in one.turns] == [
        ("system", ALPACA_WITH_INPUT), ("user", "q"), ("assistant", "a"), ("user", "r"), ("assistant", "b"),
        ("user", "Add\n\n### Input:\n1 2"), ("assistant", "3"),
    ]  # fmt: skip
    assert one.template is not None
    assert not none.is_chat
    assert unused_columns("alpaca", [row], section()) == []


@pytest.mark.parametrize("history", ["q", [["q"]], [["q", 1]], [{"q": "a"}], {"q": "a"}], ids=str)
def test_a_history_of_another_form_is_refused_with_its_row(history):
    with pytest.raises(DataError, match=r"^data.train: row 1 has .*history.*allowed are pairs \[question, answer\]"):
        examples({"instruction": "a", "output": "b", "history": history})


def test_texts_become_turns_for_the_models_own_template():
    chat = {"chat": True}
    [templated] = examples({"q": "1?", "a": 2}, prompt="{q}", completion="{a}", **chat)
    [pair] = examples({"prompt": "1?", "completion": "2"}, **chat)
    wanted = [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "2"}]
    assert templated.turns == pair.turns == wanted
    assert (templated.template, pair.template) == (None, None)
    row = {"instruction": "Add", "input": "1 2", "output": "3", "system": "Be brief.", "history": [["q", "a"]]}
    [alpaca] = examples(row, **chat)
    assert alpaca.template is None
    assert [turn["content"] for turn in alpaca.turns] == ["Be brief.", "q", "a", "Add\n1 2", "3"]
    assert [turn["role"] for turn in examples({"instruction": "i", "output": "o"}, **chat)[0].turns] == [
        "user",
        "assistant",
    ]
    assert examples({"messages": TURNS}, **chat) == examples({"messages": TURNS})
    with pytest.raises(DataError, match=r"^data.chat: row 1 is plain text"):
        examples({"text": "once"}, **chat)


def test_prompt_and_completion_may_be_turns_texts_or_one_of_each():
    both, mixed, text = (
        examples({"prompt": prompt, "completion": completion})[0]
        for prompt, completion in ((TURNS[:1], TURNS[1:]), (TURNS[:1], "ho"), ("hi", "ho"))
    )
    assert both == mixed
    assert (both.prompt, both.completion) == (TURNS[:1], TURNS[1:])
    assert (text.prompt, text.completion) == ("hi", "ho")


def test_a_text_is_trained_on_whole():
    assert examples({"text": "once"})[0][:2] == ("", "once")


def test_sharegpt_with_system_and_tools_columns():
    [example] = examples({"conversations": SAID, "system": "s", "tools": '[{"name": "f"}]'})
    assert example.asked[0] == {"role": "system", "content": "s"}
    assert example.tools == [{"name": "f"}]


@pytest.mark.parametrize("column", ["images", "videos", "audios"])
def test_media_beside_the_text_are_refused(column):
    with pytest.raises(DataError, match=f"^data.train: row 1 has {column}"):
        examples({"messages": TURNS, column: ["x.png"]})
    assert examples({"messages": TURNS, column: []})


@pytest.mark.parametrize(
    ("form", "row", "missing"),
    [("alpaca", {"instruction": "a"}, "output"), ("text", {"txt": "a"}, "text"), ("prompt_completion", {}, "prompt")],
)
def test_a_row_without_its_columns_is_named(form, row, missing):
    with pytest.raises(DataError, match=f"^data.train: row 1 has no value in column '{missing}'"):
        examples(row, format=form)


NAN = float("nan")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"instruction": "Add", "output": "3"},
        {"instruction": "Add", "output": "3", "history": [["q", "a"]]},
    ],
)
def test_a_system_prompt_is_text_or_none(row):
    """A list became Python's notation of it, and what tables have for no value became the word nan."""
    for column in ("system", "system_prompt"):
        with pytest.raises(DataError, match=rf"row 1: column '{column}' holds a list: .*; allowed is text"):
            examples({**row, column: ["Be brief."]})
    assert examples({**row, "system": NAN}) == examples(row)
    assert examples({**row, "system": NAN, "system_prompt": "s"}) == examples({**row, "system": "s"})


def test_what_tables_have_for_no_value_is_none():
    beside = {"tools": NAN, "functions": NAN, "images": NAN}
    assert examples({"messages": TURNS, **beside}) == examples({"messages": TURNS})
    assert examples({"messages": TURNS, "tools": NAN, "functions": [{"name": "f"}]})[0].tools
    assert examples({"instruction": "i", "output": "o", "history": NAN}) == examples(
        {"instruction": "i", "output": "o"}
    )


def test_turns_in_a_text_are_recognised_however_their_json_is_spaced():
    for indent in (None, 1):
        [example] = examples({"talk": json.dumps(TURNS, indent=indent)})
        assert example.is_chat
    [example] = examples({"talk": "[ " + json.dumps(TURNS)[1:]})
    assert example.is_chat


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (5, "the history 5; allowed are pairs"),
        ([["a", "b"], "cd"], "whose entry 2 is 'cd'; allowed are pairs"),
        ([["a", "b", "c"]], "whose entry 1 is "),
        ([["a", 5]], "whose entry 1 is "),
        ([{"a": None, "b": "c"}], "whose entry 1 is "),
    ],
)
def test_a_history_of_another_form_is_refused(history, said):
    with pytest.raises(DataError, match=rf"row 1 has (a history )?{said}"):
        examples({"instruction": "i", "output": "o", "history": history})


def test_an_instruction_without_any_answer_is_no_alpaca():
    with pytest.raises(DataError, match="no known format has the columns instruction, kind"):
        recognise([{"instruction": "i", "kind": "k"}], section())


def test_half_of_the_default_templates_is_refused_by_the_column_that_lacks():
    assert recognise([{"prompt": "a", "thing": "b"}], section()) == "columns"
    with pytest.raises(DataError, match=r"no column 'completion' .*; columns are prompt, thing"):
        examples({"prompt": "a", "thing": "b"})
    with pytest.raises(DataError, match="'thing' holds a mapping"):
        recognise([{"thing": {"a": 1}}], section())


def test_texts_as_turns_begin_with_the_answer_where_nothing_is_asked():
    assert as_turns("", "a").turns == [{"role": "assistant", "content": "a"}]
    assert [turn["role"] for turn in as_turns("q", "a").turns] == ["user", "assistant"]
