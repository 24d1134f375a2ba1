"""Worlds: their best setting, their target, their noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankray.config import Config
from rankray.rehearse.table import read_table
from rankray.rehearse.worlds import synthetic_world, worlds_of
from rankray.store.encoding import Encoding
from rehearse.conftest import NOISE, made_config, true_loss


def test_a_world_knows_its_best_its_noise_and_how_rare_its_target_is(file: Path, config: Config) -> None:
    draws = np.random.default_rng(0)
    encoding = Encoding(config)
    for world in worlds_of(read_table(file, config), config):
        assert world.seed_sd == pytest.approx(NOISE, rel=0.35)
        assert world.target == pytest.approx(world.best + world.seed_sd)
        assert 1.3 < world.best < 1.5, "10 / 30 above the best possible loss of 1, and the noise of a few runs"
        drawn = [encoding.params(row) for row in encoding.draw(500, draws)]
        hit = np.mean([world.reaches(params) for params in drawn])
        assert hit == pytest.approx(world.share, abs=0.05)
        good, bad = {"loss.objective": "rri", "loss.temperature": 1.0, "train.learning_rate": 1e-3}, drawn[0]
        assert (world.true_value(good) < world.true_value(bad)) == (true_loss(good) < true_loss(bad))


def test_a_run_differs_from_the_curve_by_the_noise_of_a_pair(file: Path, config: Config) -> None:
    world = worlds_of(read_table(file, config), config)[0]
    params = {"loss.objective": "sft", "train.learning_rate": 1e-3}
    runs = [world.run(params, np.random.default_rng([1, number])) for number in range(200)]
    off = np.array([run[-1]["eval/nll"] - world.true_value(params) for run in runs])
    assert abs(off.mean()) < 3 * NOISE / np.sqrt(200) * 2
    assert off.std() == pytest.approx(NOISE, rel=0.5)
    assert world.run(params, np.random.default_rng([1, 3])) == runs[3], "the same draw is the same run"


def test_a_metric_that_is_maximised_has_its_target_below_its_best(file: Path) -> None:
    config = made_config(metric="eval/accuracy")
    world = worlds_of(read_table(file, config), config)[0]
    assert world.sign == 1.0
    assert world.target == pytest.approx(world.best - world.seed_sd)
    assert 0 < world.share < 0.5


@pytest.mark.parametrize("metric", ["eval/nll", "eval/accuracy"])
def test_a_made_up_world_gets_better_with_the_steps_and_says_that_it_is_made_up(metric: str) -> None:
    config = made_config(metric=metric)
    world = synthetic_world(config, 4)
    assert world.name.startswith("synthetic")
    assert (world.steps, set(world.metrics)) == ((10, 20, 30, 40), {metric, "eval/nll"})
    run = world.run({"loss.objective": "sft", "train.learning_rate": 1e-3}, np.random.default_rng(0))
    assert run[0]["eval/nll"] > run[-1]["eval/nll"]
    assert synthetic_world(config, 4, reports=10).steps == tuple(range(4, 41, 4))
    assert synthetic_world(config, 4).best == world.best != synthetic_world(config, 5).best
