import json

import pytest

from rankray.data.chat import Example, conversation, for_template, trained_turns
from rankray.data.left_out import Unusable
from rankray.errors import DataError

ASK = {"role": "user", "content": "hi"}
SAY = {"role": "assistant", "content": "ho"}


def turns_of(value, **given):
    return conversation(value, "data.messages", "t.jsonl:3", **given).turns


def test_sharegpt_speakers_become_roles():
    told = [("system", "s"), ("human", "h"), ("gpt", "g"), ("observation", "o"), ("gpt", "last")]
    found = turns_of([{"from": speaker, "value": text} for speaker, text in told])
    assert [(t["role"], t["content"]) for t in found] == [
        ("system", "s"), ("user", "h"), ("assistant", "g"), ("tool", "o"), ("assistant", "last")
    ]  # fmt: skip


def test_a_sharegpt_function_call_is_a_tool_call():
    call = json.dumps({"name": "add", "arguments": {"a": 1}})
    _, turn = turns_of([{"from": "human", "value": "1+?"}, {"from": "function_call", "value": call}])
    wanted = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert turn == {"role": "assistant", "tool_calls": [wanted], "content": ""}


def test_null_content_of_a_tool_call_is_empty_and_its_arguments_are_a_mapping():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1]}'}}
    turn = turns_of([ASK, {"role": "assistant", "content": None, "tool_calls": [call]}])[-1]
    assert turn["content"] == ""
    assert turn["tool_calls"] == [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}]


def test_openais_first_form_of_a_call():
    given = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    assert turns_of([ASK, given])[-1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {}}


def test_text_parts_are_joined_and_keys_without_a_value_left_out():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [ask, _] = turns_of([{"role": "user", "content": parts, "name": None, "tool_calls": None}, SAY])
    assert ask == {"role": "user", "content": "ab"}


@pytest.mark.parametrize("kind", ["image_url", "image", "input_audio", "video", "refusal"])
def test_other_parts_are_refused_by_name(kind):
    with pytest.raises(DataError, match=rf"^data.messages: t.jsonl:3, turn 1 has a content part of type '{kind}'"):
        turns_of([{"role": "user", "content": [{"type": kind, kind: {}}]}, SAY])


@pytest.mark.parametrize("speaker", ["asistant", "usr"])
def test_a_misspelt_speaker_gets_the_nearest(speaker):
    with pytest.raises(DataError, match=f"turn 1 has the role '{speaker}' .did you mean"):
        turns_of([{"role": speaker, "content": "x"}, SAY])


def test_a_role_of_the_users_own_is_left_to_the_template():
    assert turns_of([{"role": "zoo", "content": "x"}, SAY])[0]["role"] == "zoo"
    with pytest.raises(DataError, match="has the role 'zoo'"):
        turns_of([{"from": "zoo", "value": "x"}, SAY])


def test_turns_of_weight_0_are_not_the_completion_and_the_template_sees_no_weights():
    example = conversation([ASK, SAY, ASK, {**SAY, "weight": 0}], "w", "row 1")
    assert example.completion == [SAY]
    example = conversation([ASK, {**SAY, "weight": 0}, ASK, {**SAY, "weight": 1}], "w", "row 1")
    assert example.completion == [SAY]
    assert for_template(example.turns) == [ASK, SAY, ASK, SAY]
    example = conversation([ASK, {**SAY, "weight": 0.5}], "w", "row 1")
    assert example.completion == [{**SAY, "weight": 0.5}]
    assert for_template(example.turns) == [ASK, SAY]


@pytest.mark.parametrize("mark", ["train", "training", "loss", "weight"])
def test_turns_that_axolotl_or_swift_would_leave_out(mark):
    example = conversation([ASK, {**SAY, mark: False}, {**ASK, mark: False}, {**SAY, mark: True}], "w", "row 1")
    assert [turn.get("weight") for turn in example.turns] == [None, 0.0, None, None]
    assert for_template(example.turns) == [ASK, SAY, ASK, SAY]


