from __future__ import annotations

import numpy as np
import pytest

from rankray.analysis.sequential import look_levels
from rankray.analysis.verdict import decide

LOW = [1.00, 1.02, 0.98, 1.01, 0.99, 1.03, 0.97, 1.00]
HIGH = [value + 0.2 for value in LOW]


@pytest.mark.parametrize(
    ("first", "second", "maximize", "word"),
    [
        (HIGH, LOW, True, "better"),
        (LOW, HIGH, True, "worse"),
        (LOW, HIGH, False, "better"),
        (HIGH, LOW, False, "worse"),
        (LOW, LOW, True, "indistinguishable"),
        (LOW[:5], LOW[:5], False, "under-powered"),
        (LOW[:2], LOW[:2], False, "under-powered"),
        ([1.0, 1.0], [0.0, 0.0], True, "under-powered"),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], True, "better"),
        ([0.5, 0.5, 0.5], [1.0, 1.0, 1.0], True, "worse"),
    ],
)
def test_each_word(first: list[float], second: list[float], maximize: bool, word: str) -> None:
    found = decide(first, second, maximize=maximize)
    assert found.word == word
    assert found.compared.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.to_json()["interval"] == [found.compared.low, found.compared.high]


def test_better_is_refused_where_something_forbids_it_and_worse_is_not() -> None:
    found = decide(HIGH, LOW, maximize=True, obstacles=["SFT's best rate lies on the edge"])
    assert found.word == "under-powered"
    assert found.why.endswith("lies above zero, but SFT's best rate lies on the edge")
    assert decide(LOW, HIGH, maximize=True, obstacles=["SFT's best rate lies on the edge"]).word == "worse"


def test_further_looks_are_needed_only_where_the_interval_holds_zero() -> None:
    for first, second in ((HIGH, LOW), (LOW, HIGH)):
        assert decide(first, second, maximize=True).decides
        assert decide(first, second, maximize=True, obstacles=["SFT's best rate lies on the edge"]).decides
    for first, second in ((LOW, LOW), (LOW[:5], LOW[:5]), ([1.0, 1.0], [0.0, 0.0])):
        assert not decide(first, second, maximize=True).decides


def test_a_lower_level_asks_for_more() -> None:
    first = [value + 0.03 for value in LOW]
    assert decide(first, LOW, maximize=True).word == "better"
    assert decide(first, LOW, maximize=True, level=0.001).word == "under-powered"


def test_it_errs_as_seldom_as_it_says_and_finds_two_standard_deviations() -> None:
    draw = np.random.default_rng(2)
    equal, apart = draw.normal(size=(2, 2000, 8)), draw.normal(size=(2, 2000, 8))
    wrong = [decide(*pair, maximize=True).word in ("better", "worse") for pair in zip(*equal, strict=True)]
    found = [decide(one + 2.0, two, maximize=True).word == "better" for one, two in zip(*apart, strict=True)]
    assert np.mean(wrong) == pytest.approx(0.05, abs=0.02)
    assert np.mean(found) > 0.9


@pytest.mark.parametrize(("examples", "chance"), [(1, 0.5), (2, 0.2), (5, 0.2), (20, 0.05)])
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_accuracies_of_few_examples_that_happen_to_be_equal_are_no_proof(
    examples: int, chance: float, spending: str
) -> None:
    """Two pairs of equal accuracies were a difference beyond doubt, in up to one case of eight."""
    looks, draw = (2, 4, 8), np.random.default_rng(3)
    levels = look_levels(looks, spending=spending)
    wrong = 0
    for first, second in zip(*draw.binomial(examples, chance, (2, 1000, 8)) / examples, strict=True):
        seen = zip(looks, levels, strict=True)
        wrong += any(decide(first[:n], second[:n], maximize=True, level=level).decides for n, level in seen)
    assert wrong <= 85
