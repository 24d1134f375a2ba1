"""Which fields mattered."""

import pytest

from rankray.contracts import Report
from rankray.store import attach, open_study
from rankray.store.importance import importance
from store.helpers import make_config

SPACE = {
    "loss.temperature": {"float": [0.25, 8.0], "log": True},
    "loss.entropy_weight": {"float": [0.0, 2.0]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.objective": {"choice": ["sft", "rri"]},
}


def searched(tmp_path, number, value, early=lambda params: 1.0, direction="minimize"):
    """Return a study of so many trials whose value is a function of their parameters; so is what they report early."""
    url = f"sqlite:///{tmp_path}/store.db"
    pruner = {"name": "median", "n_startup_trials": 1}
    study = open_study(
        url, make_config(space=SPACE, study={"trials": number, "direction": direction, "pruner": pruner})
    )
    with study:
        for _ in range(number):
            ticket = study.next_trial()
            if not study.report(ticket.number, Report(10, {"eval/nll": early(ticket.params)})).stop:
                study.complete(ticket.number, {"eval/nll": value(ticket.params)})
    return attach(url, "s")


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_field_that_decides_comes_first(tmp_path, direction):
    sign = 1 if direction == "minimize" else -1
    study = searched(tmp_path, 40, lambda params: sign * abs(params["loss.temperature"] - 1), direction=direction)
    found = importance(study)
    assert next(iter(found["values"])) == "loss.temperature"
    assert found["values"]["loss.temperature"] > 0.5
    assert sum(found["values"].values()) == pytest.approx(1.0)
    assert found["trials"] == 40


def test_pruned_trials_count(tmp_path):
    """Nearly all of `sft` are pruned: among the complete trials the objective would hardly vary."""

    def early(params):
        return params["loss.temperature"] + (9.0 if params["loss.objective"] == "sft" else 0.0)

    study = searched(tmp_path, 40, lambda params: 1.0, early)
    assert study.counts().pruned > 10
    assert importance(study)["values"]["loss.objective"] > 0.02


def test_too_few_trials_say_nothing(tmp_path):
    found = importance(searched(tmp_path, 4, lambda params: 1.0))
    assert found == {"values": {}, "trials": 4, "why": "it takes 16 finished trials, and there are 4"}
