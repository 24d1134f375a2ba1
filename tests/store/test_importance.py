"""Which fields mattered."""

import math

import numpy as np
import pytest

from rankray.contracts import Report
from rankray.store import attach, open_study
from rankray.store import importance as importance_file
from rankray.store.encoding import Encoding
from rankray.store.importance import importance, main_effects, merit_scores
from store.helpers import make_config

SPACE = {
    "loss.temperature": {"float": [0.25, 8.0], "log": True},
    "loss.entropy_weight": {"float": [0.0, 2.0]},
    "loss.form": {"choice": ["bound", "exact"], "when": {"loss.objective": "rri"}},
    "loss.objective": {"choice": ["sft", "rri"]},
}


def searched(tmp_path, number, value, early=lambda params: 1.0, direction="minimize", known=()):
    """Return a study of so many trials whose value is a function of their parameters; so is what they report early."""
    url = f"sqlite:///{tmp_path}/store.db"
    pruner = {"name": "median", "n_startup_trials": 1}
    made = {"trials": number, "direction": direction, "pruner": pruner, "known": list(known)}
    study = open_study(url, make_config(space=SPACE, study=made))
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


def test_equal_trials_share_a_place(tmp_path):
    """Of many that are as good, those that came first are not the best: the known settings always come first."""
    found = importance(searched(tmp_path, 40, lambda params: 0.0))
    assert found == {"values": {}, "trials": 40, "why": "these trials do not tell the searched fields apart"}


def test_a_metric_of_few_values_shows_what_decides(tmp_path):
    found = importance(searched(tmp_path, 60, lambda params: float(params["loss.objective"] == "sft")))
    assert next(iter(found["values"])) == "loss.objective"


def test_what_a_search_settles_on_did_not_decide(tmp_path):
    """Temperature decides. A search that has found the best one stays there, at a low entropy weight by chance."""

    def rri(temperature, weight):
        fixed = {"loss.objective": "rri", "loss.form": "exact"}
        return {**fixed, "loss.temperature": temperature, "loss.entropy_weight": weight}

    spread = [rri(0.3 * 1.18**i, i * 7 % 20 / 10) for i in range(20)]
    settled = [rri(1.0 + i / 999, i / 99) for i in range(10)]
    study = searched(tmp_path, 30, lambda params: abs(math.log(params["loss.temperature"])), known=[*spread, *settled])
    found = importance(study)
    assert found["trials"] == 30
    assert next(iter(found["values"])) == "loss.temperature"
    assert found["values"]["loss.temperature"] > 0.5, "more than all others together"


def test_the_shares_are_those_of_functional_anova():
    """Of 2 x + y on a fine grid; what is worse than the median counts as the median."""
    space = {path: {"float": [0, 1]} for path in ("train.warmup_ratio", "train.weight_decay")}
    encoding, ticks = Encoding(make_config(space=space)), (np.arange(400) + 0.5) / 400
    rows = np.stack([each.ravel() for each in np.meshgrid(ticks, ticks, indexing="ij")], axis=1)
    values = 2 * rows[:, 0] + rows[:, 1]
    found = main_effects(encoding, rows, np.where(values > np.quantile(values, 0.4), values, -1e9))
    clipped = np.maximum(values, np.median(values)).reshape(10, 40, 10, 40)
    wanted = [clipped.mean(axis=(1, 2, 3)).var(), clipped.mean(axis=(0, 1, 3)).var()]
    assert list(found.values()) == pytest.approx(wanted, rel=2e-3)
    assert wanted[0] > 3 * wanted[1]


def test_equal_merits_share_a_score():
    scores = merit_scores([3, 1, 1, 2])
    assert scores[1] == scores[2] > scores[3] > scores[0]
    assert merit_scores([0, 0, 0]).tolist() == [0, 0, 0]
    assert scores.mean() == pytest.approx(0, abs=1e-12)
    assert scores.std() == pytest.approx(1)


def test_thousands_of_trials_are_looked_at_in_part(monkeypatch, tmp_path):
    monkeypatch.setattr(importance_file, "MOST", 20)
    found = importance(searched(tmp_path, 60, lambda params: float(params["loss.objective"] == "sft")))
    assert found["trials"] == 20
    assert next(iter(found["values"])) == "loss.objective"


def test_too_few_trials_say_nothing(tmp_path):
    found = importance(searched(tmp_path, 4, lambda params: 1.0))
    assert found == {"values": {}, "trials": 4, "why": "it takes 16 finished trials, and there are 4"}
