"""One search in virtual time: exact budget, honest costs, the real store."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankray.config import Config
from rankray.errors import ConfigError
from rankray.rehearse.replay import configured, replay
from rankray.rehearse.table import read_table
from rankray.rehearse.worlds import World, synthetic_world, worlds_of
from rankray.store import open_study
from rehearse.conftest import made_config


@pytest.fixture
def world(file: Path, config: Config) -> World:
    return worlds_of(read_table(file, config), config)[0]


def played(config: Config, world: World, strategy: str, **given: Any) -> Any:
    made = configured(config, strategy, world, given.pop("trials", 12), seed=1)
    return replay(made, world, **{"slots": 2, "seed": 1, **given})


def test_the_budget_is_exact_and_pruning_saves_reports(config: Config, world: World) -> None:
    whole, pruned = played(config, world, "tpe"), played(config, world, "tpe+successive_halving")
    assert (whole.complete, whole.pruned, whole.spent, whole.wall) == (12, 0, 12.0, 6.0)
    assert pruned.complete + pruned.pruned == 12
    assert pruned.pruned > 0
    assert pruned.spent < 12
    assert len(whole.ask_seconds) == 12
    assert len(whole.report_seconds) == 36


def test_it_is_repeatable_and_seeds_differ(config: Config, world: World) -> None:
    first, again, other = (played(config, world, "auto", seed=seed) for seed in (3, 3, 4))
    assert (first.found, first.chosen) == (again.found, again.chosen)
    assert first.complete == other.complete


def test_the_cost_is_counted_until_the_whole_run_of_a_good_setting_ends(config: Config, world: World) -> None:
    """The known setting is the best there is: it is found after one full run, with two at a time after two."""
    best = {"loss.objective": "rri", "loss.temperature": 1.0, "train.learning_rate": 1e-3}
    easy = made_config(known=[best])
    world.target = world.true_value(best)
    alone, beside = (played(easy, world, "auto", slots=slots) for slots in (1, 2))
    assert (alone.found, beside.found) == (1.0, pytest.approx(2 - 1 / 3, abs=0.34))
    world.target = -math.inf
    never = played(easy, world, "auto")
    assert (never.found, never.chosen) == (math.inf, math.inf)


def test_a_replay_may_end_when_the_target_is_found(config: Config, world: World) -> None:
    best = {"loss.objective": "rri", "loss.temperature": 1.0, "train.learning_rate": 1e-3}
    world.target = world.true_value(best)
    made = configured(made_config(known=[best]), "auto", world, 12, 0)
    assert replay(made, world, slots=1, seed=0, enough=0.0).spent == 1.0
    assert replay(made, world, slots=1, seed=0).complete == 12


def test_what_is_chosen_is_chosen_by_what_was_reported(config: Config, world: World) -> None:
    """A bad setting that is lucky takes the place of the good one, and the cost of choosing is infinite."""
    good = {"loss.objective": "rri", "loss.temperature": 1.0, "train.learning_rate": 1e-3}
    lucky = {"loss.objective": "sft", "train.learning_rate": 1e-4}
    world.target = world.true_value(good)
    real = world.run

    def run(params: dict[str, Any], draws: np.random.Generator) -> list[dict[str, float]]:
        if params == lucky:
            return [{"eval/nll": 0.0, "eval/accuracy": 1.0} for _ in world.steps]
        return real(params, draws)

    world.run = run  # type: ignore[method-assign]
    result = played(made_config(known=[good, lucky]), world, "auto", slots=1, trials=4)
    assert result.found == 1.0
    assert result.chosen == math.inf


def test_random_starts_with_nothing_known_and_others_with_the_file_s() -> None:
    config = made_config(known=["sft", "paper"])
    world = synthetic_world(config, 0)
    assert configured(config, "random", world, 5, 0).study.known == []
    assert configured(config, "tpe", world, 5, 0).study.known == ["sft", "paper"]
    made = configured(config, "file+median", world, 5, 7)
    assert (made.study.sampler, made.study.pruner, made.study.seed) == (config.study.sampler, "median", 7)
    assert configured(config, "auto", world, 5, 0).study.pruner == "auto"
    assert configured(config, "tpe", world, 5, 0).study.pruner == "none"


@pytest.mark.parametrize(("strategy", "says"), [("rnadom", "did you mean 'random'"), ("tpe+halving", "got 'halving'")])
def test_an_unknown_strategy_is_answered_with_the_known_ones(strategy: str, says: str, config: Config) -> None:
    with pytest.raises(ConfigError, match=says):
        configured(config, strategy, synthetic_world(config, 0), 5, 0)


def test_a_world_without_the_metric_to_prune_on_prunes_on_its_own(config: Config) -> None:
    world = synthetic_world(made_config(metric="eval/accuracy", prune_on="eval/accuracy"), 0)
    world.metrics = ("eval/accuracy",)
    assert configured(made_config(metric="eval/accuracy"), "auto", world, 5, 0).study.prune_on == "eval/accuracy"


def test_a_real_store_is_driven_in_the_same_way(config: Config, world: World, tmp_path: Path) -> None:
    made = configured(config, "tpe+successive_halving", world, 8, 1)
    url = f"sqlite:///{tmp_path}/s.db"
    kept = replay(made, world, slots=2, seed=1, opened=lambda given: open_study(url, given))
    in_memory = replay(made, world, slots=2, seed=1)
    assert (kept.complete, kept.pruned, kept.found, kept.spent) == (
        in_memory.complete, in_memory.pruned, in_memory.found, in_memory.spent,
    )  # fmt: skip
    with open_study(url, made) as study:
        assert study.finished == 8


def test_made_up_curves_of_one_metric_end_a_search_of_several() -> None:
    """Trials without the other metric would fail, one after another, for ever."""
    config = made_config(metrics=["eval/nll", "eval/accuracy"])
    found = played(config, synthetic_world(config, 0), "random", trials=5)
    assert (found.complete, found.spent) == (5, 5.0)


def test_several_metrics_that_are_recorded_are_searched(file: Path) -> None:
    config = made_config(metrics=["eval/nll", "eval/accuracy"])
    world = worlds_of(read_table(file, config), config)[0]
    assert configured(config, "tpe", world, 5, 0).study.metrics == ["eval/nll", "eval/accuracy"]
    assert played(config, world, "tpe", trials=5).complete == 5
