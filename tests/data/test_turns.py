from pathlib import Path

import pytest

from rankray.config.sections import DataSection
from rankray.data.chat import Given, conversation
from rankray.data.encode import encode
from rankray.data.examples import Places, make_examples
from rankray.errors import DataError, ModelError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ '<bos>' }}{% for m in messages %}{{ '<h>' + m.role + '</h>\n\n' + m.content | trim + '<eot>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<h>assistant</h>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}{% set ms = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set ms = messages %}{% endif %}"
    "{% for m in ms %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n'"
    " + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
QWEN_3 = (  # thinking is written for the last answer alone, empty where there is none
    "{% for m in messages %}{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.last %}{{ '<think>\n' }}"
    "{{ m.content.split('</think>')[0].split('<think>')[-1] if '</think>' in m.content else '' }}{{ '</think>\n\n' }}"
    "{% endif %}{{ text + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEEPSEEK = (  # the generation prompt opens thinking that no finished answer contains
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<A>' + m.content.split('</think>')[-1] + '<end>' }}"
    "{% else %}{{ '<U>' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<A><think>\n' }}{% endif %}"
)
MARKED = (  # counts turns in its first line, so no beginning of a conversation is a beginning of its text
    "{{ messages | length }}\n{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{{ '<eos>' }}{% else %}{{ m.content }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
TOLD = [("user", "one"), ("assistant", "first"), ("user", "two"), ("assistant", "second")]
ENDS = {
    "chatml": (CHATML, ["first<|im_end|>\n", "second<|im_end|>\n"]),
    "llama 3": (LLAMA_3, ["first<eot>", "second<eot>"]),
    "mistral": (MISTRAL, [" first</s>", " second</s>"]),
    "gemma": (GEMMA, ["first<end_of_turn>\n", "second<end_of_turn>\n"]),
    "qwen 3": (QWEN_3, ["first<|im_end|>\n", "<think>\n</think>\n\nsecond<|im_end|>\n"]),
    "deepseek": (DEEPSEEK, ["first<end>", "second<end>"]),
    "marked": (MARKED, ["first<eos>", "second<eos>"]),
}


@pytest.fixture
def tokenizer(model_dir):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_dir)


def trained(tokenizer, template, told, train_on="all", weights=()):
    """Return the texts of the spans that are trained on."""
    tokenizer.chat_template = template
    turns = [{"role": role, "content": content} for role, content in told]
    for index in weights:
        turns[index]["weight"] = weights[index]
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on=train_on)
    [tokens] = encode([conversation(turns, "data.messages", "t.jsonl:1")], tokenizer, data, ["t.jsonl:1"])
    spans = tokens.spans if tokens.spans is not None else ((tokens.start, len(tokens.input_ids)),)
    return [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in spans]


@pytest.mark.parametrize("name", ENDS)
def test_every_assistant_turn_is_trained_on_and_nothing_else(tokenizer, name):
    template, texts = ENDS[name]
    assert trained(tokenizer, template, TOLD) == texts


@pytest.mark.parametrize("name", ENDS)
def test_the_last_turn_is_the_same_as_of_all_turns(tokenizer, name):
    template, texts = ENDS[name]
    assert trained(tokenizer, template, TOLD, "last") == texts[-1:]


@pytest.mark.parametrize("text", ["<table>x</table>", "<think of it>", "<", "", "</think><t>x", "<A><think>", "plain"])
@pytest.mark.parametrize("train_on", ["all", "last"])
def test_an_answer_that_begins_as_the_generation_prompt_goes_on_is_trained_on_whole(tokenizer, text, train_on):
    """R1's prompt ends in `<think>`, which no finished answer has: the answer's own `<` is no part of it."""
    told = [("user", "one"), ("assistant", text), ("user", "two"), ("assistant", text)]
    whole = text.split("</think>")[-1] + "<end>"
    assert trained(tokenizer, DEEPSEEK, told, train_on) == [whole] * (2 if train_on == "all" else 1)


def test_thinking_beside_the_text_does_not_move_where_a_turn_begins(tokenizer):
    """The template writes empty thinking where there is none; the prompt opens it on a line of its own."""
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<A><think>' }}"
        "{{ '\n' + m.reasoning_content if m.reasoning_content and loop.last }}{{ '</think>' + m.content + '<end>' }}"
        "{% else %}{{ '<U>' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<A><think>\n' }}"
        "{% endif %}"
    )
    turns = [{"role": role, "content": content} for role, content in TOLD]
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all")
    for index in (1, 3):
        turns[index] = {**turns[index], "reasoning_content": "hm"}
        [tokens] = encode([conversation(turns, "data.messages", "t.jsonl:1")], tokenizer, data)
        texts = [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in tokens.spans]
        assert texts == ["</think>first<end>", "</think>second<end>" if index == 1 else "hm</think>second<end>"]


