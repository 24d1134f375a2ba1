import datetime
import decimal

import pytest

from rankray.config.sections import DataSection
from rankray.data.chat import Example
from rankray.data.examples import Places, common_prefix, make_examples
from rankray.data.files import Rows
from rankray.errors import DataError


def section(**fields):
    return DataSection(train="t.jsonl", eval="e.jsonl", **fields)


def test_templates_fill_in_columns_and_keep_doubled_braces():
    data = section(prompt="{{Q}} {my question}\n", completion="#{n}")
    assert make_examples([{"my question": "a {b}", "n": 7}], data, Places()) == [Example("{Q} a {b}\n", "#7")]


@pytest.mark.parametrize("template", ["{a.__class__}", "{a[0]}", "{a!r}", "{a:>9}", "{}", "{a"])
def test_a_field_is_a_plain_column_name(template):
    with pytest.raises(DataError, match=r"^data.prompt: "):
        make_examples([{"a": "x"}], section(prompt=template, completion="{a}"), Places())


def test_a_prompt_or_a_completion_may_be_empty_and_not_both():
    data = section(prompt="{q}\n", completion="{a}")
    assert make_examples([{"q": "x", "a": ""}, {"q": "", "a": "y"}], data, Places()) == [
        Example("x\n", ""), Example("\n", "y"),
    ]  # fmt: skip
    [chat] = make_examples([{"q": "x", "a": ""}], data.model_copy(update={"chat": True}), Places())
    assert chat == Example([{"role": "user", "content": "x\n"}], [{"role": "assistant", "content": ""}])
    for chat in (False, True):
        with pytest.raises(DataError, match=r"^data\.train: row 2 has an empty text; needed is some; remove it"):
            make_examples([{"q": "x", "a": ""}, {"q": "", "a": ""}], data.model_copy(update={"chat": chat}), Places())


def test_an_unknown_column_lists_the_columns_and_the_nearest():
    with pytest.raises(
        DataError, match=r"^data.completion: no column 'anser' \(did you mean 'answer'\?\); columns are q, answer"
    ):
        make_examples([{"q": "x", "answer": "y"}], section(prompt="{q}", completion="{anser}"), Places())


def test_a_row_without_a_value_is_named():
    rows = [{"q": "x", "a": "y"}, {"q": "x", "a": None}, {"q": "x"}]
    with pytest.raises(DataError, match=r"^data.train: row 2 has no value in column 'a' \(2 of 3 rows\)"):
        make_examples(rows, section(prompt="{q}", completion="{a}"), Places())


def test_of_many_columns_the_first_are_listed():
    row = {f"column_{number}": "x" for number in range(50_000)}
    with pytest.raises(DataError, match=r"column_19, ... and 49,980 more; name one of them$") as raised:
        make_examples([row], section(prompt="{column_50000}"), Places())
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("value", [["a"], {"a": 1}, b"a", [{"role": "user", "content": "x"}], object()])
@pytest.mark.parametrize("column", ["q", "a"])
def test_what_is_no_text_is_refused_with_its_row(value, column):
    rows = Rows([{"q": "x", "a": "y"}, {"q": "x", "a": "y"} | {column: value}], "t.jsonl", "line", [1, 7])
    where = {"q": "data.prompt", "a": "data.completion"}[column]
    with pytest.raises(DataError, match=rf"^{where}: t.jsonl:7: column '{column}' holds a {type(value).__name__}: "):
        make_examples(rows, section(prompt="{q}", completion="{a}"), Places())


def test_numbers_and_dates_are_text():
    row = {"q": datetime.date(2024, 1, 31), "a": decimal.Decimal("1.50")}
    assert make_examples([row], section(prompt="{q}", completion="{a}"), Places()) == [Example("2024-01-31", "1.50")]


def test_a_missing_column_is_said_with_its_file():
    """A directory may hold files of several forms."""
    rows = Rows([{"q": "x"}], "more/b.csv", "line")
    with pytest.raises(DataError, match=r"no column 'a'.*; columns are q, in more/b.csv; name one of them"):
        make_examples(rows, section(prompt="{q}", completion="{a}"), Places())


def test_not_a_number_is_a_missing_value():
    with pytest.raises(DataError, match="row 1 has no value in column 'a'"):
        make_examples([{"q": "x", "a": float("nan")}], section(prompt="{q}", completion="{a}"), Places())


def test_messages_end_at_the_last_assistant_turn():
    turns = [
        {"role": r, "content": c} for r, c in [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4")]
    ]
    extra = {"role": "user", "content": "thanks"}
    [example] = make_examples([{"chat": [*turns, extra]}], section(messages="chat"), Places())
    assert example == Example(turns[:3], [turns[3]])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("hello", "row 1 holds 'hello'"),
        ([{"role": "user"}], "row 1, turn 1 holds"),
        ([{"role": "user", "content": "x"}], "no assistant turn .roles: user"),
        ([], "row 1 has no turns"),
    ],
)
def test_malformed_messages_are_described(value, said):
    with pytest.raises(DataError, match=f"^data.messages: .*{said}"):
        make_examples([{"chat": value}], section(messages="chat"), Places())


def test_common_prefix():
    assert [common_prefix([1, 2, 3], other) for other in ([1, 2, 3, 4], [1, 9], [], [1, 2])] == [3, 1, 0, 2]


@pytest.mark.parametrize("form", ["auto", "messages", "sharegpt"])
def test_a_column_of_messages_that_is_not_there_is_named(form):
    rows = [{"messages": [{"role": "assistant", "content": "x"}]}]
    with pytest.raises(
        DataError, match=r"^data\.messages: no column 'mesages' \(did you mean 'messages'\?\); columns are messages"
    ):
        make_examples(rows, section(messages="mesages", format=form), Places())
    assert make_examples(rows, section(messages="messages", format=form), Places())[0].answer == "x"


def test_errors_of_a_file_begin_with_the_line_of_the_field():
    lines = {"data.eval": 4, "data.prompt": 5, "data.token_weights": 9}
    places = Places.at(lambda name: f"c.yaml:{lines.get(name, 1)}", "eval")
    assert (places.source, places.prompt) == ("c.yaml:4: data.eval", "c.yaml:5: data.prompt")
    assert places.token_weights == "c.yaml:9: data.token_weights"
    assert places.messages == "c.yaml:1: data.messages"
