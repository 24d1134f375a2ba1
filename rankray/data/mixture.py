"""Several groups of examples as one: alternating, with the shares that their weights ask for; also without a copy.

Entries with weights are mixed so that each has its share and no example is repeated: the largest mixture that their
sizes allow, drawn with a fixed seed. Entries alternate, so that any beginning of a mixture has about its shares.
Standard library only.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

MIXTURE_SEED = 0
Item = TypeVar("Item")


def mixed(groups: Sequence[list[Item]], weights: Sequence[float | None]) -> list[Item]:
    """Return the examples of all groups, alternating; with weights, the largest part of them that has these shares."""
    if len(groups) == 1:
        return groups[0]
    return list(_alternating([iter(group) for group in groups], [len(group) for group in groups], weights))


def merged(groups: Sequence[Callable[[], Iterator[Item]]], weights: Sequence[float | None]) -> Iterator[Item]:
    """Yield what `mixed` returns, of groups that are too large to hold: each is gone through once to count it."""
    if len(groups) == 1:
        return groups[0]()
    lengths = [sum(1 for _ in group()) for group in groups]
    return _alternating([group() for group in groups], lengths, weights)


def _alternating(
    groups: Sequence[Iterator[Item]], lengths: Sequence[int], weights: Sequence[float | None]
) -> Iterator[Item]:
    picked = _picked(lengths, [weight for weight in weights if weight is not None])
    orders = [_order(number, indices) for number, indices in enumerate(picked)]
    ahead = [0] * len(groups)
    for _, number, index in heapq.merge(*orders):
        for _ in range(index - ahead[number]):
            next(groups[number])
        ahead[number] = index + 1
        yield next(groups[number])


def _order(number: int, indices: Sequence[int]) -> Iterator[tuple[float, int, int]]:
    for place, index in enumerate(indices):
        yield (place + 0.5) / len(indices), number, index


def _picked(lengths: Sequence[int], weights: Sequence[float]) -> list[Sequence[int]]:
    """Return which examples of each group are taken, in order; all without weights."""
    if not weights:
        return [range(length) for length in lengths]
    most = min(length / weight for length, weight in zip(lengths, weights, strict=True))
    draw = random.Random(MIXTURE_SEED)
    counts = [max(1, min(n, round(most * weight))) for n, weight in zip(lengths, weights, strict=True)]
    return [sorted(draw.sample(range(n), count)) for n, count in zip(lengths, counts, strict=True)]
