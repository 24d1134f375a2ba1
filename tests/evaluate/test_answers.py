import subprocess
import sys
import types
from threading import Thread

import pytest
from fixtures import answers, tricky, written

from rankray.errors import ConfigError
from rankray.evaluate import plain, same_answer
from rankray.evaluate.answers import Judge, check_answer

AUTO = answers.AUTO + tricky.AUTO + written.AUTO + written.TAGGED
MATH = answers.MATH + tricky.MATH + written.MATH + written.TAGGED


def test_the_table_of_plain_answers():
    wrong = [pair for pair in AUTO if same_answer(pair[0], pair[1]) is not pair[2]]
    assert wrong == []


def test_the_table_of_mathematics():
    pytest.importorskip("math_verify", reason="the algebra of answers needs the extra rankray[math]")
    judge = Judge("math")
    verdicts = judge.right([text for text, _, _ in MATH], [reference for _, reference, _ in MATH])
    assert [pair for pair, verdict in zip(MATH, verdicts, strict=True) if verdict is not pair[2]] == []
    assert judge.timeouts == 0
    assert len(AUTO) + len(MATH) >= 60


def test_judging_works_in_a_thread():
    """math-verify's own limit, signal.alarm, raises there."""
    pytest.importorskip("math_verify", reason="the algebra of answers needs the extra rankray[math]")
    found = []
    thread = Thread(target=lambda: found.append(same_answer(r"\boxed{x(x+1)}", "x^2+x", "math")))
    thread.start()
    thread.join()
    assert found == [True]


@pytest.mark.parametrize(
    "reference",
    [r"so $\sqrt{2}$", r"\boxed{\frac{\pi}{2}}", "the answer is $x^2$", r"\(3\pi\)", "#### 16π", "#### √2", "xy^2"],
)
def test_auto_refuses_references_that_it_would_misread(reference):
    for call in (lambda: same_answer("2", reference), lambda: check_answer("auto", ["#### 1", reference])):
        with pytest.raises(ConfigError, match=r"auto would misread the reference .*; set evaluate\.answer: math"):
            call()


def test_text_and_expressions():
    assert same_answer(" blue  3 ", "blue 3", "text")
    assert not same_answer("Blue 3", "blue 3", "text")
    assert same_answer("a=1 a=2", "a=2.0", r"a=([\d.]+)")
    assert not same_answer("a=2 a=1", "a=2", r"a=(\d)")
    assert not same_answer("nothing", "nothing", r"a=(\d)")


def test_an_expression_that_may_match_nothing_does_not_make_every_answer_right():
    assert not same_answer("I do not know", "it is 5", r"(\d*)")
    assert not same_answer("6", "it is 5.", r"(\d*)")
    assert same_answer("5 it is", "it is 5.", r"(\d*)")
    assert not same_answer("Answer: ", "Answer: ", "Answer: (.*)")
    assert same_answer("a, b", "a", "(a)|b")


@pytest.mark.parametrize("how", ["auto", "math"])
@pytest.mark.parametrize("sign", plain.MONEY)
def test_a_sign_of_a_currency_stands_beside_a_number_and_changes_nothing(sign, how):
    assert same_answer(f"It costs {sign}1,234.50.", "#### 1234.5", how)
    assert same_answer("#### 500", f"#### {sign}500", how)
    assert same_answer("#### 500", f"#### 500 {sign}" if sign != "$" else "#### $500", how)
    assert not same_answer(f"It costs {sign}1,234.50.", "#### 234.5", how)
    assert not same_answer(f"#### -{sign}5", "#### 5", how)


def test_accents_may_be_signs_of_their_own():
    for how in ("text", "auto", "(.*)"):
        assert same_answer("caf\u00e9", "cafe\u0301", how)
        assert not same_answer("caf\u00e9", "cafe", how)


@pytest.mark.parametrize(("given", "same"), [("1,234", True), ("$1,234.00", True), ("1 234", True), ("1234 x", False)])
def test_what_an_expression_finds_is_compared_as_a_number_where_it_is_one(given, same):
    assert same_answer(f"Answer: {given}", "Answer: 1234", r"Answer:\s*(.*)") is same


@pytest.mark.parametrize("how", ["(", "no group", "(a)(b)"])
def test_a_bad_expression_is_refused(how):
    with pytest.raises(ConfigError, match=r"^evaluate.answer: .*; allowed are auto, math, text"):
        same_answer("x", "x", how)


def test_functions_of_ones_own(monkeypatch):
    module = types.ModuleType("my_answers")
    module.longer = lambda text, reference: len(text) > len(reference)
    module.bad = lambda text, reference: "yes"
    monkeypatch.setitem(sys.modules, "my_answers", module)
    assert same_answer("long", "no", "my_answers:longer")
    with pytest.raises(ConfigError, match=r"my_answers:bad returned 'yes'; allowed is True or False"):
        same_answer("a", "b", "my_answers:bad")
    with pytest.raises(ConfigError, match=r"evaluate.answer: my_answers:shorter: my_answers has no function"):
        same_answer("a", "b", "my_answers:shorter")


def test_the_public_function_loads_no_torch():
    code = "import sys; from rankray.evaluate import same_answer; assert same_answer('#### 2', '2'); print(sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'torch'" not in shown
    assert "'math_verify'" not in shown


ENDLESS = [
    "1",
    "111,",
    " ",
    "\n",
    "\\boxed{",
    "\\(",
    "1.",
    "5 or ",
    "not ",
    "$1",
    "x^",
    "(",
    "{",
    "<answer>",
    "</think>",
    "11,",
    "⁶",
    " / 1",
    "a/1",
    "yes\n",
]
"""What a model may repeat without end."""


@pytest.mark.parametrize("how", ["auto", "math"])
def test_an_answer_that_repeats_one_sign_takes_no_longer_than_its_length(how):
    """In a process with so much CPU time that what grows with the square of the length ends it."""
    if how == "math":
        pytest.importorskip("math_verify", reason="the algebra of answers needs the extra rankray[math]")
    script = f"""
import resource
from rankray.evaluate import same_answer
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
for part in {ENDLESS!r}:
    text = part * (40_000 // len(part))
    for given in (text, "#### " + text, "\\\\boxed{{" + text + "}}"):
        same_answer(given, "#### 7", {how!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_boxes_in_boxes_are_read_at_any_depth():
    deep = "\\boxed{" * 3000 + "5" + "}" * 3000
    assert same_answer(f"so it is {deep}", "5")
    assert plain.boxed("\\boxed{a \\fbox{b} \\boxed5 c} \\boxed{2") == [(0, 28, "a b 5 c")]


def test_escaped_braces_do_not_close_a_box():
    assert plain.boxed("\\boxed{\\left\\{ 1 \\right.} and more") == [(0, 25, "\\left\\{ 1 \\right.")]
