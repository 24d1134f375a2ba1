import itertools
import math
import random

import pytest

from rankray.evaluate.metrics import mean_with_error, missing, pass_at_k, sampled_figures


@pytest.mark.parametrize(("n", "c", "k"), [(1, 0, 1), (4, 1, 2), (5, 3, 2), (6, 6, 3), (6, 2, 6), (5, 1, 4)])
def test_pass_at_k_is_the_share_of_all_ways_to_draw_k(n, c, k):
    answers = [True] * c + [False] * (n - c)
    ways = [any(drawn) for drawn in itertools.combinations(answers, k)]
    assert pass_at_k(n, c, k) == pytest.approx(sum(ways) / len(ways), abs=1e-15)


def test_pass_at_k_has_no_bias_and_any_of_the_first_k_is_its_expectation():
    draw = random.Random(1)
    chances = [draw.random() for _ in range(400)]
    rows = [[draw.random() < chance for _ in range(12)] for chance in chances]
    found = sampled_figures("eval/", ["pass@3"], rows)
    truth = math.fsum(1 - (1 - chance) ** 3 for chance in chances) / len(chances)
    first = sum(any(row[:3]) for row in rows) / len(rows)
    assert abs(found["eval/pass@3"] - truth) < 3 * found["eval/pass@3_stderr"]
    assert abs(first - truth) < 3 * (truth * (1 - truth) / len(rows)) ** 0.5


def test_the_error_is_that_of_questions_not_of_samples():
    """Sixteen samples of a question that all agree are one observation."""
    rows = [[True] * 16, [False] * 16, [True] * 16, [False] * 16]
    found = sampled_figures("eval/", ["avg@16"], rows)
    assert found["eval/avg@16"] == 0.5
    assert found["eval/avg@16_n"] == 4
    assert found["eval/avg@16_stderr"] == pytest.approx(math.sqrt(1 / 3) / 2)


def test_one_example_has_no_error():
    mean, error, count = mean_with_error([1.0])
    assert (mean, count) == (1.0, 1)
    assert math.isnan(error)


def test_what_is_missing_has_the_same_names():
    assert missing(["token_accuracy", "arc/nll"]).keys() == {
        "eval/token_accuracy", "eval/token_accuracy_stderr", "eval/token_accuracy_n",
        "eval/arc/nll", "eval/arc/nll_stderr", "eval/arc/nll_n",
    }  # fmt: skip
