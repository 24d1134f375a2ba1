import math

import numpy as np
import pytest

from rankray.evaluate.tokens import TokenSums, ratio_with_error


def test_the_error_of_a_ratio_is_how_it_varies_when_examples_are_drawn_again():
    """Bootstrap over examples: the tokens of one example come and go together."""
    draw = np.random.default_rng(1)
    tokens_Q = draw.integers(5, 200, 300).astype(float)
    nll_Q = tokens_Q * draw.gamma(4.0, 0.5, 300)
    found = ratio_with_error("nll", nll_Q.tolist(), tokens_Q.tolist())
    again_RQ = draw.integers(0, 300, (4000, 300))
    ratios_R = nll_Q[again_RQ].sum(1) / tokens_Q[again_RQ].sum(1)
    assert found["nll"] == pytest.approx(nll_Q.sum() / tokens_Q.sum(), rel=1e-12)
    assert found["nll_stderr"] == pytest.approx(ratios_R.std(), rel=0.05)
    assert found["nll_n"] == 300
    as_if_independent = np.std(np.repeat(nll_Q / tokens_Q, tokens_Q.astype(int))) / tokens_Q.sum() ** 0.5
    assert found["nll_stderr"] > 5 * as_if_independent


def test_a_mean_over_equal_examples_has_the_error_of_a_mean():
    values = [0.25, 0.5, 1.0, 0.0]
    found = ratio_with_error("x", [8 * value for value in values], [8.0] * 4)
    assert found["x_stderr"] == pytest.approx(np.std(values, ddof=1) / 2)


@pytest.mark.parametrize(("above", "below"), [([1.0], [2.0]), ([math.nan, 1.0], [1.0, 1.0]), ([0.0, 0.0], [0.0, 0.0])])
def test_there_is_not_always_an_error(above, below):
    found = ratio_with_error("x", above, below)
    assert math.isnan(found["x_stderr"])
    assert found["x_n"] == len(above)


def test_only_what_is_asked_for():
    sums = TokenSums([2.0, 4.0], [2.0, 2.0], [1.0, 2.0])
    assert sums.figures(["nll", "accuracy"]).keys() == {"nll", "nll_stderr", "nll_n"}
    assert sums.figures(["bits_per_byte"], [4, 4])["bits_per_byte"] == pytest.approx(6 / math.log(2) / 8)
    assert sums.figures(["token_accuracy"])["token_accuracy"] == 0.75
