"""What a trial would report: a world has a curve without noise for every setting, and noise for every run.

A world of a table takes its curves from a surrogate (`surrogates`) and its noise from the table's pairs of seeds: half
of the difference of two runs of a setting near by, all steps and metrics together, of either sign. A synthetic world
is made up, a bowl whose optimum is drawn from a seed, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Config
from rankray.rehearse.surrogates import FAMILIES, Predictor
from rankray.rehearse.table import Table

if TYPE_CHECKING:
    from rankray.store.encoding import Encoding

Array = NDArray[np.float64]
DRAWN = 20_000
"""Settings drawn to find the best one, and how large a share of the space is as good."""
NEAR_PAIRS = 20
BEST_PART, LEAST_PAIRS = 0.1, 30
"""The part of the settings, the best ones, whose pairs of seeds say what one seed sd is; so many pairs at least."""
SAME = 1e-9
"""By how much two values may differ, relative to their size, and be one: families compute means of recorded ones."""
NOISELESS_SHARE = 0.005
"""The share of the space that the target is where the noise is unknown; else that share is about as large."""


class World:
    """A world to search in.

    Args:
        name: the family, or `synthetic` and a seed.
        config: its space and metric are used.
        steps: at which a trial reports; the last one ends it.
        metrics: what it reports.
        predict: rows of the unit cube to curves, flattened (steps, metrics).
        noise_rows: settings whose noise is known; (settings, fields).
        noise: of those settings; (settings, steps, metrics).
        known: recorded settings, of which one may be the best.

    Attributes:
        best: the study's metric of the best setting, without noise, at the last step.
        seed_sd: the standard deviation of the metric between seeds near the best setting: over the pairs of the best
            tenth of the settings. Settings far from it differ more between seeds, up to those that diverge.
        target: what a setting must reach without noise: the best, less one `seed_sd`; or what NOISELESS_SHARE of the
            space reaches, where the noise is unknown or no random setting of DRAWN reaches the other one.
        share: how much of the space reaches it.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        steps: tuple[int, ...],
        metrics: tuple[str, ...],
        predict: Predictor,
        noise_rows: Array,
        noise: Array,
        known: Array,
    ) -> None:
        from rankray.store.encoding import Encoding

        self.name, self.steps, self.metrics = name, steps, metrics
        self._encoding: Encoding = Encoding(config)
        self._predict, self._noise_rows, self._noise = predict, noise_rows, noise
        self._at = metrics.index(config.study.metric)
        self.sign = 1.0 if config.direction == "maximize" else -1.0
        draws = np.random.default_rng(3)
        drawn = self._last(self._encoding.draw(DRAWN, draws))
        self.best = float((self.sign * np.concatenate([drawn, self._last(known)])).max() * self.sign)
        self.seed_sd = self._spread_of_seeds()
        self._drawn = self.sign * drawn
        self.target = self.best - self.sign * self.seed_sd
        self.share = float(self._are_enough(self._drawn).mean())
        if not len(noise) or not self.share:
            self.aim_at(NOISELESS_SHARE)

    def aim_at(self, share: float) -> None:
        """Make the target what this share of the space reaches, whatever the noise is."""
        self.target = self.sign * float(np.quantile(self._drawn, 1 - share))
        self.share = float(self._are_enough(self._drawn).mean())

    def true_value(self, params: Mapping[str, Any]) -> float:
        """Return the study's metric of a setting at the last step, without noise."""
        return float(self._last(self._encoding.place(params)[None])[0])

    def reaches(self, params: Mapping[str, Any]) -> bool:
        """Return whether a setting is as good as the target."""
        return bool(self._are_enough(self.sign * np.array([self.true_value(params)]))[0])

    def run(self, params: Mapping[str, Any], draws: np.random.Generator) -> list[dict[str, float]]:
        """Return what one training run of a setting reports, one dict per step."""
        row = self._encoding.place(params)[None]
        curve = self._predict(row)[0].reshape(len(self.steps), len(self.metrics))
        if len(self._noise):
            apart = (self._encoding.distances(row, self._noise_rows)[:, 0] ** 2).sum(axis=0)
            near = np.argsort(apart, kind="stable")[:NEAR_PAIRS]
            curve = curve + self._noise[draws.choice(near)] * draws.choice([-1.0, 1.0])
        return [dict(zip(self.metrics, map(float, values), strict=True)) for values in curve]

    def _are_enough(self, values: Array) -> NDArray[np.bool_]:
        """Return which values, larger is better, reach the target; means of equal numbers may be rounded below it."""
        target = self.sign * self.target
        return np.asarray(values >= target - SAME * max(abs(target), abs(self.best)))

    def _last(self, rows: Array) -> Array:
        if not len(rows):
            return np.zeros(0)
        curves = self._predict(rows).reshape(len(rows), len(self.steps), len(self.metrics))
        return np.asarray(curves[:, -1, self._at])

    def _spread_of_seeds(self) -> float:
        if not len(self._noise):
            return 0.0
        values = self.sign * self._last(self._noise_rows)
        best = np.argsort(-values, kind="stable")[: max(LEAST_PAIRS, math.ceil(BEST_PART * len(values)))]
        return math.sqrt(float((self._noise[best, -1, self._at] ** 2).mean()))


