"""The default sampler: stateless, in-flight trials count, bad runs count, and it finds what there is to be found."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from rankray.contracts import Report
from rankray.errors import ConfigError
from rankray.store import auto, open_rehearsal, open_study
from rankray.store.encoding import Encoding
from rankray.store.strategies import check
from store.helpers import FULL, begin, make_config

SPACE: dict[str, Any] = {
    "loss.objective": {"choice": ["sft", "dft", "rri"]},
    "loss.temperature": {"float": [0.25, 4.0], "log": True, "when": {"loss.objective": "rri"}},
    "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
}


def config(**study: Any) -> Any:
    return make_config(space=SPACE, study={"sampler": "auto", "pruner": "auto", "trials": 30, **study})


def loss(params: dict[str, Any]) -> float:
    """A bowl: rri at temperature 0.6 and a rate of 2e-3 is best."""
    off = math.log10(params["train.learning_rate"] / 2e-3) ** 2
    off += 0.5 * math.log2(params["loss.temperature"] / 0.6) ** 2 / 4 if "loss.temperature" in params else 0.4
    return 1.0 + off


def finish(store: Any, ticket: Any, value: Callable[[dict[str, Any]], float] = loss) -> None:
    metrics = {"eval/nll": value(ticket.params)}
    store.report(ticket.number, Report(FULL, metrics))
    store.complete(ticket.number, metrics)


def test_it_finds_the_bottom_of_a_bowl_in_a_few_runs() -> None:
    with open_rehearsal(config()) as store:
        for _ in range(20):
            finish(store, begin(store))
        best = min(loss(trial.params) for trial in store.trials())
    assert best < 1.03, "random search comes this close in one of forty runs"


@pytest.mark.parametrize("seed", range(3))
def test_of_choices_among_numbers_it_learns_as_of_numbers(seed: int) -> None:
    """As choices that have nothing to do with each other, each rate would have to be tried beside each batch size."""
    rates, sizes, decays = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], [4, 8, 16, 32, 64], [0.0, 0.01, 0.02, 0.05, 0.1]

    def far(params: dict[str, Any]) -> float:
        rate, size = rates.index(params["train.learning_rate"]) - 5, sizes.index(params["train.batch_size"]) - 1
        decay, schedule = decays.index(params["train.weight_decay"]) - 3, params["train.schedule"] != "cosine"
        return rate**2 / 6 + size**2 / 8 + decay**2 / 16 + 0.1 * schedule

    space = {
        "train.learning_rate": {"choice": rates},
        "train.batch_size": {"choice": sizes},
        "train.weight_decay": {"choice": decays},
        "train.schedule": {"choice": ["constant", "linear", "cosine"]},
    }
    made = make_config(space=space, study={"sampler": "auto", "pruner": "auto", "trials": 40, "seed": seed})
    with open_rehearsal(made) as store:
        for _ in range(20):
            finish(store, begin(store), far)
        assert min(far(trial.params) for trial in store.trials()) == 0, "one of 525 settings"


def test_the_same_history_gives_the_same_proposal_to_whoever_asks(file_url: str, tmp_path: Any) -> None:
    def points(url: str, per_launch: int) -> list[dict[str, Any]]:
        found = []
        while len(found) < 8:
            with open_study(url, config()) as store:
                for _ in range(per_launch):
                    ticket = begin(store)
                    finish(store, ticket)
                    found.append(ticket.params)
        return found

    assert points(file_url, 8) == points(f"journal:///{tmp_path}/parts", 2)


@pytest.mark.parametrize("whole", [0, 6])
def test_trials_in_flight_count(whole: int) -> None:
    """Sixty-four slots ask one after another, and nothing ends: all points differ, and lie apart."""
    with open_rehearsal(config(trials=100)) as store:
        for _ in range(whole):
            finish(store, begin(store))
        asked = [begin(store).params for _ in range(64)]
    encoding = Encoding(config())
    places = np.stack([encoding.place(params) for params in asked])
    apart = encoding.distances(places, places).max(axis=0)
    assert apart[np.triu_indices(64, 1)].min() > 1e-3
    if not whole:
        rates = sorted(math.log10(params["train.learning_rate"]) for params in asked)
        assert {params["loss.objective"] for params in asked} == {"sft", "dft", "rri"}
        assert max(b - a for a, b in zip([-4.0, *rates], [*rates, -2.0], strict=True)) < 0.5, "no gap of half a decade"


def test_without_known_settings_every_branch_is_tried_first() -> None:
    with open_rehearsal(config()) as store:
        asked = [begin(store).params["loss.objective"] for _ in range(3)]
    assert sorted(asked) == ["dft", "rri", "sft"]


def test_a_small_budget_is_spent_around_the_file_s_own_setting() -> None:
    made = make_config(
        space=SPACE, study={"sampler": "auto", "trials": 4}, train={"max_steps": FULL, "learning_rate": 1e-3}
    )
    with open_rehearsal(made) as store:
        asked = []
        for _ in range(4):
            ticket = begin(store)
            finish(store, ticket)
            asked.append(ticket.params)
    assert [params["train.learning_rate"] for params in asked[:3]] == pytest.approx([1e-3, 3e-3, 1e-3 / 3])
    assert {params["loss.objective"] for params in asked[:3]} == {made.loss.objective}
    assert asked[3] not in asked[:3]


def test_what_diverged_is_a_bad_run_and_what_crashed_is_none(file_url: str) -> None:
    with open_study(file_url, config()) as store:
        for _ in range(3):
            finish(store, begin(store))
        diverged, crashed = begin(store), begin(store)
        store.report(diverged.number, Report(10, {"eval/nll": math.nan}))
        store.fail(crashed.number, "out of memory", retry=False)
        trials = store.trials()
    seen = [trial for trial in trials if trial.params and auto._is_seen(trial)]
    assert [trial.number for trial in seen] == [0, 1, 2, diverged.number]
    values = auto.run_values(seen, "eval/nll", -1.0)
    assert values[3] == values[:3].min()


def test_a_run_is_worth_its_metric_and_its_nll() -> None:
    """0.7 z(accuracy) + 0.3 z(-NLL)."""
    made = make_config(
        space=SPACE,
        study={"sampler": "auto", "metric": "eval/accuracy", "trials": 9},
        evaluate={"every_steps": 10, "metrics": ["accuracy"]},
    )
    figures = [(0.2, 3.0), (0.4, 1.0), (0.6, 2.0)]
    with open_rehearsal(made) as store:
        for accuracy, nll in figures:
            metrics = {"eval/accuracy": accuracy, "eval/nll": nll}
            ticket = begin(store)
            store.report(ticket.number, Report(FULL, metrics))
            store.complete(ticket.number, metrics)
        trials = store.trials()

    wanted = 0.7 * auto.scores(np.array([0.2, 0.4, 0.6])) + 0.3 * auto.scores(np.array([-3.0, -1.0, -2.0]))
    np.testing.assert_allclose(auto.run_values(trials, "eval/accuracy", 1.0), wanted, rtol=1e-12)
    alone = auto.run_values(trials, "eval/accuracy", 1.0, with_nll=False)
    np.testing.assert_allclose(alone, auto.scores(np.array([0.2, 0.4, 0.6])), rtol=1e-12)


def test_nll_decides_where_the_metric_is_the_same_for_all() -> None:
    """An accuracy of 0 everywhere tells nothing: the metric alone would make all settings alike."""
    made = make_config(
        space=SPACE,
        study={"sampler": "auto", "metric": "eval/accuracy", "trials": 9},
        evaluate={"every_steps": 10, "metrics": ["accuracy"]},
    )
    with open_rehearsal(made) as store:
        for nll in (3.0, 1.0, 2.0):
            metrics = {"eval/accuracy": 0.0, "eval/nll": nll}
            ticket = begin(store)
            store.report(ticket.number, Report(FULL, metrics))
            store.complete(ticket.number, metrics)
        trials = store.trials()
    for with_nll in (True, False):
        values = auto.run_values(trials, "eval/accuracy", 1.0, with_nll=with_nll)
        assert np.argsort(values).tolist() == [0, 2, 1]


def test_two_proposals_count_nll_and_the_next_two_the_metric_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best accuracy and the best NLL are of different objectives: counting both always, one would be given up."""
    objectives, rates = ["sft", "dft"], (3e-4, 1e-3, 3e-3)
    made = make_config(
        space={"loss.objective": {"choice": objectives}, "train.learning_rate": SPACE["train.learning_rate"]},
        study={
            "sampler": "auto",
            "metric": "eval/accuracy",
            "trials": 60,
            "known": [{"loss.objective": each, "train.learning_rate": rate} for each in objectives for rate in rates],
        },
        evaluate={"every_steps": 10, "metrics": ["accuracy"]},
    )
    best: dict[int, str] = {}
    real = auto.proposal

    def spy(encoding: Encoding, places: Any, values: Any, draws: Any, given: Any, *, turn: int) -> Any:
        best[turn] = encoding.params(places[int(np.argmax(values))])["loss.objective"]
        return real(encoding, places, values, draws, given, turn=turn)

    monkeypatch.setattr(auto, "proposal", spy)
    with open_rehearsal(made) as store:
        for index in range(6):
            ticket = begin(store)
            of_sft, middle = index < 3, index % 3 == 1
            metrics = {
                "eval/accuracy": 0.3 + 0.2 * middle + 0.01 * (not of_sft),
                "eval/nll": 2.0 - middle - 0.8 * of_sft,
            }
            store.report(ticket.number, Report(FULL, metrics))
            store.complete(ticket.number, metrics)
        for _ in range(6):
            begin(store)
    assert best == {6: "dft", 7: "dft", 8: "sft", 9: "sft", 10: "dft", 11: "dft"}


