"""`sampler: auto`: the settings that are known first, then a Gaussian process on whole runs, TPE in a long study.

Everything is decided from the study's trials: the same history gives the same proposal, whichever driver asks, and what
is running counts.

1. The start list (`study.known`, warm starts) comes before any sampler (`ask`). Then each branch of the space (each
   combination of choices, where these are few: `encoding`) that has no trial gets a random setting of its middle, far
   from all others: known settings that are bad, and all of one branch, would say that the others are as bad there, and
   nothing would contradict them for long. More branches than a quarter of the budget are left to step 2. A budget
   below five trials is spent on the file's own setting, at its rate, three times and a third of it.
2. With two whole runs, the Gaussian process of `gp`. A run's value is 0.7 z(study metric) + 0.3 z(-`eval/nll` at its
   end) for two proposals, and z(study metric) alone for the next two: NLL is less noisy, but the setting with the best
   NLL need not be the one with the best metric, and a search that always counted both stayed at what is best by both.
   z is in units of how far the better runs lie apart, and what is far worse counts by the logarithm of its distance
   (`scores`): a few runs that went wrong would make all good ones look alike. What diverged, or was pruned, is a bad
   run. Expected improvement and mean + 2 sd take turns: improvement alone exploits, and the noise of a lucky run feeds
   it. When the best run, by what the process says of it, has been the best for eight runs, or five runs are almost the
   same setting as it, each second setting is one that has less to do with it. Candidates are random ones of every
   branch and ones near the best runs, then ones near the most promising of these.
3. Beyond MOST_RUNS whole runs, TPE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typing_extensions import override

from rankray.config.params import get_path
from rankray.config.schema import Config
from rankray.store import gp
from rankray.store.encoding import Array, Encoding
from rankray.store.optuna_space import optuna_distributions
from rankray.store.records import end_of, is_void, steps_of

MOST_RUNS = 250
"""Whole runs beyond which TPE proposes: the Gaussian process takes time with their cube."""
FEW_TRIALS = 5
"""A budget below this is spent on settings around the file's own."""
NEEDED = 2
MOST_RUNNING = 1000
"""Running trials that are not proposed again, the latest ones."""
USED_RUNS, USED_RUNNING = 100, 60
"""How many of either the Gaussian process computes with at most: the best runs and others evenly over time."""
SHORTLIST = 250
"""Candidates, of which the first draw of the scales keeps the most promising, that all draws look at."""
PER_BRANCH = 150
MOST_CANDIDATES = 1200
JITTERED = 5
JITTERS = 30
REFINED, NEARER = 4, 15
"""How many of the most promising candidates get new ones near them, and how many each."""
STALE, CROWD, CLOSE = 8, 5, 0.8
"""A search is stuck after so many whole runs without a better one, or when so many correlate more than CLOSE with the
best one, itself counted: each of these may be the best by a hair for a while."""
ELSEWHERE, UNLIKE = 2, 0.5
"""Where it is stuck, each second setting correlates less than this with the best run."""
SPREAD, MIDDLE = 8, 0.2
"""Random settings of which each of the first ones is chosen, so that they lie apart; and the part of a range, in its
middle, from which the first one of a branch takes its numbers."""
EXPLORED = 1 / 4
"""The part of the budget that may be spent on branches that nobody has tried."""
WORSE_PART = 0.5
"""The part of the runs, the worst ones, that does not say how far good ones lie apart."""
BEST_SCORE = 4.0
METRIC_SHARE, ALTERNATES = 0.7, 2
"""The metric's part of a run's value, the rest is NLL's; for so many proposals, then the metric is all for as many."""
NLL = "eval/nll"


