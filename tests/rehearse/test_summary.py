"""Medians, quantiles, and random search's exact median."""

from __future__ import annotations

import heapq
import math
import random

import numpy as np
import pytest

from rankray.errors import ConfigError
from rankray.rehearse.replay import Replay
from rankray.rehearse.summary import Summary, busy_share, compare, random_median, random_quantile
from rankray.rehearse.worlds import synthetic_world
from rehearse.conftest import made_config


def made(found: float, chosen: float = math.inf) -> Replay:
    return Replay(found, chosen, 10.0, 5.0, 10, 0, (0.01,) * 10, (0.001,) * 30)


def test_quantiles_count_what_never_got_there() -> None:
    summary = Summary("auto", tuple(made(value) for value in (5.0, 1.0, math.inf, 3.0, 2.0)))
    assert summary.quantile("found", 0.5) == 3.0
    assert summary.quantile("found", 0.9) == math.inf
    shown = summary.to_json()
    assert shown["found"] == {"median": 3.0, "p90": None}
    assert shown["chosen"] == {"median": None, "p90": None}
    assert shown["driver_cpu_seconds_per_trial"] == pytest.approx(0.013)
    assert shown["driver_cpu_seconds_per_ask"] == pytest.approx(0.01)
    assert shown["driver_cpu_seconds_per_report"] == pytest.approx(0.001)
    assert (summary.milliseconds("ask_seconds"), summary.milliseconds("report_seconds")) == pytest.approx((10.0, 1.0))
    asked = Replay(1.0, 1.0, 10.0, 5.0, 10, 0, (), (), (0.5, 0.7), (0.1, 0.2, 0.3))
    assert Summary("auto", (asked, asked)).busy_share(1) == pytest.approx(60 / 60.6), "1.8 s for three reports"


@pytest.mark.parametrize("shares", [[0.01], [0.002, 0.05, 0.3]])
def test_random_search_s_exact_median_is_what_a_simulation_finds(shares: list[float]) -> None:
    draws = np.random.default_rng(0)
    runs = np.concatenate([draws.geometric(share, 40_000) for share in shares])
    for part in (0.5, 0.9):
        assert random_quantile(shares, part) == pytest.approx(np.quantile(runs, part), rel=0.05)


def test_what_random_search_never_finds_is_infinite() -> None:
    assert random_quantile([0.0], 0.5) == math.inf
    assert random_quantile([], 0.5) == math.inf
    assert random_quantile([0.0, 0.5], 0.4) < math.inf
    assert random_quantile([1.0], 0.5) == 1.0


def test_every_strategy_is_replayed_in_every_world_with_every_seed() -> None:
    config = made_config()
    worlds = [synthetic_world(config, seed) for seed in range(2)]
    lines: list[str] = []
    done = compare(config, worlds, ["auto", "random"], slots=2, seeds=2, trials=5, progress=lines.append)
    assert [each.name for each in done] == ["auto", "random"]
    assert all(len(each.replays) == 4 for each in done)
    assert len(lines) == 4
    assert 1 <= random_median(worlds) < 100


def test_a_wrong_strategy_is_said_before_anything_is_replayed() -> None:
    lines: list[str] = []
    world = synthetic_world(made_config(), 0)
    with pytest.raises(ConfigError, match="got 'foo'"):
        compare(made_config(), [world], ["random", "foo"], slots=1, seeds=1, trials=5, progress=lines.append)
    assert lines == []


def test_the_share_of_busy_slots_falls_with_the_driver_s_load() -> None:
    assert busy_share(1, 0.0, 100) == 1.0
    assert busy_share(8, 100 * 0.006, 100) == pytest.approx(60 / 60.006, rel=1e-5), "it waits for its own answer"
    assert 0.95 < busy_share(1000, 100 * 0.05, 100) < 1.0
    assert busy_share(1000, 100 * 0.12, 100) == pytest.approx(0.5), "one driver does half of what is needed"


def simulated_share(slots: int, service: float, reports: int = 20_000) -> float:
    """Return the same by simulation: each slot works a minute on average, then waits for its turn at the driver."""
    dice = random.Random(slots)
    due = [dice.expovariate(1 / 60) for _ in range(slots)]
    heapq.heapify(due)
    free = waited = 0.0
    for _ in range(reports):
        at = heapq.heappop(due)
        free = max(at, free) + service
        waited += free - at
        heapq.heappush(due, free + dice.expovariate(1 / 60))
    return 60 / (60 + waited / reports)


@pytest.mark.parametrize("slots", [1, 8, 100])
def test_a_driver_near_its_limit_keeps_as_many_slots_busy_as_in_a_simulation(slots: int) -> None:
    loads = [0.5, 0.9, 0.99, 0.999, 1.0, 1.001, 1.2, 2.0]
    shares = [busy_share(slots, load * 60 / slots, 1) for load in loads]
    assert shares == sorted(shares, reverse=True), "a slower driver keeps fewer busy"
    for load, share in zip(loads, shares, strict=True):
        assert share == pytest.approx(simulated_share(slots, load * 60 / slots), abs=0.04)