def test_scores_are_deviations_and_no_outlier_hides_how_far_good_runs_lie_apart() -> None:
    plain = np.array([0.1, 0.2, 0.3, 0.4])
    better = plain[2:]  # the worse half does not say how far they lie apart
    at = (plain - better.mean()) / better.std()
    at[:2] = -1 - np.log(-at[:2])
    np.testing.assert_allclose(auto.scores(plain), (at - at.mean()) / at.std(), rtol=1e-12)
    diverged = auto.scores(np.array([-1e6, *plain, np.nan]))
    assert math.isnan(diverged[-1])
    assert (np.diff(diverged[:-1]) > 0).all()
    assert diverged[4] - diverged[2] > 0.2, "with mean and sd of all of them, 0.0000004"
    assert auto.scores(np.array([3.0, 3.0])).tolist() == [0.0, 0.0]
    np.testing.assert_allclose(auto.scores(7 * plain - 3), auto.scores(plain), rtol=1e-9, err_msg="no unit matters")


def test_a_branch_that_nobody_has_tried_comes_after_what_is_known() -> None:
    """Bad known settings of one objective do not speak for the others."""
    known = [{"loss.objective": "dft", "train.learning_rate": rate} for rate in (7e-3, 8e-3, 9e-3)]
    with open_rehearsal(config(known=known)) as store:
        asked = []
        for _ in range(6):
            ticket = begin(store)
            asked.append(ticket.params["loss.objective"])
            finish(store, ticket)
    assert asked[:3] == ["dft"] * 3
    assert set(asked[3:5]) == {"sft", "rri"}