@pytest.mark.parametrize("mark", ["train", "training", "loss"])
def test_marks_may_be_numbers_as_tables_write_them(mark):
    example = conversation([ASK, {**SAY, mark: 0}, ASK, {**SAY, mark: 1.0}], "w", "row 1")
    assert [turn.get("weight") for turn in example.turns] == [None, 0.0, None, None]


@pytest.mark.parametrize("value", ["false", "no", 0.5, -1, float("nan"), [True]])
def test_a_mark_that_is_neither_true_nor_false_is_refused(value):
    """It was handed to the chat template, and the turn was trained on."""
    with pytest.raises(DataError, match=r"turn 2 has train .*; allowed: true, or false"):
        turns_of([ASK, {**SAY, "train": value}])
    assert turns_of([ASK, {**SAY, "loss": 0.25}])[1]["loss"] == 0.25, "a loss that was measured is no mark"


@pytest.mark.parametrize("content", [None, "", "I look."])
def test_a_call_in_openai_s_first_form_is_one_beside_any_text(content):
    call = {"role": "assistant", "content": content, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    made = turns_of([ASK, call])[1]
    assert made["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]
    assert (made["content"], "function_call" in made) == (content or "", False)


def test_keys_of_another_form_that_a_table_added_are_passed_over():
    turns = [{"role": "user", "from": None, "content": None, "value": "q"}, {"from": "gpt", "role": None, "value": "a"}]
    assert turns_of(turns) == [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def test_a_part_without_text_is_shown():
    with pytest.raises(DataError, match=r"turn 1 has a content part of type 'text' without a text, \{'x': 1\};"):
        turns_of([{"role": "user", "content": [{"x": 1}]}, SAY])


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), "1", [1], 1e9])
def test_a_turn_with_a_bad_weight_is_refused_with_its_row(weight):
    with pytest.raises(DataError, match=r"turn 2 has weight .*; allowed: a number from 0"):
        turns_of([ASK, {**SAY, "weight": weight}])


def test_marks_that_contradict_each_other_are_refused():
    with pytest.raises(DataError, match=r"turn 2 has .*, which contradict each other"):
        turns_of([ASK, {**SAY, "weight": 1, "train": False}])


def test_a_system_column_comes_first_unless_there_is_a_system_turn():
    own = {"role": "system", "content": "own"}
    assert turns_of([ASK, SAY], system="be kind")[0] == {"role": "system", "content": "be kind"}
    assert turns_of([own, ASK, SAY], system="be kind")[0] == own


def test_tools_may_be_json():
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert conversation([ASK, SAY], "w", "row 1", json.dumps(tools)).tools == tools
    assert conversation([ASK, SAY], "w", "row 1", "").tools is None
    with pytest.raises(DataError, match="row 1 has tools 'f'; allowed is a list of JSON schemas"):
        conversation([ASK, SAY], "w", "row 1", "f")


def test_json_that_is_nested_too_deep_is_no_list_of_turns():
    with pytest.raises(DataError, match=r"^w: row 1 holds '\[\[.*allowed is a list of .*fix that row"):
        conversation("[" * 100_000, "w", "row 1")


@pytest.mark.parametrize("broken", [[{"name": 3}], "calls", 5, [{"function": {"arguments": "{}"}}]])
def test_calls_without_a_name_are_refused(broken):
    with pytest.raises(DataError, match=r"turn 2 has (the tool call|tool_calls)"):
        turns_of([ASK, {"role": "assistant", "content": None, "tool_calls": broken}])


