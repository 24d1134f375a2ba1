import pytest

from rankray.data.templates import can_name, columns_in, fields, parse, render
from rankray.errors import DataError


@pytest.mark.parametrize(
    ("template", "row", "text"),
    [
        ("{a}\n", {"a": 1}, "1\n"),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("{a}{b?}", {"a": "x", "b": None}, "x"),
        ("{a}{\nb?}\n", {"a": "x", "b": "y"}, "x\ny\n"),
        ("{a}{\nb?}\n", {"a": "x", "b": ""}, "x\n"),
        ("{a}{\n\nb?}", {"a": "x"}, "x"),
        ("{a}{ b?}", {"a": "x", " b": "y"}, "xy"),
        ("{a}{b?}", {"a": "x", "b": float("nan")}, "x"),
        ("{a}{b?}", {"a": "x", "b": False}, "xFalse"),
    ],
)
def test_what_is_written(template, row, text):
    assert render(parse(template, "w"), row) == text


def test_the_columns_that_are_named():
    assert columns_in("{{x}} {a}{\nb?}{a}", "{{{c}}}", "{broken") == ["a", "b", "c"]
    assert [field.optional for field in fields(parse("{a}{\nb?}{a}", "w"))] == [False, True]


@pytest.mark.parametrize("template", ["{a", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:>3}"])
def test_what_is_no_template(template):
    with pytest.raises(DataError, match=r"^w: "):
        parse(template, "w")


def test_columns_that_no_template_can_name():
    refused = ["a{b}", "a.b", "a[0]", "why?", "a!", "a:b", "", None]
    assert [name for name in refused if can_name(name)] == []
    assert all(can_name(name) for name in ("a b", "a-b", "Ünï", "what? a", "a'b"))
    for name in refused[:-1]:
        assert columns_in(f"{{{name}}}") != [name], "the rule is what a template does"
