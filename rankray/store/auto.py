"""`sampler: auto`: the settings that are known first, then a Gaussian process on whole runs, TPE in a long study.

Everything is decided from the study's trials: the same history gives the same proposal, whichever driver asks, and what
is running counts.

1. The start list (`study.known`, warm starts) comes before any sampler (`ask`). Where it is used up before two runs are
   whole, a random setting of the branch of the space that has the fewest trials. A budget below five trials is spent on
   the file's own setting, at its rate, three times and a third of it.
2. With two whole runs, the Gaussian process of `gp`. A run's value is 0.7 z(study metric) + 0.3 z(-log of its last
   `eval/nll`): the second is less noisy, the first is what counts. What diverged, or was pruned, is a bad run. Expected
   improvement and mean + 2 sd take turns: improvement alone exploits, and the noise of a lucky run feeds it.
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
from rankray.store.records import END, is_void, steps_of

MOST_RUNS = 250
"""Whole runs beyond which TPE proposes: the Gaussian process takes time with their cube."""
FEW_TRIALS = 5
"""A budget below this is spent on settings around the file's own."""
NEEDED = 2
MOST_RUNNING = 100
"""Running trials that the Gaussian process takes into account, the latest ones; no others are proposed again either."""
PER_BRANCH = 150
MOST_CANDIDATES = 1200
JITTERED = 5
JITTERS = 30
SPREAD = 4
"""Random settings of which the first ones are chosen, so that they lie apart."""
LOWEST, HIGHEST = -2.5, 4.0
"""Where standardised values are cut off."""
METRIC_SHARE = 0.7
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
        self._config, self._seed = config, seed
        self._startup, self._most = n_startup_trials, max_runs
        self._metric = config.study.metric
        self._tpe: TPESampler | None = None

    @override
    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._is_fixed(trial):
            return {}
        if len(whole_runs(study)) > self._most:
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
            number: the trial's; expected improvement and mean + 2 sd take turns by it.
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
        runs = [trial for trial in there if trial.state == TrialState.COMPLETE]
        if len(runs) < self._startup:
            return encoding.params(_with(encoding, _of_a_rare_branch(encoding, there, draws)[None], given, draws)[0])
        seen = [trial for trial in there if _is_seen(trial)]
        running = [trial for trial in there if not trial.state.is_finished()][-MOST_RUNNING:]
        sign = 1.0 if direction == StudyDirection.MAXIMIZE else -1.0
        values = run_values(seen, self._metric, sign)
        places = np.stack([encoding.place(trial.params) for trial in [*seen, *running]])
        return encoding.params(proposal(encoding, places, values, draws, given, optimistic=number % 2 == 1))

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