def test_words_of_turns_that_are_in_the_generation_prompt_too(tokenizer):
    opens = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    told = [("user", "assistant"), ("assistant", "assistant"), ("user", "think"), ("assistant", "assistant")]
    assert trained(tokenizer, opens, told) == ["assistant<|im_end|>\n"] * 2


def test_an_eos_token_that_ends_the_whole_text_is_no_part_of_earlier_turns(tokenizer):
    """Phi-3's template ends every text with it."""
    ended = CHATML.replace("{% endif %}", "{% else %}{{ eos_token }}{% endif %}")
    assert trained(tokenizer, ended, TOLD) == ["first<|im_end|>\n", "second<|im_end|>\n<eos>"]
    assert trained(tokenizer, ended, [("assistant", "zero"), *TOLD]) == [
        "zero<|im_end|>\n", "first<|im_end|>\n", "second<|im_end|>\n<eos>",
    ]  # fmt: skip


CALLS = CHATML.replace("m.content +", "(m.tool_calls[0].function.name if m.tool_calls else m.content) +")


@pytest.mark.parametrize(("template", "first"), [(CALLS, "add"), (CHATML, "I add.")], ids=["call", "text"])
def test_what_a_template_leaves_out_of_a_turn_with_text_and_a_call_is_not_looked_for(tokenizer, template, first):
    """Llama 3.1's writes the call alone, Phi-3's the text alone."""
    tokenizer.chat_template = template
    turns = [{"role": role, "content": content} for role, content in TOLD]
    turns[1] |= {"content": "I add.", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all")
    [tokens] = encode([conversation(turns, "data.messages", "t.jsonl:1")], tokenizer, data)
    texts = [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in tokens.spans]
    assert texts == [f"{first}<|im_end|>\n", "second<|im_end|>\n"]


@pytest.mark.parametrize("text", ["first 😀", "😀", "😀 日本", "e\u0301"])
@pytest.mark.parametrize("real", [False, True], ids=["byte-level", "bytes as a fallback"])
def test_generation_markers_mark_whole_characters_and_the_token_after_them(tokenizer, request, text, real):
    """Of a character of several tokens transformers marks one: the others, and the EOS token, belong to the turn."""
    if real:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue("assets") / "models" / "stories260K")
    told = [("user", "😀 one"), ("assistant", text), ("user", "two"), ("assistant", f"{text}{text}")]
    marked = MARKED.replace("'<eos>'", "eos_token")
    end = tokenizer.eos_token
    assert trained(tokenizer, marked, told) == [f"{text}{end}", f"{text}{text}{end}"]


def test_long_thinking_that_is_left_out_of_earlier_turns_is_skipped(tokenizer):
    thought = "<think>\n" + "Hm, " * 30_000 + "</think>\n\n"
    told = [("user", "1"), ("assistant", f"{thought}Hm, one"), ("user", "2"), ("assistant", "two")]
    assert trained(tokenizer, QWEN_3, told)[0] == "Hm, one<|im_end|>\n"


def test_a_system_turn_is_not_trained_on(tokenizer):
    told = [("system", "be kind"), *TOLD]
    for template, texts in (ENDS["mistral"], ENDS["chatml"]):
        assert trained(tokenizer, template, told) == texts


def test_thinking_in_earlier_turns_is_not_there_to_train_on(tokenizer):
    told = [("user", "1"), ("assistant", "<think>\nhm</think>\n\none"), ("user", "2"), ("assistant", "two")]
    assert trained(tokenizer, QWEN_3, told) == ["one<|im_end|>\n", "<think>\n</think>\n\ntwo<|im_end|>\n"]


OPENED = CHATML.replace("{% for m", "{{ '<bos><|im_start|>system\nYou are kind.<|im_end|>\n' }}{% for m", 1)


@pytest.mark.parametrize("told", [[("assistant", "zero")], [("assistant", "zero"), *TOLD]], ids=["alone", "of several"])
@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CHATML, "zero<|im_end|>\n"), (OPENED, "zero<|im_end|>\n"), (LLAMA_3, "zero<eot>"),
        (GEMMA, "zero<end_of_turn>\n"), (DEEPSEEK, "zero<end>"), (MARKED, "zero<eos>"),
    ],
    ids=["chatml", "with a system turn of its own", "llama 3", "gemma", "deepseek", "marked"],
)  # fmt: skip
def test_nothing_before_the_answer_is_trained_on_where_the_assistant_begins(tokenizer, template, text, told):
    assert trained(tokenizer, template, told)[0] == text
    if len(told) > 1:
        assert len(trained(tokenizer, template, told)) == 3
        assert trained(tokenizer, template, told, "last") == trained(tokenizer, template, TOLD, "last")


