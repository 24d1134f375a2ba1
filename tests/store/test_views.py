from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rankray.contracts import Report
from rankray.errors import StoreError
from rankray.store import attach, open_study, views
from store.helpers import FULL, begin, begin_and_die, drive, make_config

SPACE = {"loss.objective": {"choice": ["sft", "rri", "dft"]}, "loss.temperature": {"float": [0.5, 2.0]}}
POINTS = [
    {"loss.objective": "rri", "loss.temperature": 0.5},
    {"loss.objective": "rri", "loss.temperature": 1.5},
    {"loss.objective": "dft", "loss.temperature": 1.0},
]


def play(url: str, **study: Any) -> Any:
    """Baselines and three points: sft 2.0, paper running, rri 1.0 and failed, dft pruned at 10; one more running."""
    config = make_config(space=SPACE, study={"known": ["sft", "paper"], "warm_start": POINTS, "trials": 6, **study})
    store = open_study(url, config).join()

    def begin() -> int:
        ticket = store.next_trial()
        assert ticket is not None
        return ticket.number

    def whole(value: float) -> None:
        number = begin()
        store.report(number, Report(10, {"eval/nll": value + 0.1, "train/loss": math.nan}, f"c{number}-10"))
        store.complete(number, {"eval/nll": value, "eval/accuracy": 0.5})

    whole(2.0)
    store.report(begin(), Report(10, {"eval/nll": 9.0}))
    whole(1.0)
    store.fail(begin(), "out of memory", "Traceback: here", retry=False)
    whole(1.5) if store.budget > 4 else None
    store.report(begin(), Report(10, {"eval/nll": 1.05}, "c5-10"))
    return store


def test_status_has_the_shape_of_the_design(url: str) -> None:
    store = play(url)
    status = views.status(attach(url, "s"))
    top = {"number": 2, "value": 1.0, "params": POINTS[0]}
    assert {key: status[key] for key in ("study", "state", "trials", "budget", "best")} == {
        "study": "s",
        "state": "running",
        "trials": {"complete": 2, "pruned": 1, "failed": 1, "running": 2, "waiting": 0},
        "budget": {"trials": 6, "finished": 3},
        "best": top,
    }
    assert status["first_failure"] == {"number": 3, "reason": "out of memory", "traceback": "Traceback: here"}
    assert [driver["driver"] for driver in status["drivers"]] == [store.driver]
    store.leave()
    status = views.status(attach(url, "s"))
    assert (status["state"], status["trials"]["waiting"], status["trials"]["running"]) == ("interrupted", 2, 0)
    json.dumps(status, allow_nan=False)


def test_a_study_with_its_budget_used_up_is_complete(file_url: str) -> None:
    with open_study(file_url, make_config(study={"trials": 1})) as store:
        ticket = store.next_trial()
        assert ticket is not None
        assert views.status(store)["best"] is None
        store.complete(ticket.number, {"eval/nll": 1.0})
        assert views.status(store)["state"] == "complete"


def test_a_trial_shows_everything(url: str) -> None:
    store = play(url)
    view = attach(url, "s")
    done = views.trial(view, 2)
    assert (done["state"], done["value"], done["step"], done["params"]) == ("complete", 1.0, 10, POINTS[0])
    assert (done["origin"], done["checkpoint"], done["attempts"], done["owner"]) == ("warm_start", "c2-10", 1, "")
    assert done["steps"][0]["metrics"] == {"eval/nll": 1.1, "train/loss": None}
    assert done["metrics"]["eval/accuracy"] == 0.5
    assert done["started"] <= done["ended"]
    baseline = views.trial(view, 1)
    assert (baseline["state"], baseline["value"], baseline["origin"]) == ("running", 9.0, "baseline:paper")
    pruned = views.trial(view, 4)
    assert (pruned["state"], pruned["value"], pruned["origin"]) == ("pruned", 1.6, "warm_start")
    assert pruned["reason"] == "successive_halving at step 10: eval/nll 1.6 is behind"
    failed = views.trial(view, 3)
    assert (failed["state"], failed["value"]) == ("failed", None)
    assert (failed["reason"], failed["traceback"]) == ("out of memory", "Traceback: here")
    running = views.trial(view, 5)
    assert (running["state"], running["owner"], running["ended"]) == ("running", store.driver, None)
    assert [row["number"] for row in views.trials(view)] == list(range(6))
    json.dumps([views.trial(view, n) for n in range(6)], allow_nan=False)
    with pytest.raises(StoreError, match="no trial 17; its trials: 0 to 5"):
        views.trial(view, 17)
    store.leave()


def test_the_best_is_a_complete_trial(file_url: str) -> None:
    store = play(file_url)
    best = views.best(attach(file_url, "s"))
    assert best is not None
    assert (best["number"], best["value"], best["checkpoint"]) == (2, 1.0, "c2-10")
    assert best["metrics"]["eval/nll"] == 1.0
    store.leave()


