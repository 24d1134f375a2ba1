import pytest

from rankray.config.sections import DataSection
from rankray.data.formats import recognise
from rankray.errors import DataError

ASKED, SAID = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}


def section(**fields):
    return DataSection(train="t.jsonl", eval="e.jsonl", **fields)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            r'data.prompt: "{prompt}\\n" and data.completion: "{chosen}"',
        ),
        ({"chosen": "\n\nHuman: a", "rejected": "c"}, 'data.prompt: "" and data.completion: "{chosen}"'),
        (
            {"instruction": "a", "input": "x", "chosen": "b", "rejected": "c"},
            r'data.prompt: "{instruction}\\n{input}\\n" and data.completion: "{chosen}"',
        ),
        ({"chosen": [ASKED, SAID], "rejected": [ASKED, SAID]}, "data.messages: chosen"),
        (
            {"prompt": [ASKED], "chosen": [SAID], "rejected": [SAID]},
            r"write prompt \(prompt\) and completion \(chosen\) as the two columns",
        ),
        (
            {
                "conversations": [{"from": "human", "value": "a"}],
                "chosen": {"from": "gpt"},
                "rejected": {"from": "gpt"},
            },
            r"write prompt \(conversations\) and completion \(chosen\)",
        ),
    ],
    ids=str,
)
def test_pairs_of_answers_say_how_the_better_one_is_used(row, advice):
    with pytest.raises(DataError, match=rf"^data.train: a preference set .*{advice}.*, or give another file"):
        recognise([row], section())


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b"},
        {"prompt": [ASKED], "completion": [SAID]},
        {"messages": [ASKED, SAID]},
        {"instruction": "a", "output": "b"},
    ],
    ids=str,
)
@pytest.mark.parametrize("mark", ["label", "kto_tag"])
def test_answers_marked_as_bad_are_named(row, mark):
    rows = [{**row, mark: True}, {**row, mark: False}]
    with pytest.raises(DataError, match=rf"row 2 has an answer .*as bad \({mark}: false, as for KTO, 1 of 2 rows\)"):
        recognise(rows, section())
    assert recognise(rows[:1] * 2, section())
    assert recognise([{**row, mark: 0}] * 2, section()), "a class, not a mark"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "completions": ["b"], "labels": [True]}, "a set of marked steps"),
        ({"prompt": "a"}, "prompts without answers .*add a column completion"),
        ({"prompt": [ASKED]}, "prompts without answers"),
    ],
    ids=str,
)
def test_what_has_no_answer_is_named(row, said):
    with pytest.raises(DataError, match=rf"^data.train: {said}"):
        recognise([row], section())


def test_axolotls_segments_are_refused_by_name():
    rows = [{"segments": [{"label": False, "text": "a"}, {"label": True, "text": "b"}]}]
    with pytest.raises(DataError, match=r"Axolotl's input_output.*first with label: true as prompt.*coming-from.md"):
        recognise(rows, section(), "x")
    with pytest.raises(DataError, match="'segments' holds a list of int"):
        recognise([{"segments": [1]}], section(), "x")


def test_classes_true_and_false_of_a_text_are_no_marks_of_answers():
    rows = [{"text": "a", "label": False}, {"text": "b", "label": True}]
    assert recognise(rows, section()) == "text"
    with pytest.raises(DataError, match="marked as bad"):
        recognise([row | {"completion": "c", "prompt": "q"} for row in rows], section())
