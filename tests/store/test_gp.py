"""The Gaussian process, beside textbook formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from rankray.config import distributions
from rankray.store import gp
from store.helpers import make_config


@pytest.fixture
def draws() -> np.random.Generator:
    return np.random.default_rng(4)


def covariance(apart: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the product of one Matern-5/2 kernel per field, factor by factor."""
    factors = [
        (1 + math.sqrt(5) * d / length + 5 * d**2 / (3 * length**2)) * np.exp(-math.sqrt(5) * d / length)
        for d, length in zip(apart, scale, strict=True)
    ]
    return np.prod(factors, axis=0)


def test_the_kernel_is_a_product_of_matern_kernels(draws: np.random.Generator) -> None:
    apart, scales = draws.random((3, 4, 5)), draws.random((2, 3)) + 0.1
    found = gp.kernel(apart, scales)
    for index in range(2):
        np.testing.assert_allclose(found[index], covariance(apart, scales[index]), rtol=1e-12)


def test_the_draws_that_explain_best_are_those_of_the_highest_likelihood(draws: np.random.Generator) -> None:
    x = draws.random((2, 12))
    apart = np.abs(x[:, :, None] - x[:, None, :])
    scales, noise = np.exp(draws.standard_normal((20, 2))), np.exp(draws.standard_normal(20) - 2)
    values = draws.standard_normal(12)
    likelihood = [
        stats.multivariate_normal.logpdf(values, cov=covariance(apart, scale) + extra * np.eye(12) + 1 / gp.MEAN)
        for scale, extra in zip(scales, noise, strict=True)
    ]
    found = gp.best_scales(apart, values, scales, noise)
    assert found.tolist() == np.argsort(likelihood)[::-1][: gp.KEPT].tolist()


def test_the_posterior_is_the_textbook_one_and_running_settings_only_narrow_it(draws: np.random.Generator) -> None:
    x, at = draws.random((2, 9)), draws.random((2, 5))
    scales, noise, values = np.array([[0.5, 0.8]]), np.array([0.2]), draws.standard_normal(7)
    among = np.abs(x[:, :, None] - x[:, None, :])
    across = np.abs(x[:, :, None] - at[:, None, :])
    means, sds = gp.Posterior(among, values, scales, noise).at(across)
    k = covariance(among, scales[0]) + 0.2 * np.eye(9)
    cross = covariance(across, scales[0])
    mean = 1 / gp.MEAN  # a mean with a normal prior is a constant in the covariance
    wanted_means = (cross[:7].T + mean) @ np.linalg.solve(k[:7, :7] + mean, values)
    np.testing.assert_allclose(means[0], wanted_means, rtol=1e-9)
    wanted = 1 - np.einsum("ij,ij->j", cross, np.linalg.solve(k, cross))
    np.testing.assert_allclose(sds[0] ** 2, wanted, rtol=1e-9)
    alone_means, alone = gp.Posterior(among[:, :7, :7], values, scales, noise).at(across[:, :7])
    np.testing.assert_allclose(alone_means, means, rtol=1e-9)
    assert (alone > sds).all()


def test_many_runs_of_one_region_do_not_raise_what_is_unknown() -> None:
    """Twenty good runs at one spot, two bad ones elsewhere: what is far from all of them is as good as three spots."""
    x = np.array([*np.linspace(0.5, 0.51, 20), 0.0, 1.0])
    values = np.array([*np.ones(20), -10.0, -10.0])
    apart = np.abs(x[:, None] - x)[None]
    means, _ = gp.Posterior(apart, values - values.mean(), np.array([[0.05]]), np.array([0.05])).at(
        np.abs(x[:, None] - np.array([0.25]))[None]
    )
    assert means[0, 0] + values.mean() < -3.0, "the mean of three spots, drawn to that of the runs, which is 0"


def test_expected_improvement_is_the_integral_it_stands_for(draws: np.random.Generator) -> None:
    means, sds, incumbents = draws.standard_normal((1, 4)), draws.random((1, 4)) + 0.1, np.array([0.3])
    found = gp.expected_improvement(means, sds, incumbents)
    for index in range(4):
        grid = np.linspace(0.3, 12, 200_001)
        density = stats.norm.pdf(grid, means[0, index], sds[0, index])
        assert found[index] == pytest.approx(np.trapezoid((grid - 0.3) * density, grid), abs=2e-7)


def test_of_many_runs_the_best_and_others_evenly_over_time_are_looked_at() -> None:
    values = np.sin(np.arange(200.0))
    chosen = gp.selected(values, 60)
    assert len(set(chosen.tolist())) == 60
    assert set(np.argsort(-values)[:30]) <= set(chosen.tolist())
    assert {0, 199} <= set(chosen.tolist())
    assert np.diff(chosen).max() < 12
    assert gp.selected(values[:20], 60).tolist() == list(range(20))


def test_linear_algebra_computes_with_one_thread() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with gp.one_thread():
        assert set(threads()) <= {1}
    assert threads() == before


def test_a_rate_s_lengthscale_is_the_same_number_of_decades_in_every_range() -> None:
    def median_decades(low: float, high: float) -> float:
        space = {"train.learning_rate": {"float": [low, high], "log": True}}
        fields = list(distributions(make_config(space=space)).values())
        scales, noise = gp.drawn_scales(fields, np.random.default_rng(0))
        assert scales.shape == (gp.DRAWS, 1)
        assert noise.shape == (gp.DRAWS,)
        return float(np.median(scales)) * math.log10(high / low)

    assert median_decades(1e-6, 1e-3) == pytest.approx(median_decades(1e-4, 1e-2))
