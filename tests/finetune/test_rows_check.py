from pathlib import Path

import pytest

from rankray.config import load_config
from rankray.config.sections import DataSection
from rankray.data.chat import Example, conversation
from rankray.data.encode import encode, light_tokenizer
from rankray.data.examples import Places
from rankray.data.sources import Placed
from rankray.finetune.rows_check import (
    border_warnings,
    optional_warnings,
    rendering_warnings,
    template_warnings,
    warnings_of_names,
)


@pytest.mark.parametrize(
    ("split", "files", "said"),
    [
        ("train", ["d/train.jsonl", "d/validation.jsonl", "d/test-00000-of-00001.parquet"], "validation.jsonl, test-0"),
        ("train", ["d/train/a.arrow", "d/test/a.arrow"], "a.arrow, held-out"),
        ("train", ["d/test/a.jsonl"], ""),
        ("train", ["d/contest.jsonl", "d/values.jsonl"], ""),
        ("train", [], ""),
        ("eval", ["d/test.jsonl"], "is a test split by its name"),
        ("eval", ["d/validation.jsonl"], ""),
    ],
    ids=str,
)
def test_names_that_say_something_else_are_warned_of(split, files, said):
    found = warnings_of_names(split, Path(files[0]).name if files else "", [Path(file) for file in files], "w")
    assert (said in found[0]) if said else (found == [])


FILE = r"""
model: {path: m}
data:
  train:
  - {path: a/b:c:train, prompt: 'Q: {q}\n', completion: "{a}\n"}
  - {path: d/e:f:train, prompt: "Q: {q}\n"}
  eval: a/b:c:test
  prompt: "{q}\n"
  completion: '{a}'
evaluate:
  answer: '####\n(.*)'
  also: {arc: {data: g/h:i:test, prompt: '{q}\n\n', completion: "{a}"}}
space:
  data.prompt: {choice: ["{q}\n", 'Q: {q}\nA: ']}
"""


def test_a_new_line_that_is_none_is_warned_of(tmp_path):
    """In single quotes YAML leaves the backslash and the n; of a pattern for answers both are one new line."""
    file = tmp_path / "f.yaml"
    file.write_text(FILE)
    first, second, third = template_warnings(load_config(file))
    assert first.startswith(
        rf"{file}:5: data.train.0.prompt: Q: {{q}}\n has a backslash and an n where it is no new line"
    )
    assert first.endswith(r'write "Q: {q}\n", in double quotes')
    assert second.startswith(f"{file}:12: evaluate.also.arc.prompt: ")
    assert second.endswith(r'write "{q}\n\n", in double quotes')
    assert third.startswith(rf"{file}:14: space.data.prompt: Q: {{q}}\nA:  has a backslash")
    assert third.endswith(r'write "Q: {q}\nA: ", in double quotes')


CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
"""Knows no tools, calls or thinking."""
KNOWING = CHATML.replace("{% for", "{{ tools or '' }}{% for", 1).replace(
    "m.content", "(m.reasoning_content or '') + (m.tool_calls or '') | string + m.content"
)


def placed(count, **more):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **more}]
    rows = [conversation(turns, "w", "p", [{"name": "add"}]) for _ in range(count)]
    return [Placed(example, {}, f"t.jsonl:{number}") for number, example in enumerate(rows, start=1)]


def test_what_the_chat_template_leaves_out_is_said_once(model_dir):
    tokenizer = light_tokenizer(Path(model_dir), CHATML)
    call = {"function": {"name": "add", "arguments": "{}"}}
    lines = rendering_warnings([*placed(1000), *placed(2, tool_calls=[call], reasoning="hm")], tokenizer, "data.train")
    assert [line.split(" (first")[0] for line in lines] == [
        "data.train: the chat template writes nothing for the tools of 100 of 100 rows that have some",
        "data.train: the chat template writes nothing for the tool_calls of 2 of 2 rows that have some",
        "data.train: the chat template writes nothing for the thinking of 2 of 2 rows that have some",
    ]
    assert lines[0].endswith(
        "(first: t.jsonl:1), so they are neither seen nor trained on; allowed is a template that writes them; take one "
        "with data.chat_template, or write them into the system turn"
    )
    knowing = light_tokenizer(Path(model_dir), KNOWING)
    assert rendering_warnings(placed(3, tool_calls=[call], reasoning_content="hm"), knowing, "data.train") == []
    assert rendering_warnings(placed(3), None, "w") == []
    knowing.chat_template = None
    assert rendering_warnings(placed(3), knowing, "w") == []


@pytest.mark.parametrize(
    ("prompt", "answer", "said"),
    [
        ("Q: one\nA: ", "the cat", r"(' one\nA: ' in the first, t.jsonl:1) and"),
        ("Once upon a ti", "me there was", "('pon a ti' in the first, t.jsonl:1) and"),
        ("Q: one\nA:", " the cat", ""),
        ("Q: one\n", "the cat", ""),
        ("Q: one\nA: ", "", ""),
        ("", "the cat", ""),
    ],
)
def test_a_token_of_prompt_and_answer_is_warned_of_and_is_the_answers(assets, prompt, answer, said):
    """Compared with TRL's own rule, which training follows."""
    from trl.trainer.sft_trainer import common_prefix_length

    tokenizer = light_tokenizer(assets / "models" / "stories260K")
    found = border_warnings([Placed(Example(prompt, answer), {}, "t.jsonl:1")] * 200, tokenizer, "w")
    assert len(found) == bool(said)
    assert all(line.startswith(f"w: in 100 of the first 100 rows the end of the prompt {said}") for line in found)
    data = DataSection(train="t.jsonl", eval="e.jsonl")
    [tokens] = encode([Example(prompt, answer)], tokenizer, data)
    whole = tokenizer(prompt + answer)["input_ids"]
    assert tokens.start == common_prefix_length(tokenizer(prompt)["input_ids"], whole)
    assert tokenizer.decode(tokens.input_ids[tokens.start :], skip_special_tokens=True).strip().endswith(answer.strip())


def test_borders_of_conversations_are_the_templates(model_dir):
    assert border_warnings(placed(3), light_tokenizer(Path(model_dir), CHATML), "w") == []
    assert border_warnings([Placed(Example("a ", "b"), {}, "p")], None, "w") == []


def test_an_optional_column_that_no_row_has_is_warned_of():
    """Misspelt, it is empty in every row, and nothing else says so."""
    rows = [{"question": "a", "answer": "b"}, {"question": "a", "answer": "b", "hint": "c"}]
    examples = [Placed(Example("a", "b"), row, f"t:{n}") for n, row in enumerate(rows)]
    own = {"path": "t.jsonl", "prompt": "{question}{\nhnt?}", "completion": "{answer}"}
    data = DataSection(train=[own, "u.jsonl"], eval="e.jsonl", prompt="{question}{hint?}", completion="{anwser?}")
    first, second = optional_warnings(examples, data, Places())
    assert first.startswith(
        "data.completion: no row has a column 'anwser' (did you mean 'answer'?), so {anwser?} is empty"
    )
    assert second.startswith("data.train: no row has a column 'hnt' (did you mean 'hint'?)")
    assert optional_warnings(examples[:1], data.model_copy(update={"train": "t", "completion": ""}), Places())
    assert optional_warnings(examples, data.model_copy(update={"train": "t", "completion": "{answer}"}), Places()) == []
