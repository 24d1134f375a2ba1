"""Families of surrogates: from recorded settings to what any setting of the space would measure, without noise.

Each family takes the settings' rows in the unit cube (`store.encoding`) and their mean curves, flattened, and returns a
function from rows (m, fields) to curves (m, outputs). They err differently, so a search that is good in all of them is
not good by sharing a family's assumptions. All are plain numpy and repeatable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rankray.store.encoding import Encoding

Array = NDArray[np.float64]
Predictor = Callable[[Array], Array]
NEIGHBOURS = 5
TREES = 40
SMALLEST_LEAF = 2
SMOOTH_WIDTH = 0.1
CHUNK = 512
MOST_FITTED = 1500
"""Settings that a Gaussian process is fitted to, at most: its time takes their cube, its memory their square."""


def gaussian_process(encoding: Encoding, rows: Array, curves: Array) -> Predictor:
    """Return the mean of Gaussian processes, one for all outputs, by the draws that explain the last output best.

    An output is fitted as the normal score of its rank, and what is predicted lies between the recorded values: runs
    that diverged, ten times as bad as all others, would make the process swing as far below the good ones beside
    them, to a best that nobody has measured. Of more than MOST_FITTED settings it takes so many, evenly.
    """
    from rankray.store import gp

    taken = np.linspace(0, len(rows) - 1, min(len(rows), MOST_FITTED)).astype(int)
    rows, curves = rows[taken], curves[taken]
    ranked = [gp.normal_scores(column) for column in curves.T]
    values = np.stack([scores[there] for _, scores, there in ranked], axis=1)
    scales, noise = gp.drawn_scales(encoding.fields, np.random.default_rng(1))
    among = encoding.distances(rows, rows)
    part = np.linspace(0, len(rows) - 1, min(len(rows), 120)).astype(int)
    kept = gp.best_scales(among[:, part][:, :, part], values[part, -1], scales, noise)[:3]
    scales, noise = scales[kept], noise[kept]
    covariance = gp.kernel(among, scales)
    diagonal = np.arange(len(rows))
    covariance[:, diagonal, diagonal] += noise[:, None]
    alpha = np.linalg.solve(covariance, np.broadcast_to(values, (len(kept), *values.shape)))

    def predict(some: Array) -> Array:
        at = (gp.kernel(encoding.distances(some, rows), scales) @ alpha).mean(axis=0)
        outputs = zip(at.T, ranked, strict=True)
        return np.stack([np.interp(column, scores, figures) for column, (figures, scores, _) in outputs], axis=1)

    return _in_chunks(predict)


def nearest_neighbours(encoding: Encoding, rows: Array, curves: Array) -> Predictor:
    """Return the mean of the nearest recorded settings, nearer ones counting more."""

    def predict(some: Array) -> Array:
        apart = np.sqrt((encoding.distances(some, rows) ** 2).sum(axis=0))
        count = min(NEIGHBOURS, len(rows))
        near = np.argpartition(apart, count - 1, axis=1)[:, :count]
        weight = 1 / (np.take_along_axis(apart, near, axis=1) + 0.02)
        weight /= weight.sum(axis=1, keepdims=True)
        return np.asarray((curves[near] * weight[:, :, None]).sum(axis=1))

    return _in_chunks(predict)


def kernel_smoother(encoding: Encoding, rows: Array, curves: Array) -> Predictor:
    """Return the mean of all recorded settings under a Gaussian window. Held out: `rehearse` does not use it."""

    def predict(some: Array) -> Array:
        apart = (encoding.distances(some, rows) ** 2).sum(axis=0) / SMOOTH_WIDTH**2
        weight = np.exp(-0.5 * (apart - apart.min(axis=1, keepdims=True)))
        return np.asarray(weight @ curves / weight.sum(axis=1, keepdims=True))

    return _in_chunks(predict)


def random_forest(encoding: Encoding, rows: Array, curves: Array) -> Predictor:
    """Return the mean of randomised trees: of one random cut per feature the best, down to leaves of two settings."""
    draws = np.random.default_rng(2)
    features = _features(encoding, rows)
    spread = np.maximum(curves.std(axis=0), 1e-12)
    forest = _Forest([_tree(features, curves / spread, draws) for _ in range(TREES)])

    def predict(some: Array) -> Array:
        return np.asarray(forest.at(_features(encoding, some)) * spread)

    return _in_chunks(predict)


FAMILIES: dict[str, Callable[[Encoding, Array, Array], Predictor]] = {
    "gaussian process": gaussian_process,
    "nearest neighbours": nearest_neighbours,
    "random forest": random_forest,
}
"""What `rehearse` replays in. The kernel smoother is kept for `benchmarks/search.py`."""


def _in_chunks(predict: Predictor) -> Predictor:
    def whole(some: Array) -> Array:
        return np.concatenate([predict(some[begin : begin + CHUNK]) for begin in range(0, len(some), CHUNK)])

    return whole


def _features(encoding: Encoding, rows: Array) -> Array:
    """Return rows as columns to cut: numbers as they are, one column per choice, missing fields in the middle."""
    columns = []
    rows = encoding.in_order(rows)
    for index, each in enumerate(encoding.fields):
        column = rows[:, index]
        if each.kind == "choice" and not each.is_ordered:
            count = len(each.choices)
            for choice in range(count):
                is_it = (column == (choice + 0.5) / count).astype(float)
                columns.append(np.where(np.isnan(column), 0.5, is_it))
        else:
            columns.append(np.where(np.isnan(column), 0.5, column))
    return np.stack(columns, axis=1)


@dataclass
class _Tree:
    """One tree as lists by node: feature (leaves have -1), cut, children, and the mean of its settings."""

    feature: list[int] = field(default_factory=list)
    cut: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    mean: list[Array] = field(default_factory=list)


def _tree(features: Array, values: Array, draws: np.random.Generator) -> _Tree:
    """Grow one tree."""
    tree = _Tree()

    def grow(members: NDArray[np.intp]) -> int:
        node = len(tree.feature)
        tree.feature.append(-1)
        tree.cut.append(0.0)
        tree.left.append(-1)
        tree.right.append(-1)
        tree.mean.append(values[members].mean(axis=0))
        if len(members) < 2 * SMALLEST_LEAF:
            return node
        low, high = features[members].min(axis=0), features[members].max(axis=0)
        best, best_gain = None, 0.0
        total = values[members].sum(axis=0)
        for index in np.flatnonzero(high > low):
            at = draws.uniform(low[index], high[index])
            below = features[members, index] <= at
            count = int(below.sum())
            if min(count, len(members) - count) < SMALLEST_LEAF:
                continue
            one = values[members[below]].sum(axis=0)
            gain = float((one**2).sum() / count + ((total - one) ** 2).sum() / (len(members) - count))
            if best is None or gain > best_gain:
                best, best_gain = (int(index), at, below), gain
        if best is None:
            return node
        tree.feature[node], tree.cut[node] = best[0], best[1]
        tree.left[node], tree.right[node] = grow(members[best[2]]), grow(members[~best[2]])
        return node

    grow(np.arange(len(features)))
    return tree


class _Forest:
    """Trees that are descended together, one level at a time: a single setting costs a tenth of tree after tree."""

    def __init__(self, trees: Sequence[_Tree]) -> None:
        size = max(len(tree.feature) for tree in trees)
        outputs = len(trees[0].mean[0])
        self._feature = np.full((len(trees), size), -1)
        self._cut = np.zeros((len(trees), size))
        self._child = np.zeros((2, len(trees), size), dtype=np.intp)
        self._mean = np.zeros((len(trees), size, outputs))
        for index, tree in enumerate(trees):
            count = len(tree.feature)
            self._feature[index, :count], self._cut[index, :count] = tree.feature, tree.cut
            self._child[0, index, :count], self._child[1, index, :count] = tree.left, tree.right
            self._mean[index, :count] = tree.mean
        self._each = np.arange(len(trees))[:, None]

    def at(self, features: Array) -> Array:
        """Return the mean of all trees' leaves for each row; (rows, outputs)."""
        node = np.zeros((len(self._mean), len(features)), dtype=np.intp)
        rows = np.arange(len(features))[None]
        while ((feature := self._feature[self._each, node]) >= 0).any():
            above = (features[rows, feature] > self._cut[self._each, node]).astype(np.intp)
            node = np.where(feature >= 0, self._child[above, self._each, node], node)
        return np.asarray(self._mean[self._each, node].mean(axis=0))
