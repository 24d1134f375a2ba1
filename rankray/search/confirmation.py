"""A confirmation as arithmetic: is the search's winner really better than plain SFT that was tuned as well?

The search's own figure of its winner is the best of many noisy ones, so it promises too much; and a test on the seeds
that chose the winner says a wrong "better" three times as often as it claims. So new runs decide, in two steps, all on
seeds that the search has not used:

    choose   the finalists, and as many settings of plain SFT (`candidates`), each on a few seeds, on `data.eval`: the
             best mean of either side is taken
    decide   the one taken and plain SFT's, each on further seeds, on `data.test` where there is one: Welch's comparison
             over seeds (`analysis`), after all seeds, or at looks on the way with corrected levels

What is to be run follows from the store alone: from the plan and the choice, which are decided once, and from the runs
that have ended (`points`). Nothing else is remembered, so a confirmation that is killed at any moment, or that several
drivers work on, continues where it is. A run that fails is replaced by one of a further seed, up to as many as were
wanted, and is counted against its side.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rankray.analysis.intervals import LEVEL, mean_interval
from rankray.analysis.sequential import SPENDING, look_levels
from rankray.analysis.verdict import Judgement, decide
from rankray.config import Config, distributions
from rankray.config.space import RATE
from rankray.errors import ConfigError, SearchFailed, shown
from rankray.search.candidates import DATA, SEED, Candidate, decided_on, edge_of, fresh_seed
from rankray.store.confirmation import CHOICE, Run

if TYPE_CHECKING:
    from rankray.store.claims import Claims

SIDES = ("setting", "sft")
"""The two sides of the comparison, as origins name them."""
Points = list[tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Options:
    """How a confirmation is done.

    Attributes:
        finalists: how many settings of the search are tried again, and how many of plain SFT.
        choose_seeds: seeds of each of them for choosing.
        seeds: seeds of either side for deciding; with looks, the last look.
        looks: seeds of either side after which one looks; empty for one look at the end.
        spending: how the level is spread over the looks; a name in `analysis.sequential.SPENDING`.
    """

    finalists: int = 5
    choose_seeds: int = 2
    seeds: int = 8
    looks: tuple[int, ...] = ()
    spending: str = "obrien_fleming"

    @classmethod
    def of(cls, given: Mapping[str, Any], begun: Options | None) -> Options:
        """Return the options that are given, others as a confirmation was begun, or else their defaults.

        Raises:
            ConfigError: a number with which nothing can be said, or two that contradict each other.
        """
        looks, seeds = given.get("looks"), given.get("seeds")
        if looks and seeds not in (None, looks[-1]):
            raise ConfigError(
                f"confirm: --seeds {seeds} beside --looks that end with {looks[-1]}; allowed: {looks[-1]}; leave it out"
            )
        base = asdict(begun or cls())
        if seeds is not None and seeds != base["seeds"] and not looks:
            base["looks"] = ()
        return cls(**base | dict(given)).checked()

    def checked(self) -> Options:
        """Return the options with `seeds` as the last look.

        Raises:
            ConfigError: a number with which nothing can be said.
        """
        for name, least in (("finalists", 1), ("choose_seeds", 1), ("seeds", 2)):
            if type(value := getattr(self, name)) is not int or value < least:
                flag = f"--{name.replace('_', '-')} {shown(value)}"
                raise ConfigError(f"confirm: {flag}; allowed: {least} or more, whole; correct it")
        if self.spending not in SPENDING:
            raise ConfigError(f"confirm: --spending {self.spending}; allowed: {', '.join(SPENDING)}; give one of these")
        if not self.looks:
            return self
        try:
            look_levels(self.looks)
        except ValueError as error:
            raise ConfigError(f"confirm: --{error}") from None
        if self.looks[0] < 2:
            raise ConfigError(f"confirm: --looks starts with {self.looks[0]}; allowed: 2 seeds or more; raise it")
        return Options(self.finalists, self.choose_seeds, self.looks[-1], self.looks, self.spending)

    @property
    def all_looks(self) -> tuple[int, ...]:
        """The looks; without any, one at the end."""
        return self.looks or (self.seeds,)

    @property
    def levels(self) -> list[float]:
        """The two-sided level of each look."""
        return list(_levels(self.all_looks, self.spending))


@lru_cache
def _levels(looks: tuple[int, ...], spending: str) -> tuple[float, ...]:
    return tuple(look_levels(looks, LEVEL, spending))


@dataclass(frozen=True)
class Plan:
    """What a confirmation compares; decided once, by the first driver.

    Attributes:
        options: how.
        finalists: the search's best settings, best first.
        baselines: plain SFT's settings.
        choose_on: the data on which is chosen.
        decide_on: the data on which is decided.
        salt: what the seeds are drawn with.
        used: the search's seeds.
        finished: how many trials of the search had finished.
    """

    options: Options
    finalists: list[Candidate]
    baselines: list[Candidate]
    choose_on: str
    decide_on: str
    salt: str
    used: list[int]
    finished: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "options": {**asdict(self.options), "looks": list(self.options.looks)}}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from `to_json`."""
        options = Options(**{**tree["options"], "looks": tuple(tree["options"]["looks"])})
        sides = {side: [Candidate(**each) for each in tree[side]] for side in ("finalists", "baselines")}
        return cls(**{**tree, "options": options, **sides})

    @property
    def choosing(self) -> int:
        """How many runs choose, if none fails."""
        return sum(len(side) for side in self.sides.values() if len(side) > 1) * self.options.choose_seeds

    @property
    def total(self) -> int:
        """How many runs there are at most, if none fails."""
        return self.choosing + 2 * self.options.seeds

    @property
    def sides(self) -> dict[str, list[Candidate]]:
        """The candidates of each side."""
        return dict(zip(SIDES, (self.finalists, self.baselines), strict=True))