def test_the_confirmed_trial_is_the_one_of_its_number_where_void_trials_came_before(file_url: str) -> None:
    """A killed driver, or two that asked at once, leave void trials: numbers then are no places in the list."""
    config = make_config(study={"trials": 3, "pruner": "none"})
    with open_study(file_url, config) as killed:
        begin_and_die(killed)
    study = open_study(file_url, config)
    drive(study)
    assert [trial.number for trial in study.trials()] == [1, 2, 3]
    for number in (1, 2, 3):
        side = {"number": number, "params": {}, "mean": 0.5}
        verdict = {"verdict": {"word": "better"}, "metric": "eval/nll", "finalists": [side]}
        study.storage.set_study_user_attr(study.study_id, "rankray:verdict", verdict)
        seen = attach(file_url, "s")
        confirmed, recommended = views.confirmed(seen), views.recommended(seen)
        assert confirmed is not None
        assert recommended is not None
        assert confirmed["number"] == recommended["number"] == number
        assert confirmed["params"] == views.trial(seen, number)["params"]


def test_the_best_follows_the_direction(file_url: str) -> None:
    config = make_config(study={"metric": "eval/accuracy", "trials": 3}, evaluate={"metrics": ["accuracy"]})
    with open_study(file_url, config) as store:
        for value in (0.1, 0.3, 0.2):
            ticket = store.next_trial()
            assert ticket is not None
            store.complete(ticket.number, {"eval/accuracy": value})
    best = views.best(store)
    assert best is not None
    assert (best["number"], best["value"]) == (1, 0.3)


def test_a_checkpoint_that_is_gone_is_said_to_be(file_url: str, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    with open_study(file_url, make_config(study={"trials": 3})) as store:
        for name in ("kept", "gone"):
            ticket = begin(store)
            store.report(ticket.number, Report(FULL, {"eval/nll": 1.0}, str(tmp_path / name)))
            store.complete(ticket.number, {"eval/nll": 1.0})
        store.fail(begin(store).number, "x", retry=False)
        assert [views.trial(store, number)["checkpoint_exists"] for number in range(3)] == [True, False, None]
        best = views.best(store)
    assert best is not None
    assert best["checkpoint_exists"] is True


@pytest.mark.parametrize(("metric", "kept"), [("eval/nll", {0, 2}), ("eval/accuracy", {1, 3})])
def test_the_best_complete_trials_keep_their_checkpoints(metric: str, kept: set[int], file_url: str) -> None:
    study = {"metric": metric, "trials": 9, "keep_best": 2, "pruner": "none"}
    with open_study(file_url, make_config(study=study, evaluate={"metrics": ["accuracy"]})) as store:
        for value in (1.0, 3.0, 2.0, 3.0):
            store.complete(begin(store).number, {metric: value})
        store.fail(begin(store).number, "x", retry=False)
        begin(store)
        assert views.retention(store) == ({0, 1, 2, 3, 4}, kept)


def test_objectives_and_baselines_side_by_side(file_url: str) -> None:
    store = play(file_url, pruner="none")
    rows = [(row["what"], row["number"], row["value"], row["state"]) for row in views.objectives(store)]
    assert rows == [
        ("dft", 4, 1.5, "complete"),
        ("rri", 2, 1.0, "complete"),
        ("sft", 0, 2.0, "complete"),
        ("baseline:sft", 0, 2.0, "complete"),
        ("baseline:paper", 1, 9.0, "running"),
    ]
    store.leave()


def test_the_objective_may_be_fixed(file_url: str) -> None:
    config = make_config(
        space={"loss.temperature": {"float": [0.5, 2.0]}}, loss={"objective": "rri"}, study={"trials": 1}
    )
    with open_study(file_url, config) as store:
        ticket = store.next_trial()
        assert ticket is not None
        store.complete(ticket.number, {"eval/nll": 1.0})
    assert [row["what"] for row in views.objectives(store)] == ["rri"]


def test_an_empty_study(file_url: str) -> None:
    store = open_study(file_url, make_config())
    assert views.status(store)["trials"] == dict.fromkeys(("complete", "pruned", "failed", "running", "waiting"), 0)
    assert (views.best(store), views.objectives(store), views.trials(store)) == (None, [], [])


def test_the_untrained_model_is_evaluated_once_and_a_worse_setting_marked(url: str) -> None:
    config = make_config(study={"trials": 4})
    study = open_study(url, config)
    metric = config.study.metric
    assert views.status(study)["untrained"] is None
    first, second = study.next_trial(), study.next_trial()
    assert first is not None
    assert second is not None
    assert (first.untrained, second.untrained) == (True, False)
    verdict = study.report(first.number, Report(0, {metric: 2.0, "eval/other": 1.0}))
    assert not verdict.stop
    study.report(first.number, Report(0, {metric: 9.0}))
    assert views.status(study)["untrained"] == {"value": 2.0, "metrics": {metric: 2.0, "eval/other": 1.0}}
    for ticket, value in ((first, 1.5), (second, 2.5)):
        study.complete(ticket.number, {metric: value})
    rows = {row["number"]: row for row in views.trials(study)}
    assert [rows[each.number]["worse_than_untrained"] for each in (first, second)] == [False, True]
    assert views.trial(study, first.number)["steps"] == [], "step 0 says nothing about a trial"
    assert views.trial(attach(url, config.name), second.number)["untrained"]["value"] == 2.0
    third = study.next_trial()
    assert third is not None
    assert not third.untrained


def test_a_later_trial_evaluates_the_untrained_model_where_the_first_could_not(file_url: str) -> None:
    study = open_study(file_url, make_config(study={"trials": 4}))
    first = study.next_trial()
    assert first is not None
    study.fail(first.number, "broken", retry=False)
    second = study.next_trial()
    assert second is not None
    assert second.untrained