def test_the_first_setting_of_a_branch_lies_in_the_middle_and_more_of_them_everywhere() -> None:
    encoding = Encoding(config())
    with open_rehearsal(config(trials=100)) as store:
        places = [encoding.place(begin(store).params) for _ in range(40)]
    numbers = [index for index, field in enumerate(encoding.fields) if field.kind != "choice"]
    first, later = np.stack(places[:3])[:, numbers], np.stack(places[3:])[:, numbers]
    assert np.nanmax(np.abs(first - 0.5)) <= 0.1
    assert np.nanmin(later) < 0.1
    assert np.nanmax(later) > 0.9


@pytest.mark.parametrize(
    ("turn", "after", "step", "is_near"),
    [
        pytest.param(4, 12, 1.2, False, id="no better run in twelve"),
        pytest.param(3, 12, 1.05, True, id="each second setting"),
        pytest.param(4, 3, 1.05, True, id="too early to tell"),
        pytest.param(4, 6, 1.05, False, id="six runs of almost the same setting"),
    ],
)
def test_a_search_that_is_stuck_tries_each_second_setting_elsewhere(
    turn: int, after: int, step: float, is_near: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best run is the first, of sft at a middle rate; `after` worse ones follow, at rates `step` times as high."""
    scales = np.full((auto.gp.DRAWS, 3), 0.3), np.full(auto.gp.DRAWS, 0.1)
    monkeypatch.setattr(auto.gp, "drawn_scales", lambda *_: scales)
    encoding, draws = Encoding(config()), np.random.default_rng(5)
    near = [{"loss.objective": "sft", "train.learning_rate": 1e-3 * step**index} for index in range(after + 1)]
    others = [{"loss.objective": "dft", "train.learning_rate": 9e-3}]
    places = np.stack([encoding.place(params) for params in [*near, *others]])
    values = np.array([1.5, *np.full(after, 0.9), -4.0])
    rows = [auto.proposal(encoding, places, values, draws, {}, turn=turn) for _ in range(4)]
    objective, rate = encoding.paths.index("loss.objective"), encoding.paths.index("train.learning_rate")
    close = [row[objective] == places[0, objective] and abs(row[rate] - places[0, rate]) < 0.2 for row in rows]
    assert any(close) == is_near


def test_a_space_of_many_branches_does_not_take_the_whole_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = ["sft", "dft", "talr", "eaft", "rri", "power", "threshold", "deft"]
    space = {
        "loss.objective": {"choice": objectives},
        "loss.temperature": {"float": [0.25, 4.0], "when": {"loss.objective": "rri"}},
        "train.learning_rate": {"float": [1e-4, 1e-2], "log": True},
    }
    counted: list[list[int]] = []
    real = auto._far_away

    def spy(encoding: Any, taken: Any, counts: Any, draws: Any) -> Any:
        counted.append(list(counts))
        return real(encoding, taken, counts, draws)

    monkeypatch.setattr(auto, "_far_away", spy)
    with open_rehearsal(make_config(space=space, study={"sampler": "auto", "trials": 12})) as store:
        for _ in range(6):
            finish(store, begin(store))
    assert [sum(counts) for counts in counted] == [0, 1, 2], "a quarter of twelve trials"
    assert [max(counts) for counts in counted] == [0, 1, 1], "each of another objective"
    assert {len(counts) for counts in counted} == {len(objectives)}


def test_beyond_its_number_of_runs_tpe_proposes(monkeypatch: pytest.MonkeyPatch) -> None:
    made = config(sampler={"name": "auto", "max_runs": 5})
    asked: list[int] = []
    real = TPESampler.sample_relative

    def spy(self: Any, study: Any, trial: Any, space: Any) -> Any:
        asked.append(trial.number)
        return real(self, study, trial, space)

    monkeypatch.setattr(TPESampler, "sample_relative", spy)
    with open_rehearsal(made) as store:
        for _ in range(8):
            finish(store, begin(store))
    assert asked == [6, 7]


def test_a_known_setting_costs_no_proposal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto.AutoSampler, "propose", lambda *given: pytest.fail("the setting is known"))
    study = {"sampler": "auto", "trials": 30, "known": ["sft", "paper"]}
    made = make_config(space=SPACE, study=study, train={"max_steps": FULL, "learning_rate": 1e-3})
    with open_rehearsal(made) as store:
        assert [begin(store).origin for _ in range(2)] == ["baseline:sft", "baseline:paper"]


def test_what_a_known_setting_leaves_open_is_proposed_for_it() -> None:
    """The file's rate lies outside the range, so the baselines have none of their own."""
    with open_rehearsal(config(known=["sft", "paper"])) as store:
        for objective in ("sft", "rri"):
            ticket = begin(store)
            assert ticket.params["loss.objective"] == objective
            assert 1e-4 <= ticket.params["train.learning_rate"] <= 1e-2
            assert ticket.params.get("loss.temperature", 1.0) == 1.0
            finish(store, ticket)


def test_its_options_are_checked() -> None:
    check(config(sampler={"name": "auto", "n_startup_trials": 4}))
    with pytest.raises(ConfigError, match="n_startup_trials is 1, allowed: 2 or more"):
        check(config(sampler={"name": "auto", "n_startup_trials": 1}))


def test_pruned_trials_of_other_pruners_are_learnt_from() -> None:
    with open_rehearsal(config(pruner="successive_halving")) as store:
        for _ in range(12):
            ticket = begin(store)
            value = loss(ticket.params)
            for step in (10, 20, 30, 40):
                if store.report(ticket.number, Report(step, {"eval/nll": value + 1 / step})).stop:
                    break
            else:
                store.complete(ticket.number, {"eval/nll": value})
        trials = store.trials()
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len([trial for trial in trials if auto._is_seen(trial)]) == 12
