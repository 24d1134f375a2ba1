"""The space's distributions are those that Optuna's own `suggest_...` makes."""

from __future__ import annotations

from rankray.store import open_rehearsal
from rankray.store.optuna_space import optuna_distributions
from store.helpers import begin, make_config, stored

SPACE = {
    "loss.objective": {"choice": ["sft", "rri"]},
    "loss.entropy_weight": {"float": [0.0, 2.0], "step": 0.25},
    "train.learning_rate": {"float": [1e-6, 1e-3], "log": True},
    "train.batch_size": {"int": [8, 64], "log": True},
    "train.max_steps": {"int": [8, 64], "step": 8},
}


def test_they_equal_the_ones_a_trial_is_stored_with() -> None:
    config = make_config(space=SPACE)
    with open_rehearsal(config) as store:
        trial = stored(store, begin(store).number)
    assert trial.distributions == optuna_distributions(config)
