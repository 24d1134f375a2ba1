import pytest

from rankray.errors import ConfigError
from rankray.evaluate.answers import extract, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1,000", "1000"),
        ("5.", "5"),
        ("$3.50", "3.5"),
        (" 7 ", "7.0"),
        ("-2", "-2.0"),
        ("a  b\n", "a b"),
        ("50%", "50"),
    ],
)
def test_equal_answers(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(("one", "other"), [("1.5", "15"), ("-2", "2"), ("a", "b"), ("1e3", "13"), ("", "0")])
def test_different_answers(one, other):
    assert normalise(one) != normalise(other)


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("x 3\n#### 1,200\nmore 9", "auto", "1200"),
        ("#### 4\n#### 5", "auto", "5"),
        ("first 3, then 12.", "auto", "12"),
        ("blue", "auto", "blue"),
        (" blue 3 ", "text", "blue 3"),
        ("a=1 a=2", r"a=(\d)", "2"),
        ("nothing", r"a=(\d)", None),
        ("it is -7", "auto", "-7"),
    ],
)
def test_extract(text, answer, found):
    assert extract(text, answer) == found


@pytest.mark.parametrize("answer", ["(", "no group", "(a)(b)"])
def test_a_bad_expression_is_refused(answer):
    with pytest.raises(ConfigError, match=r"^evaluate.answer: .*; allowed are auto, text"):
        extract("x", answer)
