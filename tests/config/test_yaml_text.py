"""YAML that is broken, too large or surprising."""

import pytest

from rankray.config.yaml_text import MAX_DEPTH, parse_value, read_yaml
from rankray.errors import ConfigError

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 21))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\nmodel: \x07\n", "2: not valid YAML: the character U.0007 is not allowed"),
        ("a: 1\nb: !!int abc\n", "2: not valid YAML: 'abc' cannot be read"),
        ("b: !!float ''\n", "1: not valid YAML: '' cannot be read"),
        ("b: !!timestamp 2024-13-45\n", "1: not valid YAML: '2024-13-45' cannot be read"),
        ("a: " + "1" * 5000, "1: not valid YAML: .1111.* cannot be read .Exceeds the limit"),
        ("x: &a [*a]\n", "1: not valid YAML: an alias stands inside what it names"),
        ("x: &a {<<: *a}\n", "1: not valid YAML: an alias stands inside what it names"),
        ("a: " + "[" * 500 + "]" * 500, f"1: not valid YAML: more than {MAX_DEPTH} levels deep"),
        ("a: " + "{a: " * 100_000, f"1: not valid YAML: more than {MAX_DEPTH} levels deep"),
        (BOMB, ".*values, with its aliases written out"),
        ("a: " + "x" * 10_000_000, "has more than 524,288 bytes"),
        ("a:\n  b: {q} is\n", "2: not valid YAML: expected .*; text that begins with { or . needs quotes; fix"),
        ("a: [x] y\n", "1: not valid YAML: expected .*; text that begins with { or . needs quotes; fix"),
        ("a:\n- {q}\\n\n", "2: not valid YAML: expected .*; text that begins with { or . needs quotes; fix"),
        ("a: b: c\n", "1: not valid YAML: mapping values are not allowed here; fix"),
        ("? [a]\n: 1\n", "1: got the key .*; allowed: text"),
        ("1: 2\n", "1: got the key '1'; allowed: text; put it in quotes"),
        ("a: *nothing\n", "1: not valid YAML: found undefined alias"),
        ("a: !!python/object:os.system x\n", "1: not valid YAML: could not determine a constructor"),
        ("{}: 1\n", "1: got the key"),
        ("a: 1\nb: 2\na: 3\n", "3: 'a': given twice, first at x.yaml:1; keep one"),
        ("- 1\n", " got list; allowed: a mapping"),
        ("", " got NoneType; allowed: a mapping"),
    ],
)
def test_what_is_wrong_is_one_line_with_its_place(tmp_path, text, said):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"^x.yaml: ?{said}") as raised:
        read_yaml(tmp_path / "x.yaml", "x.yaml")
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_other_encodings_and_no_files_are_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes("a: 1\nb: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"^x:2: not UTF-8"):
        read_yaml(tmp_path / "x.yaml", "x")
    for given in ("/dev/zero", str(tmp_path)):
        with pytest.raises(ConfigError, match=r"^x: is no file"):
            read_yaml(type(tmp_path)(given), "x")
    with pytest.raises(ConfigError, match=r"^x: cannot be read"):
        read_yaml(type(tmp_path)("y" * 5000), "x")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("-.5e3", -500.0), ("1_000", 1000), ("0x1f", 31), ("1.", 1.0), (".inf", float("inf")),
        ("1:30", "1:30"), ("2024-01-31", "2024-01-31"), ("1.2.3", "1.2.3"), ("yes", True), ("~", None), ("", None),
        ("0100", "0100"), ("-07", "-07"), ("08", "08"), ("007.5", "007.5"), ("0", 0), ("-0", 0),
        ("0.5", 0.5), ("0e1", 0.0),
        ("1e-05", 1e-5), ("5 # five", 5), ("'a # b'", "a # b"), ("\u00a0x", "\u00a0x"), ("a#b", "a#b"),
    ],
)  # fmt: skip
def test_values_are_what_people_mean(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["Q # {question}", "# {question}", "two\nlines"])
def test_a_text_of_which_yaml_would_leave_something_out_is_refused(text):
    """Its comment, or its line breaks."""
    with pytest.raises(ConfigError, match=r"^the value '.*' is read (as|nothing) .*; put it in quotes"):
        parse_value(text)


@pytest.mark.parametrize("text", ["[", "a: b: c", "!!int x", "\x07", "&a [*a]", "[" * 1000, "x" * 600_000, "1" * 5000])
def test_a_value_that_is_none_is_one_short_line(text):
    with pytest.raises(ConfigError) as raised:
        parse_value(text)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 400


def test_a_file_of_data_in_place_of_a_configuration(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    with pytest.raises(ConfigError, match=r"rows.jsonl:2: not valid YAML.*; this looks like a file of data; give the"):
        read_yaml(file, str(file))
