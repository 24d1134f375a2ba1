"""Many replays of several strategies, and what is said of them: medians, 90 % quantiles, random search's exact one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rankray.config import Config
from rankray.rehearse.replay import Replay, configured, replay
from rankray.rehearse.worlds import World

if TYPE_CHECKING:
    from rankray.store import StudyStore


REPORT_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Summary:
    """What became of one strategy in some worlds.

    Attributes:
        name: the strategy.
        replays: of every world and seed.
    """

    name: str
    replays: tuple[Replay, ...]

    def quantile(self, what: str, part: float) -> float:
        """Return a quantile of `found`, `chosen`, `spent` or `wall`; infinite where that many never got there."""
        values = sorted(getattr(each, what) for each in self.replays)
        return float(values[min(len(values) - 1, math.ceil(part * len(values)) - 1)])

    @property
    def cpu_seconds_per_trial(self) -> float:
        """The driver's CPU time for one trial: asking for it, its reports, its end."""
        trials = sum(len(each.ask_seconds) for each in self.replays)
        return sum(each.cpu_seconds for each in self.replays) / max(1, trials)

    def milliseconds(self, what: str) -> float:
        """Return the median of `ask_seconds`, `report_seconds` or their wall times, in milliseconds."""
        return 1e3 * float(np.median([second for each in self.replays for second in getattr(each, what)] or [0.0]))

    def busy_share(self, slots: int) -> float:
        """Return which share of the slots one driver keeps busy at one report a minute, as long as it took here."""
        asks = [second for each in self.replays for second in each.ask_wall_seconds]
        reports = [second for each in self.replays for second in each.report_wall_seconds]
        return busy_share(slots, sum(asks) + sum(reports), len(reports))

    def to_json(self) -> dict[str, Any]:
        """Return what `rehearse --json` prints of a strategy: full runs, None where something was never reached."""
        found, chosen = (
            {"median": finite(self.quantile(what, 0.5)), "p90": finite(self.quantile(what, 0.9))}
            for what in ("found", "chosen")
        )
        return {
            "name": self.name,
            "found": found,
            "chosen": chosen,
            "wall": {"median": finite(self.quantile("wall", 0.5))},
            "spent": {"median": finite(self.quantile("spent", 0.5))},
            "driver_cpu_seconds_per_trial": round(self.cpu_seconds_per_trial, 6),
            "driver_cpu_seconds_per_report": round(self.milliseconds("report_seconds") / 1e3, 6),
            "driver_cpu_seconds_per_ask": round(self.milliseconds("ask_seconds") / 1e3, 6),
        }


def compare(
    config: Config,
    worlds: Sequence[World],
    strategies: Sequence[str],
    *,
    slots: int,
    seeds: int,
    trials: int,
    enough: float = math.inf,
    progress: Callable[[str], None] | None = None,
    opened: Callable[[Config], StudyStore] | None = None,
) -> list[Summary]:
    """Replay every strategy in every world with every seed.

    Args:
        config: the file's configuration.
        worlds: what trials report.
        strategies: as for `configured`.
        slots: trials at a time.
        seeds: searches per world.
        trials: the budget of each, finished trials.
        enough: see `replay`.
        progress: called with a line after each strategy and world.
        opened: opens the study of each replay; in memory, if None.
    """
    for name in strategies:  # a wrong name is said before hours are spent on those before it
        configured(config, name, worlds[0], trials, 0)
    done = []
    for name in strategies:
        replays = []
        for world in worlds:
            for seed in range(seeds):
                one = configured(config, name, world, trials, seed)
                replays.append(replay(one, world, slots=slots, seed=seed, enough=enough, opened=opened))
            if progress:
                progress(f"{name} in {world.name}: {seeds} searches")
        done.append(Summary(name, tuple(replays)))
    return done


def random_median(worlds: Sequence[World]) -> float:
    """Return how many full runs random search needs to reach the target in half of the searches, over all worlds."""
    return random_quantile([world.share for world in worlds], 0.5)


def random_quantile(shares: Sequence[float], part: float) -> float:
    """Return the least n for which a share `part` of random searches has hit the target by run n; exact.

    Args:
        shares: how much of the space reaches the target in each world; the worlds are equally likely.
        part: between 0 and 1.
    """

    def reached(runs: float) -> float:
        return float(np.mean([1 - (1 - share) ** runs for share in shares]))

    if not shares or reached(1e9) < part:
        return math.inf
    low, high = 0, 1
    while reached(high) < part:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) >= part else (middle, high)
    return float(high)


def busy_share(slots: int, driver_seconds: float, reports: int) -> float:
    """Return which share of the slots one driver keeps busy.

    A slot reports once a minute and waits for the answer, which one driver gives to one slot after another; with its
    turn come what is to be done for others (a random order of arrival, equal work). Slots that wait report nothing
    meanwhile, so that however slow the driver is, none waits for more than one turn of each other one.

    Args:
        slots: trials at a time.
        driver_seconds: what the driver took for some reports, with new trials and ends.
        reports: how many.

    Source: M. Reiser and S. S. Lavenberg, J. ACM 27 (1980) 313-322, mean value analysis of a closed queue; the part of
    a turn that is left when a report arrives is half of it.
    """
    service = driver_seconds / max(1, reports)
    waits = there = busy = 0.0  # of so many slots: seconds to an answer, slots that wait, how busy the driver is
    for count in range(1, slots + 1):
        waits = max(service * (1 + there - busy / 2), count * service - REPORT_EVERY_SECONDS)
        rate = count / (REPORT_EVERY_SECONDS + waits)
        there, busy = rate * waits, rate * service
    return REPORT_EVERY_SECONDS / (REPORT_EVERY_SECONDS + waits)


def finite(value: float) -> float | None:
    """Return a figure for JSON: None where it is infinite."""
    return round(value, 4) if math.isfinite(value) else None
