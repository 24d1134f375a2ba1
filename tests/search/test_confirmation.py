"""The procedure of a confirmation, on runs that are drawn and not trained."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace
from typing import Any

import pytest

from rankray.config import Config
from rankray.config.space import RATE
from rankray.errors import ConfigError, SearchFailed
from rankray.search.candidates import DATA, SEED, Candidate, confirmation_config
from rankray.search.confirmation import Confirmation, Options, Plan
from rankray.store.confirmation import Run
from search.confirming import Claims, play

RATES = (1e-3, 3e-3, 3e-4, 1e-2, 1e-4)
SPACE = {"loss.objective": {"choice": ["sft", "rri"]}, RATE: {"float": [1e-5, 1e-1], "log": True}}


def made(options: Options, *, test: str | None = "t.jsonl", edge: bool = False, minimize: bool = True) -> Confirmation:
    config = Config.model_validate(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "e.jsonl", "test": test},
            "space": SPACE,
            "evaluate": {"metrics": ["nll", "accuracy"]},
            "study": {"metric": "eval/nll" if minimize else "eval/accuracy"},
        }
    )
    count = options.finalists
    best = [Candidate({"loss.objective": "rri", RATE: rate}, number, 0.5) for number, rate in enumerate(RATES[:count])]
    rates = (1e-5, *RATES[1:]) if edge else RATES
    plain = [Candidate({"loss.objective": "sft", RATE: rate}, None, None) for rate in rates[:count]]
    plan = Plan(options, best, plain, "e.jsonl", test or "e.jsonl", "salt", [0], 20)
    claims: Any = Claims()
    return Confirmation(confirmation_config(config, "s.confirm"), Plan.from_json(plan.to_json()), claims)


def rri_better(by: float) -> Any:
    return lambda params: 1.0 - by * (params["loss.objective"] == "rri")


def test_it_chooses_on_eval_and_decides_on_test_with_new_seeds() -> None:
    confirmation = made(Options())
    runs = play(confirmation, rri_better(2.0), 0.1)
    origins = [run.origin for run in runs]
    assert len(runs) == 5 * 2 + 5 * 2 + 8 * 2
    assert origins.count("confirm:decide:setting") == origins.count("confirm:decide:sft") == 8
    assert len({run.seed for run in runs}) == len(runs)
    data = {(origin.split(":")[1], params[DATA]) for origin, params in confirmation.points(runs)}
    assert data == {("choose", "e.jsonl"), ("decide", "t.jsonl")}


@pytest.mark.parametrize(
    ("by", "minimize", "word"),
    [(1.0, True, "better"), (-1.0, True, "worse"), (1.0, False, "worse"), (-1.0, False, "better")],
)
def test_the_verdict_has_the_shape_of_the_design(by: float, minimize: bool, word: str) -> None:
    confirmation = made(Options(), minimize=minimize)
    found = confirmation.verdict(play(confirmation, rri_better(by), 0.1), "s")
    assert found is not None
    assert (found["study"], found["seeds"], found["verdict"]["word"]) == ("s", 8, word)
    for each in (found["finalists"][0], found["baseline"]):
        assert len(each["values"]) == 8
        assert each["interval"][0] < each["mean"] < each["interval"][1]
    assert [each["chosen"] for each in found["finalists"]] == [True, False, False, False, False]
    low, high = found["verdict"]["interval"]
    difference = found["finalists"][0]["mean"] - found["baseline"]["mean"]
    assert low < found["verdict"]["difference"] < high
    assert found["verdict"]["difference"] == pytest.approx(difference)
    assert found["verdict"]["text"].startswith(f"{word}: {found['metric']} ")
    assert "over 8 new seeds each, on data.test" in found["verdict"]["text"]


def test_without_test_data_it_says_so_and_how_optimistic_the_search_was() -> None:
    confirmation = made(Options(), test=None)
    found = confirmation.verdict(play(confirmation, rri_better(0.1), 0.05), "s")
    assert found is not None
    assert found["data"] == {"source": "e.jsonl", "is_test": False, "split": "data.eval"}
    assert "data.eval, which the search has seen" in found["verdict"]["text"]
    assert found["optimism"] == pytest.approx(found["finalists"][0]["mean"] - 0.5)
    assert "optimistic by about 0.4" in found["verdict"]["text"]


@pytest.mark.parametrize("minimize", [True, False])
def test_how_optimistic_the_search_was_does_not_depend_on_who_was_chosen(minimize: bool) -> None:
    """Settings that are all alike: the one chosen on two seeds is the luckiest of five, and would seem underrated."""
    truth = 0.6 if minimize else 0.4
    found = []
    for world in range(150):
        confirmation = made(Options(), minimize=minimize)
        verdict = confirmation.verdict(play(confirmation, lambda params: truth, 0.05, world), "s")
        assert verdict is not None
        found.append(verdict["optimism"])
        said = "the search's own figures for the 5 finalists were on average optimistic by about 0."
        assert said in verdict["verdict"]["text"]
    error = statistics.stdev(found) / math.sqrt(len(found))
    assert abs(statistics.fmean(found) - 0.1) < 4 * error < 0.02


def test_better_is_refused_where_the_best_rate_lies_on_an_edge() -> None:
    """Plain SFT is best at the lowest rate there is."""
    confirmation = made(Options(), edge=True)
    runs = play(confirmation, lambda params: rri_better(1.0)(params) + 0.1 * (params[RATE] > 1e-5), 0.01)
    found = confirmation.verdict(runs, "s")
    assert found is not None
    assert found["verdict"]["word"] == "under-powered"
    assert found["verdict"]["interval"][1] < 0
    assert "the best learning rate of plain SFT lies on the lower end of its range" in found["verdict"]["text"]


def test_few_seeds_without_a_difference_are_under_powered_and_many_are_not() -> None:
    words = []
    for seeds in (3, 8):
        confirmation = made(Options(seeds=seeds))
        found = confirmation.verdict(play(confirmation, rri_better(0.0), 0.1), "s")
        assert found is not None
        words.append(found["verdict"]["word"])
    assert words == ["under-powered", "indistinguishable"]


def test_early_looks_end_it_once_the_difference_is_clear() -> None:
    options = Options(looks=(4, 8, 12, 16)).checked()
    assert options.seeds == 16
    clear, none = made(options), made(options)
    early = play(clear, rri_better(3.0), 0.1)
    assert sum(run.origin.startswith("confirm:decide") for run in early) == 8
    found = clear.verdict(early, "s")
    assert found is not None
    assert (found["seeds"], found["verdict"]["word"], found["looks"]["at"]) == (4, "better", 4)
    assert found["verdict"]["level"] < 1e-4
    late = play(none, rri_better(0.0), 0.1)
    assert sum(run.origin.startswith("confirm:decide") for run in late) == 32


def test_failed_runs_are_replaced_and_counted_against_their_side() -> None:
    def failing(origin: str, number: int) -> bool:
        return origin == "confirm:decide:setting" and number % 2 == 0

    confirmation = made(Options(finalists=1))
    runs = play(confirmation, rri_better(1.0), 0.05, failing=failing)
    found = confirmation.verdict(runs, "s")
    assert found is not None
    assert len(found["finalists"][0]["values"]) == 8
    assert found["finalists"][0]["failed"] > 2
    assert found["verdict"]["word"] == "under-powered"
    assert "runs of the setting failed and 0 of plain SFT" in found["verdict"]["text"]


def test_what_a_look_said_is_not_said_otherwise_by_runs_that_were_due_later(seed: int) -> None:
    """Whatever fails, and in whatever order runs end: none is begun that is not due in the end."""
    for number in range(12):
        dice = random.Random(f"{seed}:{number}")
        confirmation = made(Options(finalists=1, looks=(2, 4, 8)).checked())
        runs: list[Run] = []
        while True:
            begun = {(run.origin, run.seed) for run in runs}
            due = {(origin, params[SEED]): params for origin, params in confirmation.points(runs)}
            assert begun <= due.keys()
            waiting = [at for at, run in enumerate(runs) if run.state == "open"]
            left = [key for key in due if key not in begun]
            if left and len(waiting) < 4:
                runs.append(Run(len(runs), left[0][0], "open", None, None, left[0][1]))
            elif waiting:
                at = dice.choice(waiting)
                state = dice.choice(["failed", "complete"])
                runs[at] = replace(runs[at], state=state, value=dice.random() if state == "complete" else None)
            else:
                break
        try:
            found = confirmation.verdict(runs, "s")
        except SearchFailed:
            continue
        assert found is not None
        whole = [len(side["values"]) == found["seeds"] for side in (found["finalists"][0], found["baseline"])]
        assert (f"over {found['seeds']} new seeds each" in found["verdict"]["text"]) == all(whole)


@pytest.mark.parametrize("what", ["confirm:choose:sft", "confirm:decide:setting", "confirm"])
def test_where_everything_fails_it_ends_and_says_so(what: str) -> None:
    confirmation = made(Options())
    runs = play(confirmation, rri_better(1.0), 0.1, failing=lambda origin, number: origin.startswith(what))
    assert len(runs) <= 2 * (20 + 16)
    with pytest.raises(SearchFailed, match=r"runs failed; needed: two of each side"):
        confirmation.verdict(runs, "s")


def test_it_is_decided_only_when_every_run_has_ended() -> None:
    confirmation = made(Options(finalists=2))
    runs = play(confirmation, rri_better(1.0), 0.1)
    assert confirmation.verdict(runs, "s") is not None
    assert [confirmation.verdict(runs[:count], "s") for count in range(len(runs))] == [None] * len(runs)


def test_one_candidate_of_each_side_needs_no_choosing() -> None:
    runs = play(made(Options(finalists=1)), rri_better(1.0), 0.1)
    assert {run.origin for run in runs} == {"confirm:decide:setting", "confirm:decide:sft"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(finalists=0), "--finalists 0; allowed: 1 or more"),
        (Options(choose_seeds=0), "--choose-seeds 0"),
        (Options(seeds=1), "--seeds 1; allowed: 2 or more"),
        (Options(seeds=2.5), r"--seeds 2\.5; allowed: 2 or more, whole"),
        (Options(finalists="3"), r"--finalists '3'; allowed: 1 or more, whole"),
        (Options(looks=(2.5, 4)), r"--looks: got \[2\.5, 4\]; allowed: whole numbers"),
        (Options(looks=(8, 4)), "increasing numbers of seeds"),
        (Options(looks=(1, 4)), "--looks starts with 1"),
        (Options(spending="often"), "--spending often; allowed: obrien_fleming, pocock"),
    ],
)
def test_options_with_which_nothing_can_be_said_are_refused(options: Options, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        options.checked()


def test_seeds_of_a_plan_are_those_of_nobody_else() -> None:
    first, second = made(Options(seeds=2)), made(Options(seeds=2))
    assert first.points([]) == second.points([])
    assert all(params[SEED] != 0 for _, params in first.points([]))