def test_keys_that_a_table_added_to_arguments_and_tools_are_left_out():
    made = {"name": "f", "arguments": {"a": 1, "b": None, "c": [{"d": None, "e": 0}]}}
    tool = {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}, "b": None}}, "strict": None}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": made, "id": None}]}
    example = conversation([ASK, call], "data.messages", "row 1", tools=[tool])
    assert example.turns[-1]["tool_calls"][0]["function"]["arguments"] == {"a": 1, "c": [{"e": 0}]}
    assert example.tools == [{"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}]
    written = {**call, "tool_calls": [{"function": {**made, "arguments": '{"a": null}'}}]}
    kept = conversation([ASK, written], "data.messages", "row 1").turns[-1]
    assert kept["tool_calls"][0]["function"]["arguments"] == {"a": None}, "what is written as JSON is meant"


def test_the_answer_of_an_example():
    call = {"function": {"name": "add", "arguments": {}}}
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert "add" in conversation(turns, "w", "p").answer
    thought = {"role": "assistant", "content": "", "reasoning": "hm"}
    assert conversation([turns[0], thought], "w", "p").answer == "hm"
    assert conversation([turns[0], {"role": "assistant", "content": " "}], "w", "p").answer == " "
    assert (Example("q", "a").answer, Example("q", "").answer) == ("a", "")


def test_turns_in_parts_as_gemini_has_them():
    turns = [{"role": "user", "parts": [{"text": "a"}, {"text": "b"}]}, {"role": "model", "parts": [{"text": "c"}]}]
    assert conversation(turns, "w", "p").turns == [
        {"role": "user", "content": "ab"}, {"role": "assistant", "content": "c"}
    ]  # fmt: skip
    with pytest.raises(DataError, match="has a content part of type"):
        conversation([{"role": "user", "parts": [{"inlineData": "x"}]}, turns[1]], "w", "p")


CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    "calls",
    [[CALL], json.dumps([CALL]), json.dumps(CALL), [json.dumps(CALL)], [{"name": "f", "arguments": '{"a": 1}'}]],
)
def test_calls_may_be_json_and_text_beside_them_stays(calls):
    said = turns_of([ASK, {"role": "assistant", "content": "I look it up.", "tool_calls": calls}])[1]
    assert said == {"role": "assistant", "content": "I look it up.", "tool_calls": [CALL]}


def test_a_speaker_of_calls_whose_text_is_none_keeps_its_text():
    for text in ("5", "[]", "not yet"):
        assert turns_of([{"from": "human", "value": "hi"}, {"from": "function_call", "value": text}])[1] == {
            "role": "assistant",
            "content": text,
        }


@pytest.mark.parametrize("role", ["developer", "function", "ipython"])
def test_roles_that_templates_know_stay(role):
    assert turns_of([{"role": role, "content": "x"}, SAY])[0]["role"] == role


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "holds 5; allowed is a list"),
        ([{"role": 5, "content": "x"}, SAY], "turn 1 holds"),
        ([{"role": "", "content": "x"}, SAY], "turn 1 has the role ''"),
        ([{"role": "user", "content": [5]}, SAY], "turn 1 has a content part of type '5'"),
        ([{"role": "user", "content": 5.5}, SAY], "turn 1 has content 5.5"),
    ],
)
def test_what_is_no_conversation_is_refused_with_its_place(value, said):
    with pytest.raises(DataError, match=rf"^data.messages: t.jsonl:3,? {said}"):
        turns_of(value)


def test_conversations_without_an_answer_say_why():
    with pytest.raises(Unusable, match=r"t.jsonl:3 has assistant turns of weight 0 alone; ") as raised:
        turns_of([ASK, {**SAY, "weight": 0}])
    assert raised.value.reason == "with assistant turns of weight 0 alone"
    with pytest.raises(Unusable, match=r"t.jsonl:3 has no assistant turn .roles: user.; "):
        turns_of([ASK])


def test_which_turns_are_trained_on():
    turns = [ASK, SAY, ASK, {**SAY, "weight": 0}, ASK, SAY]
    assert trained_turns(turns, every=True) == [1, 5]
    assert trained_turns(turns, every=False) == [5]
    assert Example("a", "b").turns == []