class Confirmation:
    """What is to be run next, and the verdict, from the plan and the runs so far.

    Args:
        config: the configuration of the confirmation's study.
        plan: what is compared.
        claims: where the choice is decided.
    """

    def __init__(self, config: Config, plan: Plan, claims: Claims) -> None:
        self._config, self._plan, self._claims = config, plan, claims
        self._data = decided_on(config, (plan.choose_on, plan.decide_on))
        self._maximize = config.direction == "maximize"
        self._looks = list(zip(plan.options.all_looks, plan.options.levels, strict=True))

    def points(self, runs: Sequence[Run]) -> Points:
        """Return the points that are due, as (origin, params): all of the past and those that can be run now.

        The same runs give the same points, whoever asks.

        Raises:
            StoreUnavailable: the choice cannot be entered.
        """
        options, due = self._plan.options, []
        chosen_all = True
        for side, candidates in self._plan.sides.items():
            if len(candidates) > 1:
                for index, candidate in enumerate(candidates):
                    origin = f"confirm:choose:{side}:{index}"
                    due += self._points(origin, candidate, self._plan.choose_on, options.choose_seeds, runs)
                    chosen_all &= self._has(runs, origin, options.choose_seeds)
        if not chosen_all:
            return due
        choice = self._choice(runs)
        for look, _ in self._reached(runs) if choice else ():
            for side in SIDES:
                candidate = self._plan.sides[side][choice[side]]
                due += self._points(f"confirm:decide:{side}", candidate, self._plan.decide_on, look, runs)
        return list({origin + str(params[SEED]): (origin, params) for origin, params in due}.values())

    def _reached(self, runs: Sequence[Run]) -> list[tuple[int, float]]:
        """Return the looks that have been had, and the one that is waited for; none after one that decides."""
        for at, (look, level) in enumerate(self._looks):
            waits = not all(self._has(runs, f"confirm:decide:{side}", look) for side in SIDES)
            judged = None if waits else self._compare(runs, look, level)
            if waits or (judged is not None and judged.decides):
                return self._looks[: at + 1]
        return self._looks

    def _points(self, origin: str, candidate: Candidate, data: str, seeds: int, runs: Sequence[Run]) -> Points:
        """Return the points of one comparison: so many seeds, and one more for each failed one, up to as many again."""
        failed = sum(run.origin == origin and run.state == "failed" for run in runs)
        wanted = seeds + min(failed, seeds)
        used = set(self._plan.used)
        return [
            (origin, {**candidate.params, SEED: fresh_seed(self._plan.salt, origin, index, used), DATA: data})
            for index in range(wanted)
        ]

    def _has(self, runs: Sequence[Run], origin: str, seeds: int) -> bool:
        """Whether one comparison has its seeds, or so many have failed that it will not get them."""
        mine = [run for run in runs if run.origin == origin][: 2 * seeds]
        complete, failed = (sum(run.state == state for run in mine) for state in ("complete", "failed"))
        return complete >= seeds or complete + failed == 2 * seeds

    def values(self, runs: Sequence[Run], origin: str, seeds: int | None = None) -> list[float]:
        """Return the metric of one comparison's complete runs; of the first so many, without what was due later."""
        mine = [run.value for run in runs if run.origin == origin][: seeds and 2 * seeds]
        return [value for value in mine if value is not None][:seeds]

    def failures(self, runs: Sequence[Run], origin: str) -> int:
        """Return how many runs of one comparison failed."""
        return sum(run.origin == origin and run.state == "failed" for run in runs)

    def _choice(self, runs: Sequence[Run]) -> dict[str, int]:
        """Return which candidate of each side is taken, as decided first; nothing if all of a side failed."""
        found = self._claims.first(CHOICE)
        if found is None:
            best = {side: self._best(side, runs) for side in SIDES}
            if None in best.values():
                return {}
            found = self._claims.enter(CHOICE, best)
        return {side: int(found[side]) for side in SIDES}

    def _best(self, side: str, runs: Sequence[Run]) -> int | None:
        """Return the index of the candidate with the best mean, of those with fewest failures; None if all failed."""
        candidates = self._plan.sides[side]
        if len(candidates) == 1:
            return 0
        ranks = []
        for index in range(len(candidates)):
            origin = f"confirm:choose:{side}:{index}"
            if values := self.values(runs, origin, self._plan.options.choose_seeds):
                mean = statistics.fmean(values)
                ranks.append((self.failures(runs, origin), -mean if self._maximize else mean, index))
        return min(ranks)[2] if ranks else None

    def _compare(self, runs: Sequence[Run], look: int, level: float) -> Judgement | None:
        """Return the judgement at a look; None where fewer than two runs of a side are left."""
        setting, sft = (self.values(runs, f"confirm:decide:{side}", look) for side in SIDES)
        if min(len(setting), len(sft)) < 2:
            return None
        return decide(setting, sft, maximize=self._maximize, level=level, obstacles=self._obstacles(runs))

    def _obstacles(self, runs: Sequence[Run]) -> list[str]:
        """Return what forbids the word "better"."""
        choice, dist = self._choice(runs), distributions(self._config)[RATE]
        found = []
        for side, name in zip(SIDES, ("the setting", "plain SFT"), strict=True):
            if edge := edge_of(float(self._plan.sides[side][choice[side]].params[RATE]), dist):
                found.append(f"the best learning rate of {name} lies on {edge}: search again with a wider one")
        mine, theirs = (self.failures(runs, f"confirm:decide:{side}") for side in SIDES)
        if mine > theirs:
            found.append(f"{mine} runs of the setting failed and {theirs} of plain SFT")
        return found

    def verdict(self, runs: Sequence[Run], study: str) -> dict[str, Any] | None:
        """Return what `rankray confirm NAME --json` prints, or None while runs are missing.

        Args:
            runs: the confirmation's runs.
            study: the name of the search's study.

        Raises:
            SearchFailed: so many runs failed that nothing can be said.
        """
        due = {(origin, params[SEED]) for origin, params in self.points(runs)}
        ended = {(run.origin, run.seed) for run in runs if run.state != "open"}
        if not due <= ended:
            return None
        choice, looks = self._choice(runs), self._looks
        look, level = self._reached(runs)[-1]
        judged = self._compare(runs, look, level) if choice else None
        if judged is None:
            failed = sum(run.state == "failed" for run in runs)
            raise SearchFailed(
                f"confirm: {study}: {failed} of {len(runs)} runs failed; needed: two of each side that do not; see "
                f"rankray status {self._config.name} for the reasons"
            )
        setting = self._shown("setting", choice["setting"], runs, look)
        baseline = self._shown("sft", choice["sft"], runs, look)
        others = [
            self._shown("setting", index, runs, None)
            for index in range(len(self._plan.finalists))
            if index != choice["setting"]
        ]
        optimism = self._optimism(choice["setting"], runs, look)
        return {
            "study": study,
            "metric": self._config.study.metric,
            "direction": self._config.direction,
            "seeds": look,
            "data": self._data,
            "finalists": [setting, *others],
            "baseline": baseline,
            "optimism": optimism,
            "looks": {"planned": [each for each, _ in looks], "levels": [each for _, each in looks], "at": look},
            "search_finished": self._plan.finished,
            "confirmation": self._config.name,
            "verdict": {
                **judged.to_json(),
                "text": self._text(judged, setting, baseline, optimism, look),
            },
        }

    def _shown(self, side: str, index: int, runs: Sequence[Run], look: int | None) -> dict[str, Any]:
        """Return a candidate with the figures of its runs: those that decide, or with no look those that chose."""
        candidate = self._plan.sides[side][index]
        chosen = self.values(runs, f"confirm:choose:{side}:{index}")
        origin = f"confirm:choose:{side}:{index}" if look is None else f"confirm:decide:{side}"
        values = chosen if look is None else self.values(runs, origin, look)
        mean, low, high = mean_interval(values) if values else (None, None, None)
        errors = [run.stderr for run in runs if run.origin == origin and run.stderr is not None]
        return {
            "number": candidate.number,
            "params": candidate.params,
            "mean": mean,
            "interval": [low, high] if len(values) > 1 else None,
            "values": values,
            "example_stderr": statistics.fmean(errors) if errors else None,
            "failed": self.failures(runs, origin),
            "chosen": look is not None,
            "choose_values": chosen,
            "search_value": candidate.value,
        }

    def _optimism(self, index: int, runs: Sequence[Run], look: int) -> float | None:
        """Return by how much the search's figures were too good, on the data that the search saw.

        Where the deciding runs are on other data, only those that chose can say it, and the chosen setting's own are
        the best of several: it would look better than it is. So then it is the mean over all finalists.
        """
        fresh = {index: self.values(runs, "confirm:decide:setting", look)}
        if self._data["is_test"]:
            fresh = {at: self.values(runs, f"confirm:choose:setting:{at}") for at in range(len(self._plan.finalists))}
        claimed = {each: self._plan.finalists[each].value for each in fresh}
        known = {each: value for each, value in claimed.items() if value is not None and fresh[each]}
        over = [value - statistics.fmean(fresh[each]) for each, value in known.items()]
        return statistics.fmean(over) * (1 if self._maximize else -1) if over else None

    def _text(
        self,
        judged: Judgement,
        setting: Mapping[str, Any],
        baseline: Mapping[str, Any],
        optimism: float | None,
        look: int,
    ) -> str:
        metric, sign, found = self._config.study.metric, 1 if self._maximize else -1, judged.compared
        gain, low, high = (sign * each + 0.0 for each in (found.difference, *(found.low, found.high)[::sign]))  # not -0
        ran = [len(side["values"]) for side in (setting, baseline)]
        seeds = (
            f"{look} new seeds each," if ran == [look, look] else f"{ran[0]} and {ran[1]} new seeds that did not fail,"
        )
        where = self._data["split"] + ("" if self._data["is_test"] else ", which the search has seen")
        lines = [
            f"{judged.word}: {metric} {setting['mean']:.4g} (trial {setting['number']}) against {baseline['mean']:.4g} "
            f"of plain SFT at its own best learning rate {baseline['params'][RATE]:.3g}; gain "
            f"{gain:+.3g}, {100 * (1 - found.level):.3g} % interval {low:+.3g} to {high:+.3g}, over {seeds} on {where}",
            judged.why,
        ]
        if optimism is not None:
            which = f"figure for it, {setting['search_value']:.4g}, was"
            if self._data["is_test"]:
                which = f"figures for the {len(self._plan.finalists)} finalists were on average"
            word = "optimistic" if optimism > 0 else "pessimistic"
            lines.append(f"the search's own {which} {word} by about {abs(optimism):.3g}")
        if setting["example_stderr"] is not None:
            lines.append(
                f"standard deviation over seeds {found.seed_sd:.3g}, standard error over examples of one run "
                f"{setting['example_stderr']:.3g}"
            )
        return "; ".join(lines)