class AutoSampler(BaseSampler):
    """See the module's docstring.

    Args:
        config: the study's configuration.
        seed: of this proposal.
        n_startup_trials: settings drawn at random, at least, before the Gaussian process proposes (whole runs).
        max_runs: whole runs beyond which TPE proposes.
    """

    def __init__(self, config: Config, seed: int, n_startup_trials: int = NEEDED, max_runs: int = MOST_RUNS) -> None:
        if n_startup_trials < NEEDED:
            raise ValueError(f"n_startup_trials is {n_startup_trials}, allowed: {NEEDED} or more")
        if max_runs < 0:
            raise ValueError(f"max_runs is {max_runs}, allowed: 0 or more")
        self._config, self._seed = config, seed
        self._startup, self._most = n_startup_trials, max_runs
        self._metric = config.study.metric
        self._tpe: TPESampler | None = None
        self._looks_at_runs = True

    def looks_at_runs(self, whole: int) -> bool:
        """Note how many whole runs there are; return whether all of them are to be shown, else TPE proposes."""
        self._looks_at_runs = whole <= self._most
        return self._looks_at_runs

    @override
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._is_fixed(trial):
            return {}
        if not self._looks_at_runs:
            self._tpe = TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=0, seed=self._seed
            )
            return self._tpe.infer_relative_search_space(study, trial)
        return optuna_distributions(self._config)

    @override
    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        if self._tpe is not None:
            return self._tpe.sample_relative(study, trial, search_space)
        fixed = trial.system_attrs.get("fixed_params", {})
        return self.propose(study.get_trials(deepcopy=False), study.direction, trial.number, fixed)

    @override
    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw what a known setting leaves open, or TPE has not seen yet."""
        fallback = self._tpe or TPESampler(n_startup_trials=10**9, seed=self._seed)
        return fallback.sample_independent(study, trial, param_name, param_distribution)

    def propose(
        self,
        trials: Sequence[FrozenTrial],
        direction: StudyDirection,
        number: int,
        fixed: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the setting for the trial of this number.

        Args:
            trials: the study's trials, in order.
            direction: the study's.
            number: the trial's; expected improvement and mean + 2 sd take turns by it, and values with and without NLL.
            fixed: what is given already, of a known setting that leaves something open.
        """
        draws = np.random.default_rng(self._seed)
        encoding = Encoding(self._config)
        there = [trial for trial in trials if trial.params and not is_void(trial)]
        given = dict(zip(encoding.paths, encoding.place(fixed or {}).tolist(), strict=True))
        given = {path: place for path, place in given.items() if not math.isnan(place)}
        if self._config.study.trials < FEW_TRIALS and not given:
            near = self._near_the_file(encoding, [trial.params for trial in there])
            if near is not None:
                return near
        runs = sum(trial.state == TrialState.COMPLETE for trial in there)
        taken = [encoding.place(trial.params) for trial in there]
        counts = branch_counts(encoding, taken)
        most = max(NEEDED, math.ceil(EXPLORED * self._config.study.trials))
        explores = not given and sum(count > 0 for count in counts) < min(len(counts), most)
        if runs < self._startup or explores:
            return encoding.params(_with(encoding, _far_away(encoding, taken, counts, draws)[None], given, draws)[0])
        seen = [trial for trial in there if _is_seen(trial)]
        running = [trial for trial in there if not trial.state.is_finished()][-MOST_RUNNING:]
        sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        values = run_values(seen, self._metric, sign, with_nll=number // ALTERNATES % 2 == 0)
        places = np.stack([encoding.place(trial.params) for trial in [*seen, *running]])
        with gp.one_thread():
            row = proposal(encoding, places, values, draws, given, turn=number)
        return encoding.params(row)

    def _is_fixed(self, trial: FrozenTrial) -> bool:
        """Return whether nothing is left to propose: the trial tries a known setting."""
        fixed: Mapping[str, Any] = trial.system_attrs.get("fixed_params", {})
        return bool(fixed) and all(
            path in fixed
            for path, dist in self._config.search_space.distributions.items()
            if dist.active(fixed, self._config)
        )

    def _near_the_file(self, encoding: Encoding, tried: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """Return the file's own setting at the first of three rates that nobody has tried yet."""
        rate = "train.learning_rate"
        for factor in (1.0, 3.0, 1 / 3) if rate in encoding.paths else (1.0,):
            point: dict[str, Any] = {}
            for field in encoding.fields:
                if field.active(point, self._config):
                    value = get_path(self._config, field.path)
                    if field.path == rate:
                        value = min(max(value * factor, field.low), field.high)
                    if not field.contains(value):
                        return None
                    point[field.path] = value
            if point not in tried:
                return point
        return None


def proposal(
    encoding: Encoding,
    places: Array,
    values: Array,
    draws: np.random.Generator,
    given: Mapping[str, float],
    *,
    turn: int,
) -> Array:
    """Return the row to train next.

    Args:
        encoding: the space.
        places: rows of the whole runs, then those of the running trials; (runs + running, fields).
        values: of the whole runs, larger is better; (runs,).
        draws: the random draws of this proposal.
        given: places of fields that are fixed.
        turn: odd: choose by mean + 2 sd instead of by expected improvement; a multiple of ELSEWHERE: far from the best
            run, if the search is stuck.
    """
    scales, noise = gp.drawn_scales(encoding.fields, draws)
    candidates = _with(encoding, _candidates(encoding, places[: len(values)], values, draws), given, draws)
    on = gp.selected(values, gp.SELECTED_ON)
    kept = gp.best_scales(encoding.distances(places[on], places[on]), values[on], scales, noise)
    used = gp.selected(values, USED_RUNS)
    running = np.arange(len(values), len(places))[-USED_RUNNING:]
    taken, worth = places[np.concatenate([used, running])], values[used]
    among = encoding.distances(taken, taken)
    if len(candidates) > SHORTLIST:
        means, sds = gp.Posterior(among, worth, scales[kept[:1]], noise[kept[:1]]).at(
            encoding.distances(taken, candidates)
        )
        candidates = candidates[np.argsort(-(means + 2 * sds)[0], kind="stable")[:SHORTLIST]]
    candidates = _away_from(encoding, candidates, places)
    posterior = gp.Posterior(among, worth, scales[kept], noise[kept])

    def worth_of(rows: Array) -> Array:
        means, sds = posterior.at(encoding.distances(taken, rows))
        if turn % 2 == 1:
            return np.asarray((means + 2 * sds).mean(axis=0))
        return gp.expected_improvement(means, sds, posterior.means_of_runs.max(axis=1))

    best = int(np.argmax(posterior.means_of_runs.mean(axis=0)))

    def likeness(rows: Array) -> Array:
        correlations = gp.kernel(encoding.distances(taken[[best]], rows), scales[kept])
        return np.asarray(correlations[:, 0].mean(axis=0))

    if turn % ELSEWHERE == 0 and (
        used[best] < len(values) - STALE or (likeness(taken[: len(used)]) > CLOSE).sum() >= CROWD
    ):
        unlike = likeness(candidates) < UNLIKE
        if unlike.any():
            candidates = candidates[unlike]
            return np.asarray(candidates[int(np.argmax(worth_of(candidates)))])
    score = worth_of(candidates)
    around = [_jittered(encoding, candidates[at], draws)[:NEARER] for at in np.argsort(-score, kind="stable")[:REFINED]]
    nearer = _away_from(encoding, _with(encoding, np.concatenate(around), given, draws), places)
    candidates, score = np.concatenate([candidates, nearer]), np.concatenate([score, worth_of(nearer)])
    chosen: Array = candidates[int(np.argmax(score))]
    return chosen


def _away_from(encoding: Encoding, candidates: Array, places: Array) -> Array:
    """Return the candidates that nobody has tried or is trying; all of them where none is left."""
    fresh = encoding.distances(places, candidates).max(axis=0).min(axis=0) > 1e-3
    return candidates[fresh] if fresh.any() else candidates


def run_values(seen: Sequence[FrozenTrial], metric: str, sign: float, *, with_nll: bool = True) -> Array:
    """Return the value of each run, larger is better; bad runs (`_is_seen`) are as bad as the worst whole one."""
    whole = np.array([trial.state == TrialState.COMPLETE for trial in seen])
    metrics = np.array(
        [sign * float(trial.value or 0.0) if there else np.nan for trial, there in zip(seen, whole, strict=True)]
    )
    nlls = np.array([_end_nll(trial) if there else np.nan for trial, there in zip(seen, whole, strict=True)])
    values = scores(metrics)
    tells = len(set(metrics[whole])) > 1  # an accuracy may be 0 for all: then NLL alone says which run was better
    if (with_nll or not tells) and not np.isnan(nlls[whole]).any():
        values = METRIC_SHARE * values + (1 - METRIC_SHARE) * scores(-nlls)
    values[~whole] = np.nanmin(values)
    return values


def scores(values: Array) -> Array:
    """Return values, larger is better, as deviations from their mean in standard deviations; NaN stays NaN.

    Before, they are measured by mean and standard deviation of the better half of them, what lies more than
    one of these below is taken closer by a logarithm (1 + ln(1 + d) for 1 + d), and the best are cut at BEST_SCORE.
    """
    there = values[~np.isnan(values)]
    better = there[there >= np.quantile(there, WORSE_PART)]
    unit = better.std() or there.std() or 1.0
    at = (values - better.mean()) / unit
    at = np.where(at < -1.0, -1.0 - np.log1p(np.maximum(-1.0 - at, 0.0)), np.minimum(at, BEST_SCORE))
    spread = float(np.nanstd(at)) or 1.0
    return np.asarray((at - np.nanmean(at)) / spread)


def _end_nll(trial: FrozenTrial) -> float:
    """Return a whole run's last plain NLL, NaN where it reported none."""
    metrics = end_of(trial).get("metrics")
    if not metrics:
        steps = steps_of(trial)
        metrics = steps[max(steps)].metrics if steps else {}
    value = float(metrics.get(NLL, math.nan))
    return value if math.isfinite(value) else math.nan


def _is_seen(trial: FrozenTrial) -> bool:
    """Return whether something was learnt of a trial: it is whole, was pruned, or diverged (not: crashed)."""
    if trial.state == TrialState.FAIL:
        return any(record.failed for record in steps_of(trial).values())
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def branch_counts(encoding: Encoding, rows: Sequence[Array]) -> list[int]:
    """Return how many settings lie in each branch of the space."""
    places = np.stack(rows) if rows else np.zeros((0, len(encoding.fields)))
    found = []
    for branch in encoding.branches:
        inside = np.ones(len(places), dtype=bool)
        for gate, choice in branch.items():
            inside &= places[:, gate] == (choice + 0.5) / len(encoding.fields[gate].choices)
        found.append(int(inside.sum()))
    return found


def _far_away(encoding: Encoding, taken: Sequence[Array], counts: Sequence[int], draws: np.random.Generator) -> Array:
    """Return a setting of the branch that has the fewest: of a few random ones the farthest from all that are taken.

    The first one of a branch has its numbers in the middle of their ranges (MIDDLE): a range is given around what may
    be good, and of random settings the farthest from others lies at the ends.
    """
    rows = encoding.draw(SPREAD if taken else 1, draws, encoding.branches[int(np.argmin(counts))])
    if not min(counts):
        numbers = [at for at, field in enumerate(encoding.fields) if field.kind != "choice" or field.is_ordered]
        rows = encoding.in_order(rows)
        rows[:, numbers] = 0.5 + MIDDLE * (rows[:, numbers] - 0.5)
        rows = encoding.settled(encoding.out_of_order(rows))
    if not taken:
        return np.asarray(rows[0])
    apart = (encoding.distances(rows, np.stack(taken)) ** 2).sum(axis=0).min(axis=1)
    return np.asarray(rows[int(np.argmax(apart))])


def _candidates(encoding: Encoding, runs: Array, values: Array, draws: np.random.Generator) -> Array:
    """Return settings to choose from: uniform ones of every branch, and ones near the best runs."""
    each = max(20, min(PER_BRANCH, MOST_CANDIDATES // len(encoding.branches)))
    uniform = [encoding.draw(each, draws, branch) for branch in encoding.branches]
    best: NDArray[np.intp] = np.argsort(-values, kind="stable")[:JITTERED]
    near = [_jittered(encoding, runs[index], draws) for index in best]
    return np.concatenate([*uniform, *near])


def _with(encoding: Encoding, rows: Array, given: Mapping[str, float], draws: np.random.Generator) -> Array:
    """Return settings in which some fields have given places; what exists only then is drawn."""
    if not given:
        return rows
    rows = np.where(np.isnan(rows), encoding.spread(draws.random(rows.shape)), rows)
    for path, place in given.items():
        rows[:, encoding.paths.index(path)] = place
    return encoding.settled(rows)


def _jittered(encoding: Encoding, row: Array, draws: np.random.Generator) -> Array:
    """Return settings near one: each number moved by a twelfth of its range or so, a choice changed now and then."""
    rows = np.where(np.isnan(row), encoding.spread(draws.random((JITTERS, len(row)))), row)
    width = 0.08 * np.exp(draws.standard_normal((JITTERS, 1)) * 0.7)
    for index, field in enumerate(encoding.fields):
        if field.kind == "choice":
            changed = draws.random(JITTERS) < 0.1
            rows[changed, index] = draws.random(int(changed.sum()))
        else:
            rows[:, index] += width[:, 0] * draws.standard_normal(JITTERS)
    return encoding.settled(rows)
