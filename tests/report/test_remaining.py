"""How long trials are, and how long the rest takes."""

import random
import statistics

import pytest

from rankray.report.remaining import Lengths, steps_left


def test_running_trials_are_longer_than_they_are_now():
    """Of nine trials that reached step 10, six ended there; the three that run will end at 100, as one did."""
    censored = Lengths([10] * 6 + [100], [50, 60], 100)
    plain = Lengths([10] * 6 + [100], [], 100)
    assert plain.mean < censored.mean < 50


def test_the_first_three_may_all_be_pruned():
    lengths = Lengths([10, 10, 10], [0, 0], 100)
    assert 10 < lengths.mean < 50
    assert {lengths.draw(random.Random(seed)) for seed in range(50)} == {10, 100}


def test_a_draw_is_longer_than_what_is_known():
    lengths = Lengths([10, 20, 20, 40], [], 100)
    chance = random.Random(0)
    assert all(lengths.draw(chance, longer_than=20) in (40, 100) for _ in range(100))
    assert lengths.draw(chance, longer_than=100) == 100


def test_draws_have_the_mean_of_the_distribution():
    lengths = Lengths([10, 10, 20, 40, 100], [30], 100)
    chance = random.Random(1)
    drawn = [lengths.draw(chance) for _ in range(4000)]
    assert statistics.mean(drawn) == pytest.approx(lengths.mean, rel=0.05)


def test_trials_of_one_length_are_placed_slot_by_slot():
    lengths = Lengths([100] * 50, [], 100)
    assert steps_left(lengths, [(0, 0.0), (0, 50.0)], 2, 2) == 200
    assert steps_left(lengths, [], 3, 2) == 200
    assert steps_left(lengths, [], 0, 2) == 0
    assert steps_left(lengths, [(0, 0.0)], 0, 0) == 100
    assert steps_left(lengths, [], 1000, 10) == pytest.approx(10_000, rel=0.02)
