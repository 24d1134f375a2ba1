"""A Gaussian process over whole runs: which setting to train next, in plain numpy.

The kernel is one Matern-5/2 product over the fields, each with its own lengthscale, plus noise. There is no part that
settings of one objective share: with one, three bad settings of an objective wrote off all the others of it. The
lengthscales and the noise are drawn from log-normal priors, and the mean over the draws that explain the runs best is
used; nothing is optimised, so equal runs give equal answers on every machine of equal arithmetic.

The process's own mean is estimated by generalised least squares: many runs of one good region count as one. With the
plain mean of all runs, each good run that a search finds would make all that is unknown look better.

Nothing here knows of trials: settings are rows of `encoding.Encoding`, values are standardised and larger is better.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Distribution

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
DRAWS = 90
"""Draws from the priors of which the best are kept."""
KEPT = 6
SELECTED_ON = 60
"""Runs that the draws are compared on, at most."""
NOISE = (0.1, 0.7)
"""Median and log sd of the noise's variance, in units of the runs' own variance."""
OTHER, CHOICE = (0.6, 0.6), (0.5, 0.7)
PRIORS = {
    "train.learning_rate": (0.3, 0.5),
    "loss.temperature": (0.6, 0.6),
    "loss.entropy_weight": (1.0, 0.7),
}
"""Median and log sd of the lengthscale of a known field, as a part of its range; of others OTHER, and of a choice
CHOICE: two choices are 1 apart, and correlate by 0.14 at its median."""
MEAN = 0.3
"""Precision of the prior of the process's mean, which is normal about the runs' own mean, in their units."""
RATE_DECADES = 2.0
"""The range of a learning rate, in powers of ten, that its lengthscale is a part of."""


def drawn_scales(fields: Sequence[Distribution], draws: np.random.Generator) -> tuple[Array, Array]:
    """Return lengthscales (DRAWS, fields) and noise variances (DRAWS,) from the priors."""
    medians, spreads = [], []
    for field in fields:
        is_number = field.kind != "choice" or field.is_ordered
        median, spread = PRIORS.get(field.path, OTHER if is_number else CHOICE)
        if field.path == "train.learning_rate" and (field.log or field.is_ordered):
            ends = (min(field.choices), max(field.choices)) if field.is_ordered else (field.low, field.high)
            median *= min(max(RATE_DECADES / math.log10(ends[1] / ends[0]), 0.5), 2.0)
        medians.append(median)
        spreads.append(spread)
    scales = np.array(medians) * np.exp(np.array(spreads) * draws.standard_normal((DRAWS, len(medians))))
    noise = NOISE[0] * np.exp(NOISE[1] * draws.standard_normal(DRAWS))
    return scales, noise


def kernel(distances: Array, scales: Array) -> Array:
    """Return Matern-5/2 products.

    Args:
        distances: (fields, n, m).
        scales: lengthscales, (draws, fields).

    Returns:
        (draws, n, m).
    """
    shape = distances.shape[1:]
    out, total, ratio, factor = (np.empty(each) for each in ((len(scales), *shape), shape, shape, shape))
    for product, rates in zip(out, math.sqrt(5) / scales, strict=True):
        product.fill(1.0)
        total.fill(0.0)
        for field, rate in zip(distances, rates, strict=True):
            np.multiply(field, rate, out=ratio)
            np.subtract(total, ratio, out=total)
            np.multiply(ratio, 1 / 3, out=factor)
            factor += 1.0
            factor *= ratio
            factor += 1.0
            product *= factor
        np.exp(total, out=total)
        product *= total
    return out


def best_scales(distances: Array, values: Array, scales: Array, noise: Array) -> NDArray[np.intp]:
    """Return which draws explain the values best, by marginal likelihood; (KEPT,), the best one first."""
    covariance = kernel(distances, scales)
    diagonal = np.arange(len(values))
    covariance[:, diagonal, diagonal] += noise[:, None]
    lower = np.linalg.cholesky(covariance)
    both = np.stack([values, np.ones(len(values))], axis=1)
    solved = np.linalg.solve(lower, np.broadcast_to(both, (len(scales), *both.shape)))
    whitened, ones = solved[..., 0], solved[..., 1]
    weight = (ones**2).sum(axis=1) + MEAN
    square = (whitened**2).sum(axis=1) - (ones * whitened).sum(axis=1) ** 2 / weight
    logs = np.log(np.diagonal(lower, axis1=1, axis2=2)).sum(axis=1) + 0.5 * np.log(weight)
    likelihood = -0.5 * square - logs
    return np.argsort(-likelihood, kind="stable")[:KEPT]


def selected(values: Array, most: int) -> NDArray[np.intp]:
    """Return which of many runs to look at: all, or the best ones and as many of the others, evenly over time."""
    if len(values) <= most:
        return np.arange(len(values))
    best = np.argsort(-values, kind="stable")[: most // 2]
    others = np.setdiff1d(np.arange(len(values)), best)
    evenly = np.linspace(0, len(others) - 1, most - len(best)).astype(int)
    return np.sort(np.concatenate([best, others[evenly]]))


def normal_scores(values: Array) -> tuple[Array, Array, NDArray[np.intp]]:
    """Return the distinct values, the normal score of each one's middle rank, and which of them each value is."""
    figures, there, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(values)
    return figures, np.array([NormalDist().inv_cdf(rank) for rank in ranks]), there


