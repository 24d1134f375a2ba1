"""Worlds: their best setting, their target, their noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rankray.config import Config
from rankray.rehearse.table import Table, read_table
from rankray.rehearse.worlds import synthetic_world, worlds_of
from rankray.store.encoding import Encoding
from rehearse.conftest import NOISE, made_config, rows, true_loss, write_csv


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


def test_the_noise_that_sets_the_target_is_that_of_good_settings(config: Config) -> None:
    """A run that diverges with one seed and not with the other says nothing of how far good settings lie apart."""
    encoding, draws = Encoding(config), np.random.default_rng(1)
    settings = [encoding.params(row) for row in encoding.draw(200, draws)]
    curves = []
    for params in settings:
        loss, noise = true_loss(params), NOISE
        if loss > 1.5:
            loss, noise = loss + 5, 50 * NOISE
        curves.append(np.array([[[loss + draws.normal(0, noise)]] for _ in range(2)]))
    for world in worlds_of(Table((1,), ("eval/nll",), tuple(settings), tuple(curves)), config):
        assert world.seed_sd < 2 * NOISE, world.name


def test_a_target_may_be_as_rare_as_wanted_instead(file: Path, config: Config) -> None:
    world = worlds_of(read_table(file, config), config)[0]
    before, share = world.target, world.share
    world.aim_at(share / 4)
    assert world.share == pytest.approx(share / 4, rel=0.05)
    assert world.sign * world.target > world.sign * before


@pytest.mark.parametrize("metric", ["eval/nll", "eval/accuracy"])
def test_with_one_seed_per_setting_the_target_is_the_best_half_percent(tmp_path: Path, metric: str) -> None:
    """The very best setting is found by nobody, and that says nothing of any strategy."""
    config = made_config(metric=metric)
    table = read_table(write_csv(tmp_path / "a.csv", rows(config, seeds=1)), config)
    for world in worlds_of(table, config):
        assert world.seed_sd == 0
        assert 0.004 < world.share < 0.02, "of a forest, whose values are few, some more"
        assert world.sign * world.target < world.sign * world.best


def test_settings_that_are_equally_good_all_reach_the_target(config: Config) -> None:
    """A mean of equal accuracies is rounded, and what was 1 in every run may be 0.9999999999999998 beside others."""
    encoding, draws = Encoding(config), np.random.default_rng(1)
    settings = [encoding.params(row) for row in encoding.draw(60, draws)]
    curves = tuple(np.full((2, 1, 1), 0.1 if "loss.temperature" in params else 0.7) for params in settings)
    table = Table((1,), ("eval/accuracy",), tuple(settings), curves)
    for world in worlds_of(table, made_config(metric="eval/accuracy")):
        assert 0.3 < world.share < 0.6, world.name
        hit = np.mean([world.reaches(encoding.params(row)) for row in encoding.draw(200, draws)])
        assert hit == pytest.approx(world.share, abs=0.12), world.name


def test_where_no_random_setting_reaches_the_best_recorded_one_the_target_is_the_best_half_percent() -> None:
    """One recorded setting is far better than all others: the nearest neighbours never are as good elsewhere."""
    config = made_config()
    encoding, draws = Encoding(config), np.random.default_rng(2)
    settings = [encoding.params(row) for row in encoding.draw(40, draws)]
    losses = [true_loss(params) for params in settings]
    losses[7] -= 5.0
    curves = tuple(np.full((2, 1, 1), loss) + draws.normal(0, NOISE, (2, 1, 1)) for loss in losses)
    for world in worlds_of(Table((1,), ("eval/nll",), tuple(settings), curves), config):
        assert world.share > 0.0, world.name


def test_a_surrogate_invents_no_setting_that_is_better_than_all_that_was_recorded(config: Config) -> None:
    """Beside runs that diverged, ten times as bad as all others, a plain Gaussian process swings far below them."""
    encoding, draws = Encoding(config), np.random.default_rng(2)
    settings = [encoding.params(row) for row in encoding.draw(120, draws)]
    losses = [true_loss(params) + 30 * (params["train.learning_rate"] > 5e-3) for params in settings]
    curves = tuple(np.full((2, 1, 1), loss) + draws.normal(0, NOISE, (2, 1, 1)) for loss in losses)
    for world in worlds_of(Table((1,), ("eval/nll",), tuple(settings), curves), config):
        assert world.best > min(losses) - 4 * NOISE, world.name


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