@pytest.mark.parametrize("told", [[("assistant", "zero")], [("assistant", "zero"), *TOLD]], ids=["alone", "of several"])
def test_thinking_that_a_template_opens_is_trained_on_where_the_assistant_begins_as_later(tokenizer, told):
    text = "zero<|im_end|>\n"
    assert trained(tokenizer, QWEN_3, told)[0] == (f"<think>\n</think>\n\n{text}" if len(told) == 1 else text)


@pytest.mark.parametrize("zero", ["zero", "<b>zero"])
def test_where_the_assistant_begins_and_the_prompt_opens_thinking_of_last_turns_alone(tokenizer, zero):
    """Qwen3.5's template: only the last turn has the thinking that the generation prompt opens."""
    template = QWEN_3.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    last = "</think>\n\nsecond<|im_end|>\n"
    told = [("assistant", zero), *TOLD]
    assert trained(tokenizer, template, told) == [f"{zero}<|im_end|>\n", "first<|im_end|>\n", last]
    assert trained(tokenizer, template, told, "last") == [last]


@pytest.mark.parametrize("name", ["qwen2_5", "llama3", "phi3", "qwen3", "glm4moe"])
@pytest.mark.parametrize("told", [[("assistant", "zero")], [("assistant", "zero"), *TOLD]], ids=["alone", "of several"])
def test_the_first_token_that_is_trained_on_is_that_of_trls_assistant_masks(tokenizer, name, told):
    """TRL's templates for training mark the assistant's tokens; Qwen2.5's has the new line of the header among them."""
    import trl

    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / f"{name}_training.jinja").read_text(
        encoding="utf-8"
    )
    turns = [{"role": role, "content": content} for role, content in told]
    made = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
    masks = list(made["assistant_masks"])
    begun = [i for i, inside in enumerate(masks) if inside and not masks[i - 1]]
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all")
    [tokens] = encode([conversation(turns, "data.messages", "t.jsonl:1")], tokenizer, data)
    assert tokens.input_ids == list(made["input_ids"])
    ours = [begin for begin, _ in tokens.spans or ((tokens.start, 0),)]
    between = {tokenizer.decode(tokens.input_ids[one:other]) for one, other in zip(begun, ours, strict=True)}
    assert between == ({"\n"} if name == "qwen2_5" else {""})


def test_turns_of_weight_0_are_not_trained_on(tokenizer):
    assert trained(tokenizer, CHATML, TOLD, weights={1: 0}) == ["second<|im_end|>\n"]
    assert trained(tokenizer, CHATML, [*TOLD, *TOLD], weights={5: 0}) == [
        f"{text}<|im_end|>\n" for text in ("first", "second", "second")
    ]


def test_an_answer_that_thinking_drafts_begins_after_it(tokenizer):
    text = "It is forty-two, as everybody who has read the book knows by now"
    told = [("user", "1"), ("assistant", f"<think>\n{text}? No: {text}!</think>\n\n{text}."), *TOLD]
    assert trained(tokenizer, QWEN_3, told)[0] == f"{text}.<|im_end|>\n"


@pytest.mark.parametrize("ended", ["", "{% if not add_generation_prompt %}{{ '<end of all>' }}{% endif %}"])
def test_an_answer_without_a_header_beside_a_prompt_that_opens_thinking(tokenizer, ended):
    template = DEEPSEEK.replace("<A>", "") + ended
    told = [("user", "one"), ("assistant", "<b>first"), ("user", "two"), ("assistant", "second")]
    assert trained(tokenizer, template, told, "last") == ["second<end>" + ("<end of all>" if ended else "")]
    if not ended:
        assert trained(tokenizer, template, told) == ["<b>first<end>", "second<end>"]


