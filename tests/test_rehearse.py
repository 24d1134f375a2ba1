"""A whole search in virtual time."""

import pytest

from rankray.config import Config
from rankray.errors import UserError
from rankray.rehearse import compare, recorded_curve, rehearse, synthetic_curve, unit


@pytest.fixture
def config():
    return Config.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "train": {"max_steps": 40},
            "evaluate": {"every_steps": 10},
            "space": {
                "loss.temperature": {"float": [0.25, 8.0], "log": True},
                "loss.base": {"choice": ["one", "prob"]},
            },
            "study": {"trials": 12, "pruner": "median"},
        }
    )


def test_the_budget_is_exact_and_pruning_saves_steps(config):
    as_is, unpruned, chance = compare(config, synthetic_curve(config))
    assert as_is.complete + as_is.pruned == unpruned.complete == chance.complete == 12
    assert as_is.pruned > 0
    assert as_is.steps < unpruned.steps == 12 * 40
    assert unpruned.virtual_steps == 6 * 40, "two trials at a time"


def test_it_is_repeatable(config):
    assert rehearse(config, synthetic_curve(config, 3)) == rehearse(config, synthetic_curve(config, 3))


def test_the_direction_is_respected(config):
    study = config.study.model_copy(update={"direction": "maximize"})
    config = config.model_copy(update={"study": study})
    result = rehearse(config, lambda params, step: params["loss.temperature"])
    assert result.best > 4.0


def test_recorded_curves_are_those_of_the_nearest_trial(config):
    def row(number, temperature, values):
        steps = [{"step": 10 * i, "metrics": {"eval/nll": v}} for i, v in enumerate(values, start=1)]
        return {"number": number, "state": "complete", "params": {"loss.temperature": temperature}, "steps": steps}

    curve = recorded_curve(config, [row(0, 0.5, [3, 2]), row(1, 6.0, [5, 4])])
    assert (curve({"loss.temperature": 0.4}, 10), curve({"loss.temperature": 7.0}, 40)) == (3, 4)
    with pytest.raises(UserError, match="no complete trial"):
        recorded_curve(config, [])


def test_unit_places_values(config):
    from rankray.config.space import distributions

    space = distributions(config)
    assert unit(space["loss.temperature"], 0.25) == 0
    assert unit(space["loss.temperature"], 8.0) == 1
    assert unit(space["loss.base"], "prob") == 1
