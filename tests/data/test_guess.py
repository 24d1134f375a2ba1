import pytest

from rankray.data.guess import answer_to_text, is_segments, nested_column, templates_of, text_alone, turn_columns

TURNS = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"question": "q", "answer": "a"}, "{question}\n", "{answer}"),
        ({"Question": "q", "Answer": "a", "id": "1"}, "{Question}\n", "{Answer}"),
        ({"prompt": "q", "response": "a"}, "{prompt}\n", "{response}"),
        ({"query": "q", "original_question": "o", "response": "a"}, "{query}\n", "{response}"),
        ({"problem": "q", "solution": "long", "answer": "7"}, "{problem}\n", "{solution}"),
        ({"input": "q", "output": "a"}, "{input}\n", "{output}"),
        ({"article": "q", "highlights": "a"}, "{article}\n", "{highlights}"),
        ({"system_prompt": "s", "question": "q", "response": "a"}, "{system_prompt}\n\n{question}\n", "{response}"),
        ({"context": "c", "question": "q", "answer": "a"}, "{context}\n\n{question}\n", "{answer}"),
        ({"instruction": "q", "input": "i", "solution": "a"}, "{instruction}\n{input}\n", "{solution}"),
        ({"content": "text", "license": "mit"}, "", "{content}"),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, dict) else "",
)
def test_what_the_names_of_columns_say(row, prompt, completion):
    assert templates_of([row]) == {"prompt": prompt, "completion": completion}


def test_what_some_rows_lack_may_be_empty():
    rows = [
        {"system_prompt": "", "question": "q", "response": "a"},
        {"system_prompt": "s", "question": "q", "response": "a"},
    ]
    assert templates_of(rows)["prompt"] == "{system_prompt?}\n\n{question}\n"


@pytest.mark.parametrize(
    "row", [{"foo": "a", "bar": "b"}, {"question": "q"}, {"question": "q", "answers": {"text": ["a"]}}]
)
def test_names_that_say_nothing(row):
    assert templates_of([row]) is None


@pytest.mark.parametrize(
    ("rows", "completion"),
    [
        ([{"text": "t", "label": name} for name in "abab"], "{label}"),
        ([{"Text": "t", "Label": number % 3} for number in range(20)], "{Label}"),
        ([{"text": f"t{number}", "summary": f"s{number}"} for number in range(9)], "{summary}"),
        ([{"text": "t", "label": f"{number}"} for number in range(9)], None),
        ([{"text": "t", "topic": ["a"]}], None),
        ([{"text": "t", "topic": topic} for topic in ("a", ["a"], {"a": 1}, None)], None),
        ([{"text": "t", "url": "u", "score": 3}], None),
        ([{"content": "t", "label": "a"}], None),
    ],
)
def test_what_a_text_is_answered_with(rows, completion):
    """A label has few values; one that is different in each row is a name or an id."""
    text = next(iter(rows[0]))
    wanted = completion and {"prompt": f"{{{text}}}\n", "completion": completion}
    assert answer_to_text(rows) == wanted


@pytest.mark.parametrize(
    ("unused", "answer"), [(["id", "Label"], "Label"), (["summary"], "summary"), (["id"], ""), ([], "")]
)
def test_a_text_that_has_an_answer_beside_it(unused, answer):
    said = text_alone(unused)
    assert (f'write data.prompt: "{{text}}\\n" and data.completion: "{{{answer}}}"' in said) == bool(answer)
    assert bool(said) == bool(answer)


def test_columns_of_turns_and_of_other_things():
    rows = [
        {"id": 1, "items": None},
        {"id": 2, "items": [{"from": "human", "value": "hi"}], "tags": ["a"], "more": {"a": 1}},
    ]
    assert turn_columns(rows) == ["items"]
    assert turn_columns([{"d": '[{"role": "user", "content": "x"}]', "e": "[{", "f": [{"user": "x"}]}]) == ["d"]
    assert nested_column([{"a": "x", "b": ["y"]}]) == ("b", "a list of str")
    assert nested_column([{"a": "x"}]) is None


def test_spaces_around_names_are_the_headers_and_names_that_no_template_has_are_left():
    row = {"question": "a", " answer": "b", "answer?": "c"}
    assert templates_of([row]) == {"prompt": "{question}\n", "completion": "{ answer}"}
    assert templates_of([{"question": "a", "answer?": "c"}]) is None


@pytest.mark.parametrize(
    ("answer", "choices", "is_guessed"),
    [(2, ["a", "b"], False), ("B", ["a", "b"], False), ("42", ["a", "b"], True), (2, "a or b", True), (2, None, True)],
)
def test_the_number_of_a_choice_is_no_answer_where_no_template_shows_the_choices(answer, choices, is_guessed):
    row = {"question": "Which?", "choices": choices, "answer": answer}
    assert (templates_of([row]) is not None) == is_guessed


@pytest.mark.parametrize(
    "choices",
    [
        {"options": {"A": "x", "B": "y"}}, {"options": '{"A": "x", "B": "y"}'}, {"choices": "['x', 'y']"},
        {"choice_a": "x", "choice_b": "y"}, {"A": "x", "B": "y"}, {"opa": "x", "opb": "y"}, {"Option 1": "x"},
    ],
)  # fmt: skip
def test_choices_in_mappings_texts_and_columns_are_choices_too(choices):
    row = {"question": "Which?", **choices}
    assert templates_of([row | {"answer": "B"}]) is None
    assert templates_of([row | {"answer": 1}]) is None
    assert templates_of([row | {"answer": "the second"}]) == {"prompt": "{question}\n", "completion": "{answer}"}


@pytest.mark.parametrize("beside", [{"a": 3, "b": 4}, {"a": "3", "b": "4"}, {"option": "x"}, {"author": "x"}])
def test_numbers_beside_other_columns_are_answers(beside):
    assert templates_of([{"question": "3 + 4?", **beside, "answer": 7}]) is not None


@pytest.mark.parametrize(
    ("labels", "is_answer"), [("aab", True), ("abc", False), ("aaabbbccc", True), ("aaabbbccd", False)]
)
def test_a_label_has_few_values(labels, is_answer):
    """Two, or a third of the rows."""
    rows = [{"text": f"t{number}", "label": label} for number, label in enumerate(labels)]
    assert (answer_to_text(rows) is not None) is is_answer


def test_numbers_beside_a_list_that_is_no_choice_are_answers():
    row = {"question": "q", "answer": 5}
    assert templates_of([row | {"tags": ["a"]}]) is not None
    assert templates_of([row | {" Choices": ["a"]}]) is None


def test_empty_values_say_nothing_of_a_column():
    for empty in ([], "", None):
        assert turn_columns([{"talk": empty}, {"talk": TURNS}]) == ["talk"]
    assert turn_columns([{"talk": [[]]}, {"talk": ["x"]}]) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([{"label": True, "text": "x"}], True),
        ([{"label": True, "text": "x", "more": 1}], True),
        ([{"text": "x"}], False),
        (["x"], False),
        ({"label": True, "text": "x"}, False),
        ("x", False),
    ],
)
def test_segments_are_mappings_with_a_label_and_a_text(value, found):
    assert is_segments([{"segments": value}]) is found
