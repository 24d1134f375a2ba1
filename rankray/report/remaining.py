"""About how long a search will still take, from what its trials have done in this launch.

Trials differ in length because most are pruned, and those that are pruned finish first. So the lengths of the finished
ones are not the lengths of all. The running ones will be longer than they are now; in the words of statistics they are
censored, and the product-limit estimate (Kaplan and Meier, 1958, J. Am. Stat. Assoc. 53: 457) takes them into account.
Half of a whole trial is added to what was seen, for the first three of a search may all be pruned. From this
distribution the rest of the search is drawn many times over, slot by slot; the answer is the median.
"""

from __future__ import annotations

import heapq
import random
import statistics
from bisect import bisect
from collections.abc import Sequence

DRAWS = 15
FORESEEN = 300
"""How many trials to come are drawn one by one; further ones count with their mean length."""


class Lengths:
    """How long trials are, in steps.

    Args:
        ended: steps of the trials that ended.
        running: steps that the running ones have done so far; each will end later than that.
        most: steps of a whole trial, which none exceeds.
    """

    def __init__(self, ended: Sequence[int], running: Sequence[int], most: int) -> None:
        self.ends: list[int] = []
        self.cumulative: list[float] = []
        surviving = 1.0
        for length in sorted(set(ended)):
            at_risk = 0.5 + sum(each >= length for each in ended) + sum(each >= length for each in running)
            surviving *= 1 - sum(each == length for each in ended) / at_risk
            self.ends.append(length)
            self.cumulative.append(1 - surviving)
        if surviving > 1e-9 or not self.ends:
            self.ends.append(max([most, *self.ends]))
            self.cumulative.append(1.0)
        self.cumulative[-1] = 1.0

    @property
    def mean(self) -> float:
        """The mean length."""
        shares = (now - before for now, before in zip(self.cumulative, [0.0, *self.cumulative], strict=False))
        return sum(share * length for share, length in zip(shares, self.ends, strict=True))

    def draw(self, chance: random.Random, longer_than: float = -1.0) -> int:
        """Return the length of a trial that is known to be longer than so many steps."""
        first = bisect(self.ends, longer_than)
        if first == len(self.ends):
            return self.ends[-1]
        passed = self.cumulative[first - 1] if first else 0.0
        at = bisect(self.cumulative, passed + chance.random() * (1 - passed))
        return self.ends[min(max(at, first), len(self.ends) - 1)]


def steps_left(lengths: Lengths, running: Sequence[tuple[int, float]], to_come: int, slots: int) -> float:
    """Return about how many steps after one another it takes until all trials have ended.

    Args:
        lengths: how long trials are.
        running: of each running trial the last step it reported, and about the step it is at.
        to_come: how many trials will be started yet.
        slots: how many trials run at a time.
    """
    chance, found = random.Random(0), []
    further = max(0, to_come - FORESEEN)
    for _ in range(DRAWS):
        free = [max(0.0, lengths.draw(chance, longer_than=reported) - at) for reported, at in running]
        free += [0.0] * (slots - len(free))
        heapq.heapify(free)
        for _ in range(to_come - further):
            heapq.heapreplace(free, free[0] + lengths.draw(chance))
        found.append(max(free, default=0.0))
    return statistics.median(found) + further * lengths.mean / max(1, slots)
