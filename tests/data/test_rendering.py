import json
from pathlib import Path

import pytest

from rankray.config.sections import DataSection
from rankray.data.chat import conversation
from rankray.data.encode import encode
from rankray.data.rendering import fitted, left_out_parts
from rankray.data.sources import Source
from rankray.errors import DataError

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Add numbers.", "parameters": {
    "type": "object", "properties": {"a": {"type": "number", "description": "one"}}, "required": ["a"]}}}]  # fmt: skip
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ASKED = {"role": "user", "content": "1+1?"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
THOUGHT = {"role": "assistant", "content": "2", "reasoning_content": "hm"}
ANSWERED = [ASKED, CALLED, {"role": "tool", "content": "2"}, {"role": "assistant", "content": "It is 2."}]
CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"


@pytest.fixture
def made(model_dir):
    import trl
    from transformers import AutoTokenizer

    def with_template(name):
        tokenizer = AutoTokenizer.from_pretrained(model_dir)
        file = Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja"
        tokenizer.chat_template = file.read_text(encoding="utf-8") if file.is_file() else CHATML
        return tokenizer

    return with_template


def chat(turns, tools=None):
    return conversation(turns, "data.messages", "t.jsonl:1", tools)


@pytest.mark.parametrize(
    ("template", "turns", "left_out"),
    [
        ("qwen3", ANSWERED, {"tools": False, "tool_calls": False, "turns of tool": False}),
        ("qwen2_5", ANSWERED, {"tools": False, "tool_calls": False, "turns of tool": False}),
        ("phi3", ANSWERED, {"tools": True, "tool_calls": True, "turns of tool": True}),
        ("chatml", ANSWERED, {"tools": True, "tool_calls": True, "turns of tool": False}),
        ("qwen3", [ASKED, THOUGHT], {"tools": False, "thinking": False}),
        (
            "qwen3",
            [ASKED, THOUGHT, *ANSWERED],
            {"tools": False, "tool_calls": False, "thinking": False, "turns of tool": False},
        ),
        ("qwen2_5", [ASKED, THOUGHT], {"tools": False, "thinking": True}),
        (
            "gptoss",
            [ASKED, {"role": "assistant", "content": "2", "thinking": "hm"}],
            {"tools": False, "thinking": False},
        ),
        (
            "qwen3",
            [ASKED, {"role": "assistant", "content": "2", "reasoning": "hm"}],
            {"tools": False, "thinking": False},
        ),
        (
            "qwen3",
            [{"role": "system", "content": "Be kind."}, ASKED, THOUGHT],
            {"tools": False, "thinking": False, "turns of system": False},
        ),
    ],
)
def test_what_real_templates_leave_out(made, template, turns, left_out):
    assert left_out_parts(made(template), chat(turns, TOOLS), "t.jsonl:1") == left_out
    assert "tools" not in left_out_parts(made(template), chat(turns), "t.jsonl:1")


def fit(tokenizer, turns):
    return fitted(tokenizer, chat(turns, TOOLS), "t.jsonl:1", "data.messages")


@pytest.mark.parametrize("template", ["phi3", "chatml"])
def test_an_answer_that_is_a_call_alone_needs_a_template_that_writes_calls(made, template):
    tokenizer = made(template)
    error = fit(tokenizer, [ASKED, CALLED])
    assert str(error).startswith("data.messages: t.jsonl:1, turn 2 is a tool call alone, for which the model's chat")
    assert error.reason == "whose answer is a tool call, which the model's chat template leaves out"
    thought = [ASKED, {"role": "assistant", "content": None, "reasoning": "hm"}]
    assert "is thinking alone" in str(fit(tokenizer, thought))
    assert "is a tool call alone" in str(fit(tokenizer, [ASKED, {**CALLED, "content": " \n"}]))
    for turns in ([ASKED, {**CALLED, "content": "I add them."}], [ASKED, {"role": "assistant", "content": ""}]):
        assert fit(tokenizer, turns) == chat(turns, TOOLS)
    assert fit(made("qwen3"), [ASKED, CALLED]) == chat([ASKED, CALLED], TOOLS)


@pytest.mark.parametrize("template", ["smolvlm", "idefics3_training"])
def test_an_answer_that_a_template_for_contents_in_parts_leaves_out_is_none(made, template):
    """Its text ended at once: the token that ends an answer was all that was trained on."""
    told = [ASKED, {"role": "assistant", "content": "It is 2."}]
    assert fit(made(template), [ASKED, {"role": "assistant", "content": ":"}]).reason.startswith("whose answer")
    error = fit(made(template), told)
    assert "turn 2 is 'It is 2.', and the model's chat template leaves it out" in str(error)
    assert error.reason == "whose answer the model's chat template leaves out"
    assert fit(made("qwen3"), told) == chat(told, TOOLS)


def test_what_comes_before_an_answer_must_be_rendered_with_the_generation_prompt(made):
    tokenizer = made("chatml")
    refusal = "{{ raise_exception('nothing was asked') }}"
    tokenizer.chat_template += f"{{% if add_generation_prompt and messages[-1].role != 'user' %}}{refusal}{{% endif %}}"
    answer = {"role": "assistant", "content": "2"}
    assert fit(tokenizer, [ASKED, answer]) == chat([ASKED, answer], TOOLS)
    error = fit(tokenizer, [ASKED, answer, answer])
    assert error.reason == "refused by the model's chat template ('nothing was asked')"


def test_text_that_a_template_changes_is_not_left_out(made):
    tokenizer = made("chatml")
    tokenizer.chat_template = CHATML.replace("m.content", "m.content | upper")
    told = [ASKED, {"role": "assistant", "content": "It is 2."}]
    assert fit(tokenizer, told) == chat(told, TOOLS)
    tokenizer.chat_template = CHATML.replace("m.content", "(m.content if m.role == 'user' else '')")
    assert fit(tokenizer, told).reason == "whose answer the model's chat template leaves out"


def test_a_call_that_is_not_written_is_not_trained_on_before_the_answer(made):
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all")
    for template, weights, count in (("chatml", [0.0, None], 1), ("qwen3", [None, None], 2)):
        tokenizer = made(template)
        example = fit(tokenizer, ANSWERED)
        assert [turn.get("weight") for turn in example.turns if turn["role"] == "assistant"] == weights
        [tokens] = encode([example], tokenizer, data)
        spans = tokens.spans or ((tokens.start, len(tokens.input_ids)),)
        assert len(spans) == count
        assert "It is 2." in tokenizer.decode(tokens.input_ids[spans[-1][0] :])
    assert chat(ANSWERED).turns[1].get("weight") is None, "what was given stays as it was"


def test_rows_of_which_nothing_is_written_are_left_out_and_counted(made, tmp_path):
    rows = [{"messages": [ASKED, {"role": "assistant", "content": "2"}]}] * 3 + [{"messages": [ASKED, CALLED]}]
    file = tmp_path / "c.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for train_on in ("last", "all"):
        data = DataSection(train=str(file), eval=str(file), train_on=train_on)
        source = Source("train", data, tokenizer=made("phi3"))
        assert len(source.examples()) == 3
        assert source.left_out.line("data.train").startswith(
            "data.train: 1 of 4 rows left out, with nothing to train on: 1 whose answer is a tool call"
        )
        assert len(Source("train", data, tokenizer=made("qwen3")).examples()) == 4
    file.write_text(json.dumps(rows[-1]) + "\n")
    with pytest.raises(DataError, match=r"^data\.messages: .*c\.jsonl:1, turn 2 is a tool call alone"):
        Source("train", data, tokenizer=made("phi3")).examples()
