"""Made-up tables, as large as the recorded ones should be: other landscapes than theirs. Synthetic, and called so.

A setting's loss rises from the best point of its objective, by the square of the distance in each field and faster
above the best learning rate than below; objectives and choices differ by constants, fields shift the best rate, and a
few random waves lie over it all. The noise of a seed is such that 0.3 to 1 % of the space lies within one sd of the
best. The families of surrogates are then fitted to 300 settings of two seeds each, as to a recorded table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankray.config import Config
from rankray.config.space import RATE, baseline_points
from rankray.rehearse.table import Table
from rankray.store.encoding import Encoding

Array = NDArray[np.float64]
WAVES = 60


class MadeTruth:
    """One made-up world, by its seed; larger is better."""

    def __init__(self, config: Config, seed: int) -> None:
        self.encoding = Encoding(config)
        fields, draws = self.encoding.fields, np.random.default_rng([77, seed])
        self._objective = self.encoding.paths.index("loss.objective")
        self._rate = self.encoding.paths.index(RATE)
        objectives = len(fields[self._objective].choices)
        self._offsets = {
            index: draws.normal(0, 0.5 if index == self._objective else 0.25, len(field.choices))
            for index, field in enumerate(fields)
            if field.kind == "choice"
        }
        best = draws.uniform(0.3, 0.85, (objectives, len(fields)))
        self._best = best.mean(axis=0) + 0.6 * (best - best.mean(axis=0))
        self._width = np.exp(draws.normal(math.log(0.5), 0.5, len(fields)))
        self._width[self._rate] = math.exp(draws.normal(math.log(0.22), 0.3))
        self._steep = draws.uniform(1.2, 3.0)
        self._shift = draws.normal(0, 0.25, len(fields))
        self._waves = 3.0 * draws.normal(0, 1, (len(fields), WAVES)), draws.uniform(0, 2 * math.pi, WAVES)
        self._heights = 0.2 * draws.normal(0, 1, WAVES) / math.sqrt(WAVES / 2)
        values = self.values(self.encoding.draw(20_000, np.random.default_rng(3)))
        share = math.exp(draws.uniform(math.log(0.003), math.log(0.01)))
        self.seed_sd = float(values.max() - np.quantile(values, 1 - share))
        self._nll_offset = self.seed_sd * draws.normal(0, 1, objectives)

    def values(self, rows: Array) -> Array:
        """Return what settings are worth, without noise."""
        at, objective = np.where(np.isnan(rows), 0.5, rows), self._chosen(rows, self._objective)
        out, off, shift = np.zeros(len(rows)), np.zeros(len(rows)), np.zeros(len(rows))
        for index in range(len(self.encoding.fields)):
            there = ~np.isnan(rows[:, index])
            if index in self._offsets:
                out += np.where(there, self._offsets[index][self._chosen(at, index)], 0.0)
            elif index != self._rate:
                apart = (at[:, index] - self._best[objective, index]) / self._width[index]
                off += np.where(there, 0.5 * apart**2, 0.0)
                shift += np.where(there, self._shift[index] * (at[:, index] - 0.5), 0.0)
        above = (at[:, self._rate] - self._best[objective, self._rate] - shift) / self._width[self._rate]
        off += np.where(above > 0, self._steep * above**2 + 3.0 * (above > 1.2), above**2)
        waves, phases = self._waves
        return np.asarray(out - np.log1p(off) + np.cos(at @ waves + phases) @ self._heights)

    def runs(self, rows: Array, draws: np.random.Generator) -> tuple[Array, Array]:
        """Return metric (larger is better) and NLL of one run of each setting; the NLL is less noisy, and biased."""
        values, noise = self.values(rows), draws.normal(0, 1, (2, len(rows)))
        nll = values + self._nll_offset[self._chosen(rows, self._objective)]
        return values + self.seed_sd * noise[0], -(nll + self.seed_sd * (0.25 * noise[0] + 0.35 * noise[1]))

    def _chosen(self, rows: Array, index: int) -> NDArray[np.intp]:
        count = len(self.encoding.fields[index].choices)
        return np.minimum((rows[:, index] * count).astype(np.intp), count - 1)


def made_table(config: Config, seed: int, settings: int = 300) -> Table:
    """Return a table of made-up runs for a space and a metric: known settings and random ones, two seeds each."""
    truth, draws = MadeTruth(config, seed), np.random.default_rng([5, seed])
    encoding, metric = truth.encoding, config.study.metric
    rows = np.stack(
        [*(encoding.place(params) for _, params in baseline_points(config)), *encoding.draw(settings, draws)]
    )
    names = tuple(dict.fromkeys([metric, "eval/nll"]))
    seeds: list[Any] = []
    for _ in range(2):
        value, nll = truth.runs(rows, draws)
        columns = [-value] if metric == "eval/nll" else [value, nll]
        seeds.append(np.stack(columns, axis=1)[:, None, :])
    curves = np.stack(seeds, axis=1)
    return Table((1,), names, tuple(encoding.params(row) for row in rows), tuple(curves))
