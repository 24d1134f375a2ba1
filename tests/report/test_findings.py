"""What a study's overview adds up to."""

from itertools import pairwise

import pytest
from fixtures.overviews import make_overview

from rankray.report.findings import at_edge, cost, edges, failures, objective_of, references, standings, timeline


def put(overview, *trials):
    """Replace the trials of an overview; each is (objective, state, step, value, learning rate)."""
    made = make_overview(len(trials))["trials"]
    overview["trials"] = [
        old
        | {"state": state, "step": step, "value": value, "curve": [[step, value]], "lost": [], "origin": "sampler"}
        | {"params": {"loss.objective": objective, "train.learning_rate": rate}}
        for old, (objective, state, step, value, rate) in zip(made, trials, strict=True)
    ]
    return overview


def test_standings_compare_at_equal_budget_too():
    """`rri` was given 120 steps and `sft` 50: of the first 50 of rri, only its first trial was complete."""
    overview = put(
        make_overview(0),
        ("rri", "complete", 40, 0.5, 1e-3),
        ("sft", "pruned", 10, 0.1, 1e-4),
        ("rri", "complete", 40, 0.9, 9e-3),
        ("sft", "complete", 40, 0.4, 1e-3),
        ("rri", "complete", 40, 0.7, 1e-3),
        ("dft", "failed", 40, None, 1e-3),
        ("eaft", "pruned", 60, 0.2, 1e-3),
    )
    rri, sft, eaft = standings(overview)
    assert (rri.objective, rri.best["number"], rri.within, rri.trials, rri.steps) == ("rri", 2, 0.5, 3, 120)
    assert (sft.objective, sft.best["number"], sft.within, sft.rate) == ("sft", 3, 0.4, 1e-3)
    assert (eaft.objective, eaft.best, eaft.within) == ("eaft", None, None)
    assert rri.at_edge, "9e-3 lies in the last twentieth of 1e-5 to 1e-2"
    assert not sft.at_edge


def test_the_best_follows_the_direction():
    overview = put(make_overview(0), ("rri", "complete", 40, 0.5, 1e-3), ("rri", "complete", 40, 0.9, 1e-3))
    overview["status"]["direction"] = "minimize"
    assert standings(overview)[0].best["value"] == 0.5


@pytest.mark.parametrize(
    ("value", "expected"), [(1e-5, True), (1.3e-5, True), (1e-4, False), (9e-3, True), ("text", False), (None, False)]
)
def test_an_edge_is_a_twentieth_of_the_range(value, expected):
    assert at_edge({"low": 1e-5, "high": 1e-2, "log": True}, value) is expected


def test_a_choice_has_no_edge():
    assert not at_edge({"choices": [1, 2]}, 1)
    assert not at_edge(None, 1.0)
    overview = make_overview(4, states=("complete",))
    overview["recommended"] = overview["best"] | {"params": {"loss.objective": "sft", "loss.entropy_weight": 0.0}}
    assert edges(overview) == ["loss.entropy_weight"]
    overview["space"]["loss.entropy_weight"]["wider"] = ["high"]
    assert edges(overview) == [], "no weight is below zero: there is nothing to widen"
    overview["recommended"]["params"]["loss.entropy_weight"] = 2.0
    assert edges(overview) == ["loss.entropy_weight"]


def test_references_are_complete_baselines_and_the_untrained_model():
    overview = make_overview(4, states=("complete",))
    sft, paper = (overview["trials"][index]["value"] for index in (0, 1))
    assert references(overview) == [("plain SFT", sft), ("the paper's setting", paper)]
    overview["status"]["untrained"] = {"value": 0.01, "metrics": {}}
    assert references(overview)[2] == ("the untrained model", 0.01)
    overview["trials"][0]["state"] = "pruned"
    assert [label for label, _ in references(overview)] == ["the paper's setting", "the untrained model"]


def test_a_warm_start_from_a_study_called_sft_is_no_plain_sft():
    overview = make_overview(4, states=("complete",))
    for trial, name in zip(overview["trials"], ("sft", "paper"), strict=False):
        trial["origin"] = f"warm_start:{name}"
    assert references(overview) == []
    overview["trials"][3]["origin"] = "confirm:decide:sft"
    assert references(overview) == [("plain SFT", overview["trials"][3]["value"])]


def test_failures_are_grouped_by_the_first_line():
    overview = make_overview(5, states=("failed",))
    overview["trials"][1]["reason"] = ""
    assert failures(overview) == [("OutOfMemoryError: no room", [0, 2, 3, 4]), ("no reason is stored", [1])]


def test_cost_counts_all_stretches_and_what_each_reserves():
    overview = make_overview(4, states=("pruned",))
    for trial in overview["trials"]:
        trial["step"] = 10
    spent = cost(overview)
    assert spent.trial_hours == pytest.approx(4 * 9 / 3600)
    assert spent.wall_hours == pytest.approx(19 / 3600)
    assert spent.cpu_hours == pytest.approx(4 * 9 / 3600 * 2 * 1.5)
    assert spent.gpu_hours == pytest.approx(4 * 9 / 3600 * 2 * 0.5)
    assert (spent.steps, spent.saved_steps, spent.lost_steps) == (40, 120, 3)
    assert cost(make_overview(0)).wall_hours == 0.0


def test_the_timeline_puts_trials_on_as_few_slots_as_ran_at_a_time():
    """Two at a time on one node; on a node each, every node has one slot."""
    overview = make_overview(40)
    assert {(each.node[:8], each.slot) for each in timeline(overview)} == {("10.0.0.1", 0), ("10.0.0.2", 0)}
    for trial in overview["trials"]:
        for stretch in trial["stretches"]:
            del stretch["node"], stretch["lost"]  # as of an earlier version
    placed = timeline(overview)
    assert {each.slot for each in placed} == {0, 1}
    for slot in (0, 1):
        of_it = [each for each in placed if each.slot == slot]
        assert all(one.end <= other.start for one, other in pairwise(of_it))
    resumed = [each.number for each in placed if each.resumed]
    assert resumed == [3, 20, 37]
    assert [each.number for each in placed if each.interrupted] == resumed


def test_a_running_trial_lasts_to_the_latest_moment_that_is_known():
    overview = make_overview(3, states=("complete", "complete", "running"))
    running = timeline(overview)[-1]
    assert running.number == 2
    assert running.end >= max(each.end for each in timeline(overview))


def test_an_objective_that_is_not_searched_is_the_configured_one():
    overview = make_overview(1)
    assert objective_of(overview, {"params": {}}) == "rri"


def test_of_a_range_of_workers_the_most_are_counted_as_the_budget_counts_them():
    overview = make_overview(4, states=("complete",))
    fixed = cost(overview)
    overview["config"]["resources"]["workers"] = [1, 2]
    assert cost(overview) == fixed


def test_what_pruning_saved_is_counted_by_the_steps_that_a_trial_was_to_have():
    overview = make_overview(4, states=("pruned",))
    for trial in overview["trials"]:
        trial["step"], trial["params"]["train.max_steps"] = 10, 25
    assert cost(overview).saved_steps == 4 * 15
    overview["config"]["study"]["seeds"] = 2
    assert cost(overview).saved_steps == 4 * 40