def whole_runs(study: Study) -> list[FrozenTrial]:
    """Return the study's complete trials."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def proposal(
    encoding: Encoding,
    places: Array,
    values: Array,
    draws: np.random.Generator,
    given: Mapping[str, float],
    *,
    optimistic: bool,
) -> Array:
    """Return the row to train next.

    Args:
        encoding: the space.
        places: rows of the whole runs, then those of the running trials; (runs + running, fields).
        values: of the whole runs, larger is better; (runs,).
        draws: the random draws of this proposal.
        given: places of fields that are fixed.
        optimistic: choose by mean + 2 sd instead of expected improvement.
    """
    scales, noise = gp.drawn_scales(encoding.fields, draws)
    runs = places[: len(values)]
    on = gp.selected(values)
    kept = gp.best_scales(encoding.distances(runs[on], runs[on]), values[on], scales, noise)
    posterior = gp.Posterior(encoding.distances(places, places), values, scales[kept], noise[kept])
    candidates = _with(encoding, _candidates(encoding, runs, values, draws), given, draws)
    away = encoding.distances(places, candidates)
    fresh = away.max(axis=0).min(axis=0) > 1e-3
    if fresh.any():
        candidates, away = candidates[fresh], away[:, :, fresh]
    means, sds = posterior.at(away)
    if optimistic:
        score = (means + 2 * sds).mean(axis=0)
    else:
        score = gp.expected_improvement(means, sds, posterior.means_of_runs.max(axis=1))
    chosen: Array = candidates[int(np.argmax(score))]
    return chosen


def run_values(seen: Sequence[FrozenTrial], metric: str, sign: float) -> Array:
    """Return the value of each run, larger is better; bad runs (`_is_seen`) are as bad as the worst whole one."""
    whole = np.array([trial.state == TrialState.COMPLETE for trial in seen])
    metrics = np.array(
        [sign * float(trial.value or 0.0) if there else np.nan for trial, there in zip(seen, whole, strict=True)]
    )
    nlls = np.array([_end_nll(trial) if there else np.nan for trial, there in zip(seen, whole, strict=True)])
    values = METRIC_SHARE * _standardised(metrics) + (1 - METRIC_SHARE) * _standardised(
        -np.log(np.maximum(nlls, 1e-12))
    )
    if np.isnan(nlls[whole]).any():
        values = _standardised(metrics)
    values[~whole] = np.nanmin(values)
    return values


def _standardised(values: Array) -> Array:
    spread = float(np.nanstd(values)) if np.isfinite(values).any() else 0.0
    if not spread > 0:
        return np.where(np.isnan(values), np.nan, 0.0)
    return np.clip((values - np.nanmean(values)) / spread, LOWEST, HIGHEST)


def _end_nll(trial: FrozenTrial) -> float:
    """Return a whole run's last plain NLL, NaN where it reported none."""
    metrics = trial.user_attrs.get(END, {}).get("metrics")
    if metrics is None:
        steps = steps_of(trial)
        metrics = steps[max(steps)].metrics if steps else {}
    value = float(metrics.get(NLL, math.nan))
    return value if math.isfinite(value) else math.nan


def _is_seen(trial: FrozenTrial) -> bool:
    """Return whether something was learnt of a trial: it is whole, was pruned, or diverged (not: crashed)."""
    if trial.state == TrialState.FAIL:
        return any(record.failed for record in steps_of(trial).values())
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _of_a_rare_branch(encoding: Encoding, there: Sequence[FrozenTrial], draws: np.random.Generator) -> Array:
    """Return a setting of the branch that has the fewest trials: of a few random ones the farthest from all trials."""
    counts = [0] * len(encoding.branches)
    for trial in there:
        row = encoding.place(trial.params)
        for index, branch in enumerate(encoding.branches):
            if all(_is_at(encoding, row, gate, choice) for gate, choice in branch.items()):
                counts[index] += 1
    branch = encoding.branches[int(np.argmin(counts))]
    rows = encoding.draw(SPREAD if there else 1, draws, branch)
    if not there:
        return np.asarray(rows[0])
    taken = np.stack([encoding.place(trial.params) for trial in there])
    apart = (encoding.distances(rows, taken) ** 2).sum(axis=0).min(axis=1)
    return np.asarray(rows[int(np.argmax(apart))])


def _is_at(encoding: Encoding, row: Array, gate: int, choice: int) -> bool:
    return bool(row[gate] == (choice + 0.5) / len(encoding.fields[gate].choices))


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
    rows = np.where(np.isnan(rows), draws.random(rows.shape), rows)
    for path, place in given.items():
        rows[:, encoding.paths.index(path)] = place
    return encoding.settled(rows)


def _jittered(encoding: Encoding, row: Array, draws: np.random.Generator) -> Array:
    """Return settings near one: each number moved by a twelfth of its range or so, a choice changed now and then."""
    rows = np.where(np.isnan(row), draws.random((JITTERS, len(row))), row)
    width = 0.08 * np.exp(draws.standard_normal((JITTERS, 1)) * 0.7)
    for index, field in enumerate(encoding.fields):
        if field.kind == "choice":
            changed = draws.random(JITTERS) < 0.1
            rows[changed, index] = draws.random(int(changed.sum()))
        else:
            rows[:, index] += width[:, 0] * draws.standard_normal(JITTERS)
    return encoding.settled(rows)
