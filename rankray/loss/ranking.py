"""The rank that was to be expected, E[R] = sum over k of k * p_(k), row by row on a CPU.

Shapes: B rows, V vocabulary, K buckets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SORTED_UP_TO = 4096
"""Vocabularies below this are sorted: the buckets' fixed cost does not pay."""

BUCKETS = 8192
SPAN_NATS = 40.0

SORTED_FIRST = 256
"""The most probable tokens, up to so many, are sorted whatever the rest does: where few decide, buckets are coarse."""

TOLERANCE = 1e-5
"""Relative error of E[R] above which a row is sorted after all; it moves log2 I by less than this over temperature."""

FAR_BELOW = -1.0e4
"""A shifted logit at which exp is exactly 0 in every dtype, yet 0 times it is 0 and not NaN (unlike -inf)."""

ExpectedRank = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""mass_BV, shifted_BV -> the sums over k of k * mass_(k), float64: the expected ranks times the masses' sums."""


def expected_rank_counter(dtype: np.dtype, vocabulary: int, exact: bool, from_16_bits: bool = False) -> ExpectedRank:
    """Return what makes expected ranks from masses exp(shifted) and logits less their row's largest.

    Float32 rows of a large vocabulary are counted into buckets, ten times faster than they are sorted, wherever that
    is provably good (see `_Buckets`); everything else is sorted. It may clamp logits of -inf.

    Args:
        dtype: of the rows.
        vocabulary: their length.
        exact: sort every row.
        from_16_bits: the logits were numbers of 16 bits, so that a bucket's tokens are ties and not spread evenly.
    """
    if dtype == np.float32 and vocabulary >= SORTED_UP_TO and not exact:
        return _Buckets(vocabulary, 0.0 if from_16_bits else 1.0)
    return _sorted


def blocked_dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Same value as `(left * right).sum(-1)`, in float64: blocks of 256 in the arrays' dtype, their sums in float64.

    As fast as a BLAS dot, whose single-precision sum over a large vocabulary would lose two digits.
    """
    whole = left.shape[-1] // 256 * 256
    blocks = (*left.shape[:-1], whole // 256, 256)
    head = np.vecdot(left[..., :whole].reshape(blocks), right[..., :whole].reshape(blocks)).sum(-1, dtype=np.float64)
    return np.asarray(head + np.vecdot(left[..., whole:], right[..., whole:]))


def _sorted(mass_BV: np.ndarray, shifted_BV: np.ndarray) -> np.ndarray:
    ascending_BV = np.sort(mass_BV, axis=-1)
    ranks_V = np.arange(mass_BV.shape[1], 0.0, -1.0, dtype=mass_BV.dtype)
    return blocked_dot(ascending_BV, np.broadcast_to(ranks_V, mass_BV.shape))


class _Buckets:
    """Counts tokens in buckets of equal width in log-probability; holds the memory for one row."""

    def __init__(self, vocabulary: int, evenness: float) -> None:
        self.evenness = evenness
        self.position_V = np.empty(vocabulary, np.float32)
        self.narrow_key_V = np.empty(vocabulary, np.int32)
        self.key_V = np.empty(vocabulary, np.intp)
        self.rank_V = np.empty(vocabulary, np.float32)
        self.minus_K = -np.arange(BUCKETS, dtype=np.float32)

    def __call__(self, mass_BV: np.ndarray, shifted_BV: np.ndarray) -> np.ndarray:
        return np.array([self._row(*row) for row in zip(mass_BV, shifted_BV, strict=True)])

    def _row(self, mass_V: np.ndarray, shifted_V: np.ndarray) -> float:
        lowest = float(shifted_V.min())
        if lowest != lowest:
            return lowest
        if lowest < FAR_BELOW:
            lowest = float(np.maximum(shifted_V, FAR_BELOW, out=shifted_V).min())
        if lowest < 0.0:
            value, error = self.count(mass_V, shifted_V, lowest)
            if error <= TOLERANCE * value:
                return value
        return float(_sorted(mass_V[None], shifted_V[None])[0])

    def count(self, mass_V: np.ndarray, shifted_V: np.ndarray, lowest: float) -> tuple[float, float]:
        """The sum from counts, and a bound of its error.

        Tokens of a bucket share its middle rank. What that costs is known: inside a bucket of n tokens and width d
        (nats), whose masses are at most q, sum(mass * rank) is within d * q * n^2 / 8 of the middle rank's, and within
        d * q * n * (n - 1) / 4 after the correction for tokens spread evenly, d * (n - 1) / 12 ranks. A bucket that
        holds one token is exact, and so are the first buckets, which are sorted. Tokens below `SPAN_NATS` share the
        last bucket: their mass is nothing.
        """
        width = min(-lowest, SPAN_NATS) / (BUCKETS - 1)
        np.multiply(shifted_V, np.float32(-1.0 / width), out=self.position_V)
        if lowest < -SPAN_NATS:
            np.minimum(self.position_V, np.float32(BUCKETS - 1), out=self.position_V)
        np.copyto(self.narrow_key_V, self.position_V, casting="unsafe")
        np.copyto(self.key_V, self.narrow_key_V)
        count_K = np.bincount(self.key_V, minlength=BUCKETS)
        last_K = count_K.cumsum()
        first = int(last_K.searchsorted(SORTED_FIRST, side="right"))
        others_K = (count_K - 1).astype(np.float32)
        rank_K = last_K.astype(np.float32) - others_K * np.float32(0.5 + self.evenness * width / 12)
        rank_K[:first] = 0.0
        value = float(blocked_dot(rank_K.take(self.key_V, out=self.rank_V, mode="clip"), mass_V))
        first_T = np.sort(mass_V[np.flatnonzero(self.narrow_key_V < first)]).astype(np.float64)
        value += float(np.dot(first_T, np.arange(len(first_T), 0.0, -1.0)))

        pairs_K = others_K * (others_K + 1) * np.exp(self.minus_K[: len(others_K)] * np.float32(width))
        return value, width / 4 * float(pairs_K[first:].sum())
