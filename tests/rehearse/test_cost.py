"""What a rehearsed search costs in hours, and that the recipes' figures are these."""

import json
import re
from pathlib import Path

import pytest

from rankray.config import apply_params
from rankray.rehearse.cost import gpus_of_trial, hours, run_hours
from rehearse.conftest import made_config

RECIPES = sorted((Path(__file__).resolve().parents[2] / "search_spaces" / "recipes").glob("*.yaml"))
COST = re.compile(r"# Cost: (\d+) trials, ([\d.]+) GPU-hours by `rankray rehearse ([^`]+)` with made-up curves\.")


def test_hours_of_a_run_and_of_a_search():
    config = made_config()
    changes = {"train.max_steps": 100, "evaluate.every_steps": 30, "study.seeds": 2}
    config = apply_params(config, {**changes, "resources.workers": 4, "resources.gpus_per_worker": 0.5})
    run = run_hours(config, 9.0, 45.0)
    assert run == pytest.approx(2 * (100 * 9 + 4 * 45) / 3600)
    assert gpus_of_trial(config) == 2.0
    assert hours(config, spent_runs=7.5, wall_runs=3.0, run=run) == {"run": 0.6, "wall": 1.8, "gpu": 9.0}


def test_with_a_range_of_workers_it_is_the_most():
    config = apply_params(made_config(), {"resources.workers": [2, 8], "resources.gpus_per_worker": 1})
    assert gpus_of_trial(config) == 8


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*words):
        from rankray.cli.app import main

        monkeypatch.setattr("sys.argv", ["rankray", "rehearse", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_a_recipe_costs_what_a_rehearsal_says(recipe, command):
    """Of random search, which the file's own is hardly below: what converges is not pruned."""
    found = COST.search(recipe.read_text())
    assert found, f"{recipe.name} says no cost that a rehearsal can give"
    trials, gpu_hours, options = found.groups()
    words = [recipe, *options.split(), "--seeds", 1, "--strategies", "random"]
    [strategy] = json.loads(command(*words, "--json").splitlines()[-1])["strategies"]
    assert strategy["spent"]["median"] == int(trials)
    assert f"{strategy['hours']['gpu']:.3g}" == gpu_hours
    if recipe == RECIPES[0]:
        assert f"the search {strategy['hours']['wall']:.3g} h, {gpu_hours} GPU-hours" in command(*words)
