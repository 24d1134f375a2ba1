"""The chat template that stands in for the model's own."""

import pytest

from rankray.config.sections import DataSection
from rankray.data.chat import conversation
from rankray.data.chat_template import PLAIN, use_template
from rankray.data.encode import encode
from rankray.data.left_out import Unusable
from rankray.data.turns import rendered

TOLD = [("system", "be brief"), ("user", "hi"), ("assistant", "ho"), ("user", "and?"), ("assistant", "so")]


@pytest.fixture
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def talk(told):
    turns = [{"role": role, "content": content} for role, content in told]
    return conversation(turns, "data.messages", "t.jsonl:1")


@pytest.mark.parametrize(
    ("given", "used"), [("plain", PLAIN), ("{{ messages[0].content }}", "{{ messages[0].content }}"), (None, "{{ 1 }}")]
)
def test_a_template_that_is_given_takes_the_place_of_the_model_s(tokenizer, given, used):
    tokenizer.chat_template = "{{ 1 }}"
    use_template(tokenizer, given)
    assert tokenizer.chat_template == used


@pytest.mark.parametrize(("train_on", "wanted"), [("all", ["ho<eos>", "so<eos>"]), ("last", ["so<eos>"])])
def test_the_plain_template_trains_on_answers_and_their_end(tokenizer, train_on, wanted):
    use_template(tokenizer, "plain")
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on=train_on)
    [tokens] = encode([talk(TOLD)], tokenizer, data, ["t.jsonl:1"])
    whole = "system:\nbe brief\n\nuser:\nhi\n\nassistant:\nho<eos>\n\nuser:\nand?\n\nassistant:\nso<eos>"
    assert tokenizer.decode(tokens.input_ids) == whole
    spans = tokens.spans if tokens.spans is not None else ((tokens.start, len(tokens.input_ids)),)
    assert [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in spans] == wanted


def test_the_plain_template_begins_with_what_begins_a_text(tokenizer):
    use_template(tokenizer, "plain")
    asked = rendered(tokenizer, talk(TOLD[1:3]), talk(TOLD[1:3]).turns[:1], "t.jsonl:1", opens=True)
    assert asked == "user:\nhi\n\nassistant:\n"
    tokenizer.bos_token = "<pad>"
    assert rendered(tokenizer, talk(TOLD[1:3]), talk(TOLD[1:3]).turns[:1], "t.jsonl:1") == "<pad>user:\nhi"


def test_the_plain_template_refuses_tools(tokenizer):
    """It would show the model neither the tools nor the calls."""
    use_template(tokenizer, "plain")
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    example = conversation(turns, "data.messages", "t.jsonl:1")
    with pytest.raises(Unusable, match="the plain chat template knows no tool calls"):
        rendered(tokenizer, example, example.turns, "t.jsonl:1")