def test_a_call_that_is_not_written_has_no_prompt_weight(tokenizer):
    """It has no text; what ends the turn belongs to it, and is not trained on either."""
    tokenizer.chat_template = CHATML
    turns = [{"role": role, "content": content} for role, content in TOLD]
    call = {"function": {"name": "add", "arguments": {}}}
    turns[1] = {"role": "assistant", "content": None, "tool_calls": [call], "weight": 0}
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all", prompt_weight=0.5)
    example = conversation(turns, "data.messages", "t.jsonl:1").weighted(Given(prompt=True))
    [tokens] = encode([example], tokenizer, data)
    assert tokens.weights is not None
    kept = [token for token, weight in zip(tokens.input_ids, tokens.weights, strict=True) if not weight]
    assert tokenizer.decode(kept) == "<|im_end|>\n"


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        (MARKED.replace("{% gen", "{%- gen").replace("{% endgen", "{%- endgen"), ["first<eos>", "second<eos>"]),
        (MARKED.replace("generation %}", "generation -%}"), ["first<eos>", "second<eos>"]),
        ("{{ tools }}" + MARKED, ["first<eos>", "second<eos>"]),
        (MARKED.replace("{{ '<eos>' }}", "").replace("{{ '\n' }}", ""), ["first", "second"]),
    ],
    ids=["stripped before", "stripped after", "with tools", "to the end of the text"],
)
def test_generation_markers_of_every_kind(tokenizer, template, texts):
    tokenizer.chat_template = template
    turns = [{"role": role, "content": content} for role, content in TOLD]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    data = DataSection(train="t.jsonl", eval="e.jsonl", train_on="all")
    [tokens] = encode([conversation(turns, "data.messages", "t.jsonl:1", tools)], tokenizer, data)
    assert [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in tokens.spans] == texts


def test_a_template_that_does_not_show_the_turns_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"^data.messages: t.jsonl:1: .*does not show which tokens are the assistant's"):
        trained(tokenizer, UNMARKED, TOLD)
    with pytest.raises(DataError, match="no generation markers for 2 assistant turns"):
        trained(tokenizer, UNMARKED, TOLD, "last")


def test_generation_markers_need_a_fast_tokenizer():
    from transformers import ByT5Tokenizer

    slow = ByT5Tokenizer()
    assert trained(slow, CHATML, TOLD) == ["first<|im_end|>\n", "second<|im_end|>\n"]
    with pytest.raises(DataError, match="and generation markers need a fast tokenizer; allowed are templates that"):
        trained(slow, MARKED, TOLD)


def test_what_a_template_refuses_is_said_with_the_row(tokenizer):
    with pytest.raises(
        DataError, match=r"t.jsonl:1: the model's chat template refuses the turns .*roles must alternate"
    ):
        trained(tokenizer, MISTRAL, [("user", "1"), ("user", "2"), ("assistant", "3")])


def test_a_tokenizer_without_a_template(tokenizer):
    with pytest.raises(ModelError, match="no chat template"):
        trained(tokenizer, None, TOLD)


def alpaca(tokenizer, *rows, **data):
    section = DataSection(train="t.jsonl", eval="e.jsonl", **data)
    return encode(make_examples(rows, section, Places()), tokenizer, section)


def test_a_history_is_trained_on_in_stanfords_form_without_a_template(tokenizer):
    tokenizer.chat_template = None
    row = {"instruction": "Add", "input": "1 2", "output": "3", "history": [["q", "a"]]}
    for train_on, wanted in (("all", ["a<eos>", "3<eos>"]), ("last", ["3<eos>"])):
        [tokens] = alpaca(tokenizer, row, train_on=train_on)
        spans = tokens.spans or ((tokens.start, len(tokens.input_ids)),)
        assert [tokenizer.decode(tokens.input_ids[begin:end]) for begin, end in spans] == wanted
    text = tokenizer.decode(tokens.input_ids)
    assert text.endswith("### Instruction:\nq\n\n### Response:\na<eos>\n\n### Instruction:\nAdd\n\n"
                         "### Input:\n1 2\n\n### Response:\n3<eos>")  # fmt: skip


def test_rows_with_and_without_a_history_begin_and_end_alike(tokenizer):
    from tokenizers.processors import TemplateProcessing

    begin, end = tokenizer.bos_token or "<begin>", tokenizer.eos_token
    tokenizer.add_special_tokens({"bos_token": begin})
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (begin, end)]
    row = {"instruction": "Add", "output": "3"}
    for single in (f"{begin} $A", f"{begin} $A {end}"):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=ids)
        plain, told = alpaca(tokenizer, row, {**row, "history": [["q", "a"]]})
        assert tokenizer.convert_ids_to_tokens(plain.input_ids[0]) == begin
        assert told.input_ids[: told.input_ids.index(ids[1][1])][:5] == plain.input_ids[:5]
        assert told.input_ids[told.start :] == plain.input_ids[plain.start :]
        assert told.input_ids.count(ids[1][1]) == 2