class Posterior:
    """What whole runs say of other settings, for each of several draws of the scales.

    Args:
        among: distances among the runs, then the settings that are running; (fields, n + running, n + running).
        values: of the n runs.
        scales: (draws, fields).
        noise: (draws,).

    A setting that is running counts at its own posterior mean: it changes no mean, and makes its surroundings known.
    """

    def __init__(self, among: Array, values: Array, scales: Array, noise: Array) -> None:
        self._scales, count = scales, len(values)
        covariance = kernel(among, scales)
        clean = covariance[:, :count, :count].copy()
        diagonal = np.arange(covariance.shape[1])
        covariance[:, diagonal, diagonal] += noise[:, None]
        self._count = count
        both = np.stack([values, np.ones(count)], axis=1)
        solved = np.linalg.solve(covariance[:, :count, :count], np.broadcast_to(both, (len(scales), *both.shape)))
        weights = solved[..., 1]
        self._mean = (weights @ values) / (weights.sum(axis=1) + MEAN)
        self._alpha = solved[..., 0] - self._mean[:, None] * weights
        self._inverse = np.linalg.inv(covariance)
        self.means_of_runs = np.einsum("dij,dj->di", clean, self._alpha) + self._mean[:, None]
        """The runs' own values without noise, (draws, n)."""

    def at(self, distances: Array) -> tuple[Array, Array]:
        """Return means and standard deviations without noise, (draws, m), at distances (fields, n + running, m)."""
        cross = kernel(distances, self._scales)
        means = np.einsum("dij,di->dj", cross[:, : self._count], self._alpha) + self._mean[:, None]
        variances = 1.0 - np.einsum("dij,dij->dj", cross, self._inverse @ cross)
        return means, np.sqrt(np.maximum(variances, 1e-10))


def expected_improvement(means: Array, sds: Array, incumbents: Array) -> Array:
    """Return the mean over draws of the expected improvement on each draw's incumbent; (m,)."""
    z = (means - incumbents[:, None]) / sds
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return np.asarray((sds * (z * _normal_cdf(z) + density)).mean(axis=0))


def _normal_cdf(z: Array) -> Array:
    """Return the standard normal distribution function; absolute error below 8e-8 (Abramowitz and Stegun 26.2.17)."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    tail = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    upper = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) * tail
    return np.where(z > 0, 1 - upper, upper)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of the linear algebra library, where threadpoolctl is installed.

    The matrices are small: on busy cores several threads wait for each other longer than one computes (docs/traps.md).
    """
    pools = _thread_pools()
    if pools is None:
        yield
        return
    with pools.limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _thread_pools() -> Any:
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError as error:
        logger.debug("linear algebra keeps its own number of threads: %s", error)
        return None
    return ThreadpoolController()