def worlds_of(table: Table, config: Config, families: Mapping[str, Any] = FAMILIES) -> list[World]:
    """Return one world per family, all fitted to the same table; the study's metric is the last of each step."""
    from rankray.store.encoding import Encoding

    encoding = Encoding(config)
    rows = np.stack([encoding.place(params) for params in table.settings])
    order = sorted(range(len(table.metrics)), key=lambda index: table.metrics[index] == config.study.metric)
    means = table.means[:, :, order]
    pairs = [(index, noise[:, order]) for index, noise in table.pairs()]
    noise_rows = rows[[index for index, _ in pairs]] if pairs else np.zeros((0, rows.shape[1]))
    noise = np.stack([each for _, each in pairs]) if pairs else np.zeros((0, *means.shape[1:]))
    return [
        World(
            name,
            config,
            table.steps,
            tuple(table.metrics[index] for index in order),
            fit(encoding, rows, means.reshape(len(rows), -1)),
            noise_rows,
            noise,
            rows,
        )
        for name, fit in families.items()
    ]


def synthetic_world(config: Config, seed: int, reports: int | None = None) -> World:
    """Return a made-up world: a bowl in the unit cube, approached exponentially over the steps, with noise.

    Args:
        config: its space, steps and metric are used.
        seed: draws the optimum, how much each field matters, and the noise.
        reports: how often a trial reports; what the configuration says, if None.
    """
    from rankray.store.encoding import Encoding

    encoding = Encoding(config)
    draws = np.random.default_rng(seed)
    centre, weight = draws.uniform(0.15, 0.85, len(encoding.fields)), draws.uniform(0.3, 1.5, len(encoding.fields))
    full, every = config.full_steps, config.evaluate.every_steps
    steps = tuple(sorted({*range(every, full, every), full}))
    if reports is not None:
        steps = tuple(sorted({max(1, full * index // reports) for index in range(1, reports + 1)}))
    sign = 1.0 if config.direction == "maximize" else -1.0
    metrics = tuple(dict.fromkeys([config.study.metric, "eval/nll"]))
    left = np.array([2.0 * math.exp(-4.0 * step / full) for step in steps])

    def predict(rows: Array) -> Array:
        middle = np.where(np.isnan(rows), centre, rows)
        off = ((middle - centre) ** 2 * weight).sum(axis=1)
        loss = 1.0 + off[:, None] + left[None, :]
        curves = [loss if name == "eval/nll" and config.study.metric != name else -sign * loss for name in metrics]
        return np.stack(curves, axis=2).reshape(len(rows), -1)

    noise_rows = encoding.draw(64, draws)
    noise = draws.normal(0.0, 0.02, (64, len(steps), len(metrics)))
    return World(f"synthetic {seed}", config, steps, metrics, predict, noise_rows, noise, noise_rows[:0])
