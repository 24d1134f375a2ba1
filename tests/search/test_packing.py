"""How many trials at a time, in virtual time: every trial reports at the pace that so many together have."""

import pytest

from rankray.contracts import Report
from rankray.search.packing import Packing


class World:
    """Trials of a few reports; `pace(n)` is the steps per second of each of n trials that run together."""

    def __init__(self, most, pace, *, reports=4, memory=lambda: (0, 1), measures=True):
        self.now, self.number, self.pace, self.reports = 0.0, 0, pace, reports
        self.said = []
        self.packing = Packing(most, self.said.append, measures=measures, memory=memory, clock=lambda: self.now)
        self.live = {}

    def run(self, trials):
        seen = []
        while self.number < trials or self.live:
            while self.number < trials and len(self.live) < self.packing.slots:
                self.packing.started(self.number, {}, "sampler", 0)
                self.live[self.number] = 0
                self.number += 1
            seen.append(len(self.live))
            self.now += 10 / self.pace(len(self.live))
            for number in list(self.live):
                self.live[number] += 10
                self.packing.reported(number, Report(self.live[number], {}))
                if self.live[number] == 10 * self.reports:
                    del self.live[number]
                    self.packing.ended(number, "complete", 1.0, "")
        return seen


@pytest.mark.parametrize("reports", [1, 2, 5])
def test_all_slots_stay_where_trials_do_not_hinder_each_other(reports):
    world = World(4, lambda live: 10.0, reports=reports)
    seen = world.run(40)
    assert world.packing.slots == 4
    assert min(seen[:-1]) == 2, "half as many were tried, once"
    assert world.said == ["4 trial(s) at a time do the most (steps/s together, 4: 40, 2: 20)"]


@pytest.mark.parametrize("reports", [1, 3])
def test_fewer_run_where_they_get_more_done_together(reports):
    world = World(8, lambda live: 10.0 if live <= 2 else 40.0 / live**2, reports=reports)
    world.run(60)
    assert world.packing.slots == 2
    assert "2 trial(s) at a time do the most" in world.said[-1]
    assert {slots: round(world.packing.steps_per_second(slots)) for slots in (8, 4, 2, 1)} == {
        8: 5,
        4: 10,
        2: 20,
        1: 10,
    }


def test_a_gain_that_is_not_clear_changes_nothing():
    world = World(2, lambda live: 10.0 if live == 2 else 20.5)
    world.run(20)
    assert world.packing.slots == 2


def test_a_number_that_is_given_stays():
    world = World(4, lambda live: 10.0 / live**2, measures=False)
    seen = world.run(20)
    assert world.packing.slots == 4
    assert set(seen[:-1]) == {4}
    assert world.said == []


def test_no_more_trials_than_memory_holds():
    gib = 2**30
    used = [2 * gib]
    world = World(4, lambda live: 10.0, memory=lambda: (used[0], 14 * gib))
    used[0] = 14 * gib
    world.run(20)
    assert world.packing.slots == 3
    assert "each takes 3.0 GiB" in world.said[0]
