"""Errors: what a user gave may be of any size, what is shown of it is not."""

import pytest

from rankray.errors import (
    LONGEST_LINE,
    MOST_LINES,
    CheckpointDamaged,
    ConfigError,
    StoreUnavailable,
    UserError,
    as_arguments,
    bounded,
    in_python,
    nearest,
)


def test_a_long_line_keeps_its_place_and_its_advice():
    error = ConfigError(f"search.yaml:7: {'x' * 100_000}; allowed: a number; correct it")
    assert len(str(error)) <= LONGEST_LINE
    assert str(error).startswith("search.yaml:7: xxx")
    assert str(error).endswith("allowed: a number; correct it")


def test_many_lines_are_counted():
    lines = str(UserError("\n".join(f"line {number}" for number in range(5000)))).splitlines()
    assert lines[:2] == ["line 0", "line 1"]
    assert lines[MOST_LINES:] == ["... and 4,800 lines more"]


@pytest.mark.parametrize("kind", [UserError, StoreUnavailable])
def test_control_characters_are_written_out(kind):
    assert str(kind("study \x1b[31mred\x00:\nnext \ud800")) == "study \\x1b[31mred\\x00:\nnext \\ud800"


@pytest.mark.parametrize("text", ["", "one", "one\ntwo", "x" * LONGEST_LINE])
def test_what_is_short_stays_as_it_is(text):
    assert bounded(text) == text
    assert str(UserError(text)) == text


@pytest.mark.parametrize(
    ("given", "meant"),
    [("SFT", "sft"), ("sft", "sft"), ("DTF", "dft"), ("Threshhold", "threshold"), ("LR", ""), ("xyz", ""), (3, "")],
)
def test_the_nearest_name_is_found_whatever_its_capitals(given, meant):
    assert nearest(given, ["dft", "sft", "threshold"]) == (f" (did you mean '{meant}'?)" if meant else "")


def test_capitals_decide_where_names_differ_in_nothing_else():
    assert nearest("lora", ["LoRA", "lora"]) == " (did you mean 'lora'?)"
    assert nearest("LORA", ["LoRA", "other"]) == " (did you mean 'LoRA'?)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("confirm: --choose-seeds 0; give --label NAME", "confirm: choose_seeds 0; give label NAME"),
        ("correct --store (--store)", "correct store (store)"),
        ("start it with `ray start --name x`, or --name", "start it with `ray start --name x`, or name"),
        ("run: rankray copy s --store URL; or --store", "run: rankray copy s --store URL; or store"),
        ("a/--store, x--store, --stores, --store=x, --set a", "a/--store, x--store, --stores, --store=x, --set a"),
    ],
)
def test_options_are_arguments_in_python(text, said):
    """Commands stay as they are typed, and so do names that only look like an option."""
    assert in_python(text) == said


def test_an_error_keeps_what_it_is():
    with pytest.raises(CheckpointDamaged, match=r"--seeds, seeds 3 is damaged") as raised, as_arguments():
        raise CheckpointDamaged("a--seeds, --seeds 3", "it is cut")
    assert (raised.value.place, raised.value.why) == ("a--seeds, --seeds 3", "it is cut")
