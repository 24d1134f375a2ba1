"""A confirmation in a real store, with runs that cost nothing; and one that is killed between any two writes."""

from __future__ import annotations

import io
import math
import random
import shutil
import threading
from contextlib import contextmanager
from typing import Any

import pytest
from rich.console import Console

from rankray.config import Config
from rankray.config.space import RATE
from rankray.config.study import BudgetSection
from rankray.contracts import Report
from rankray.errors import ConfigError, SearchFailed, UserError
from rankray.report.confirmation import plan_view
from rankray.search.candidates import SEED, Candidate
from rankray.search.confirm import (
    as_begun,
    confirmed_config,
    make_plan,
    plan_figures,
    plan_steps,
    planned,
    run_confirmation,
    stored_plan,
)
from rankray.search.confirmation import Options, Plan
from rankray.store import attach, list_studies, open_study, views
from rankray.store.backend import RetryingStorage
from rankray.store.confirmation import record_verdict, stored_verdict, verdicts
from rankray.store.leases import DRIVER_KEY
from rankray.store.move import delete_study
from rankray.store.overview import overview
from search.confirming import run_all, value

METRIC = "eval/nll"
SPACE = {"loss.objective": {"choice": ["sft", "rri"]}, RATE: {"float": [1e-5, 1e-1], "log": True}}
NAMES = ("rri", "sft")
SMALL = Options(finalists=2, choose_seeds=1, seeds=3)


def truth(params: Any) -> float:
    """What the world of these tests is like: one objective is better by one, and the middle rate is the best."""
    return 2.0 - (params["loss.objective"] == "rri") + 0.3 * (math.log10(params[RATE]) + 3) ** 2


@contextmanager
def nobody(study: Any) -> Any:
    yield None


def searching(also: Any = None, **study: Any) -> Config:
    """Return the configuration of a search `s`, with further sets."""
    return Config.model_validate(
        {
            "name": "s",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "e.jsonl", "test": "t.jsonl"},
            "train": {"max_steps": 20},
            "evaluate": {"every_steps": 20, "also": also or {}},
            "space": SPACE,
            "study": {"sampler": "random", "pruner": "none", **study},
        }
    )


@pytest.fixture
def searched(tmp_path: Any) -> str:
    """The URL of a store with a finished search, `s`."""
    url = f"journal:///{tmp_path}/store.log"
    run_all(truth, 0.1, METRIC)(open_study(url, searching(trials=10)), None)
    return url


def confirm(url: str, options: Options = SMALL, run: Any = None, **changes: Any) -> Any:
    search = attach(url, "s")
    config, confirmation = confirmed_config(search, url, changes.pop("overrides", {}), **changes)
    run = run or run_all(truth, 0.1, METRIC)
    return run_confirmation(search, url, config, confirmation, options.checked(), nobody, run=run)


def seen(url: str) -> Any:
    """Everything that looking at the search shows, but for what it takes to look."""
    search = attach(url, "s")
    rows = [views.trial(search, row["number"]) for row in views.trials(search)]
    return views.status(search), views.best(search), views.objectives(search), rows


def test_it_leaves_the_search_as_it_was_and_its_verdict_with_it(searched: str) -> None:
    before = seen(searched)
    assert stored_verdict(attach(searched, "s")) is None
    found = confirm(searched)
    assert found["verdict"]["word"] == "better"
    assert seen(searched) == before
    assert stored_verdict(attach(searched, "s")) == found
    [shown] = overview(attach(searched, "s"))["verdicts"]
    assert shown["verdict"]["word"] == found["verdict"]["word"], "a report finds it"
    assert shown["verdict"]["text"] == found["verdict"]["text"]
    assert list_studies(searched) == ["s", "s.confirm"]
    status = views.status(attach(searched, "s.confirm"))
    assert (status["state"], status["trials"]["complete"]) == ("complete", 2 * 2 + 2 * 3)


def test_done_once_it_answers_at_once(searched: str) -> None:
    found = confirm(searched)

    def never(*_: Any, **__: Any) -> bool:
        raise AssertionError("nothing is left to run")

    assert confirm(searched, run=never) == found


def test_an_early_look_leaves_a_complete_study(searched: str) -> None:
    found = confirm(searched, Options(finalists=1, looks=(4, 12), spending="pocock"))
    assert (found["seeds"], found["verdict"]["word"]) == (4, "better")
    assert views.status(attach(searched, "s.confirm"))["state"] == "complete"
    assert confirm(searched, Options(finalists=1, looks=(4, 12), spending="pocock")) == found


@pytest.mark.parametrize("test", [[{"path": "e2.jsonl"}, {"path": "e3.jsonl"}], "e2.jsonl", None])
def test_what_is_left_out_is_as_it_was_begun(searched: str, test: Any) -> None:
    """`rankray confirm NAME`, as a page prints it, resumes it whatever options it was begun with."""
    search = attach(searched, "s")
    given = {"finalists": 2, "choose_seeds": 1, "looks": (2, 4), "spending": "pocock"}
    changed = {"data.test": test} if test else {}
    config, confirmation, options = as_begun(search, searched, changed, given)
    assert options == Options(2, 1, 4, (2, 4), "pocock")
    stopped = stop_after(1)
    assert run_confirmation(search, searched, config, confirmation, options, nobody, run=stopped) is None
    assert as_begun(search, searched, {}, {}) == (config, confirmation, options)
    assert as_begun(search, searched, {}, {"looks": (2, 4)})[2] == options
    assert as_begun(search, searched, {}, {"seeds": 8})[2] == Options(2, 1, 8, (), "pocock")
    assert as_begun(search, searched, {}, {}, label="again")[2] == Options()
    with pytest.raises(ConfigError, match="--seeds 3 beside --looks that end with 4; allowed: 4; leave it out"):
        as_begun(search, searched, {}, {"looks": (2, 4), "seeds": 3})


def test_what_is_planned_is_what_is_run(searched: str) -> None:
    search = attach(searched, "s")
    config, confirmation = confirmed_config(search, searched, {})
    plan = make_plan(search, config, confirmation, SMALL)
    figures = plan_figures(search, confirmation, plan)
    assert figures["runs"] == {"choose": 4, "decide": 6, "total": 10, "at_looks": [{"seeds": 3, "runs": 10}]}
    assert figures["steps"] == 200
    tells = {row["seeds"]: round(row["half_width_sd"], 2) for row in figures["tells"]}
    assert (tells[5], tells[8]) == (1.46, 1.07)
    assert list_studies(searched) == ["s"], "a plan writes nothing"
    assert stored_plan(searched, confirmation) is None
    confirm(searched)
    assert stored_plan(searched, confirmation) == plan


@pytest.mark.parametrize(
    ("rri", "sft", "direction", "said"),
    [
        (0.7, 0.8, "maximize", True),
        (0.8, 0.7, "maximize", False),
        (2.0, 1.9, "minimize", True),
        (1.9, 2.0, "minimize", False),
        (0.7, None, "maximize", False),
    ],
)
def test_a_plan_says_where_plain_sft_leads(
    searched: str, rri: float, sft: float | None, direction: str, said: bool
) -> None:
    """The finalists are then not the search's best trials, which reads like a mistake."""
    search = attach(searched, "s")
    config, confirmation = confirmed_config(search, searched, {})
    figures = plan_figures(search, confirmation, make_plan(search, config, confirmation, SMALL))
    figures |= {"direction": direction, "finalists": [{"number": 4, "value": rri, "params": {}}]}
    figures["baselines"] = [{"number": None, "value": None, "params": {}}, {"number": 2, "value": sft, "params": {}}]
    out = io.StringIO()
    Console(file=out, width=200).print(plan_view(figures))
    assert ("plain SFT has the best figure of the search" in out.getvalue()) == said


def test_a_plan_stays_whatever_becomes_of_the_search(searched: str) -> None:
    """A driver was killed after the first run; then the search was extended, and found something better."""
    stopped = stop_after(1)
    assert confirm(searched, run=stopped) is None
    plan = stored_plan(searched, confirmed_config(attach(searched, "s"), searched, {})[1])
    config = attach(searched, "s").config
    more = config.model_copy(update={"study": config.study.model_copy(update={"trials": 14})})
    run_all(lambda params: 0.1, 0.0, METRIC)(open_study(searched, more), None)
    found = confirm(searched)
    assert plan is not None
    assert {each["number"] for each in found["finalists"]} == {each.number for each in plan.finalists}
    assert found["search_finished"] == 10


def test_seeds_are_not_added_after_having_looked(searched: str) -> None:
    confirm(searched)
    with pytest.raises(ConfigError, match=r"--seeds 3, on t.jsonl, and is asked for with .*--seeds 5"):
        confirm(searched, Options(finalists=2, choose_seeds=1, seeds=5))
    with pytest.raises(ConfigError, match=r"on \S*/e2\.jsonl"):
        confirm(searched, overrides={"data.test": "e2.jsonl"})
    with pytest.raises(ConfigError, match=r"--seeds 3, on t.jsonl, and is asked for with .*--seeds 5"):
        planned(attach(searched, "s"), searched, *as_begun(attach(searched, "s"), searched, {}, {"seeds": 5}))
    again = confirm(searched, Options(finalists=2, choose_seeds=1, seeds=5), label="again")
    assert again["confirmation"] == "s.confirm-again"
    first, second = (
        {trial.params[SEED] for trial in attach(searched, name).trials()} for name in ("s.confirm", "s.confirm-again")
    )
    assert not first & second


def test_only_what_does_not_change_a_setting_may_be_overridden(searched: str) -> None:
    config, _ = confirmed_config(attach(searched, "s"), searched, {"resources.concurrency": 3})
    assert config.resources.concurrency == 3
    with pytest.raises(ConfigError, match=r"^overrides: train.max_steps: it would confirm another setting"):
        confirm(searched, overrides={"train.max_steps": 7})


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("study.trials", 9, "runs as many trials as its finalists and its seeds ask for; allowed: study.budget"),
        ("study.keep_best", 2, "runs as many trials as its finalists"),
        ("study.budget.plateau", 3, "looks for nothing better"),
    ],
)
def test_what_would_have_no_effect_is_refused(path: str, value: int, says: str, searched: str) -> None:
    with pytest.raises(ConfigError, match=f"^overrides: {path}: .*{says}"):
        confirm(searched, overrides={path: value})


@pytest.mark.parametrize("path", ["resources.workers", "data.test", "train.max_steps", "study.budget.plateau"])
def test_what_is_refused_is_named_as_it_was_given(path: str, searched: str) -> None:
    """On the command line with `--set`, in Python without it, whatever finds it wrong."""
    search = attach(searched, "s")
    value = {"resources.workers": 0, "data.test": 7, "train.max_steps": 7, "study.budget.plateau": 3}[path]
    with pytest.raises(ConfigError, match=f"^--set {path}: "):
        confirmed_config(search, searched, [f"{path}={value}"])
    with pytest.raises(ConfigError, match=f"^overrides: {path}: "):
        confirmed_config(search, searched, {path: value})


def test_a_confirmation_has_limits_of_its_own_and_none_of_the_search(searched: str) -> None:
    """A limit that is reached leaves the runs so far, and a higher one or none continues."""

    def charged(study: Any, observer: Any, *, verbose: bool = False) -> bool:
        with study:
            study.charge({"from": 0.0, "to": 7200.0, "gpu_seconds": 0.0, "nodes": {}})
        return bool(study.done)

    search = attach(searched, "s")
    budget = BudgetSection(wall_hours=1, price={"a": 2.0}, plateau=3)
    study = search.config.study.model_copy(update={"budget": budget})
    open_study(searched, search.config.model_copy(update={"study": study}))
    given = {"study.budget.wall_hours": 2, "study.trial_timeout": 60.0}
    _, confirmation = confirmed_config(attach(searched, "s"), searched, given)
    assert confirmation.study.budget == BudgetSection(wall_hours=2, price={"a": 2.0})
    assert confirmation.study.trial_timeout == 60.0
    for _ in range(2):
        with pytest.raises(SearchFailed, match=r"study.budget.wall_hours ended it .* 0 of 10 runs: 2 of 2 hours are"):
            confirm(searched, overrides={"study.budget.wall_hours": 2}, run=charged)
    assert stored_verdict(attach(searched, "s")) is None
    assert confirm(searched)["verdict"]["word"] == "better"


def test_a_search_that_still_runs_is_not_confirmed(searched: str) -> None:
    with open_study(searched, attach(searched, "s").config), pytest.raises(UserError, match="a search still runs, on"):
        confirm(searched)


def test_a_driver_whose_machine_is_gone_is_watched_and_hinders_nobody(searched: str) -> None:
    study = open_study(searched, searching(trials=10))
    gone = {"host": "gone", "boot": "b", "space": "s", "pid": 1, "start": "1", "beat": 5, "lease": 0.3, "at": 0.0}
    study.storage.set_study_user_attr(study._claims.study_id, f"{DRIVER_KEY}{'a' * 32}", gone)
    search, said = attach(searched, "s"), list[str]()
    search._watch.lease_seconds = 0.3
    config, confirmation = confirmed_config(search, searched, {})
    assert planned(search, searched, config, confirmation, SMALL, said.append).finished == 10
    assert said == ["study s: watching its driver on gone for up to 0 s: is it alive?"]


def test_a_search_made_anew_is_not_confirmed_by_what_was_found_of_the_deleted_one(searched: str) -> None:
    """Its trials have the numbers of other settings, and its runs may have seen other data."""
    confirm(searched)
    delete_study(searched, "s")
    run_all(truth, 0.1, METRIC)(open_study(searched, searching(trials=10)), None)
    search = attach(searched, "s")
    config, confirmation = confirmed_config(search, searched, {})
    for ask in (
        lambda: confirm(searched),
        lambda: as_begun(search, searched, {}, {}),
        lambda: planned(search, searched, config, confirmation, SMALL),
    ):
        with pytest.raises(UserError, match=r"s\.confirm confirms another search of this name, which was deleted"):
            ask()
    assert verdicts(attach(searched, "s")) == []
    assert confirm(searched, label="again")["confirmation"] == "s.confirm-again"
    delete_study(searched, "s.confirm")
    assert confirm(searched)["confirmation"] == "s.confirm"


def test_a_masked_password_never_becomes_the_store(searched: str) -> None:
    config, confirmation = confirmed_config(attach(searched, "s"), searched, {})
    assert config.store == confirmation.store == searched


def stop_after(runs: int) -> Any:
    """Return a stand-in for `run_search` that is interrupted after so many runs."""

    def run(study: Any, observer: Any, *, verbose: bool = False) -> bool:
        with study:
            for _ in range(runs):
                ticket = study.next_trial()
                study.complete(ticket.number, {METRIC: value(ticket.params, truth, 0.1)})
            study.next_trial()
        return False

    return run


class Death(BaseException):
    """A process that ends without a word."""


@pytest.mark.parametrize("looks", [(), (2, 3)])
def test_it_survives_a_death_between_any_two_writes(searched: str, looks: Any, seed: int, monkeypatch: Any) -> None:
    """Each process lives for a few writes, drawn from the seed, and dies at the next: the verdict is the same."""
    options = Options(finalists=2, choose_seeds=1, seeds=3, looks=looks)
    copy = searched.replace("store.log", "undisturbed.log")
    shutil.copy(searched.removeprefix("journal:///"), copy.removeprefix("journal:///"))
    undisturbed = confirm(copy, options)
    dice, lives = random.Random(seed), 0
    monkeypatch.setenv("RANKRAY_LEASE_SECONDS", "0.2")
    found = None
    while found is None:
        lives += 1
        assert lives < 200
        with monkeypatch.context() as killing:
            die_after(killing, dice.randrange(1, 16))
            try:
                found = confirm(searched, options)
            except Death:
                continue
    assert lives > 3, "it was killed several times"
    assert stored_verdict(attach(searched, "s")) == found
    trials = attach(searched, "s.confirm").trials()
    points = [(trial.user_attrs["rankray:origin"], trial.params[SEED]) for trial in trials]
    assert len(set(points)) == len(points) == sum(trial.state.name == "COMPLETE" for trial in trials)
    assert (found["seeds"], found["verdict"]["word"]) == (undisturbed["seeds"], undisturbed["verdict"]["word"])
    for mine, theirs in zip(found["finalists"], undisturbed["finalists"], strict=True):
        assert sorted(mine["values"]) == sorted(theirs["values"]), "the same seeds, whatever was killed"
    assert sorted(found["baseline"]["values"]) == sorted(undisturbed["baseline"]["values"])


def die_after(killing: Any, writes: int) -> None:
    """Let the process end at its next write after so many; nothing that it would do after that is done."""
    left = [writes]
    for name in (
        "create_new_trial",
        "create_new_study",
        "set_trial_user_attr",
        "set_trial_state_values",
        "set_trial_intermediate_value",
        "set_study_user_attr",
    ):
        real = getattr(RetryingStorage, name)

        def write(self: Any, *args: Any, real: Any = real, **more: Any) -> Any:
            left[0] -= threading.current_thread() is threading.main_thread()
            if left[0] < 0:
                raise Death
            return real(self, *args, **more)

        killing.setattr(RetryingStorage, name, write)


@pytest.fixture
def of_two_metrics(tmp_path: Any) -> str:
    """The URL of a store with a search by NLL and by accuracy on a further set; RRI is better by the second."""
    url = f"journal:///{tmp_path}/two.log"
    arc = {"arc": {"data": "arc.jsonl", "choices": "options"}}
    config = searching(also=arc, trials=12, metrics=[METRIC, "eval/arc/accuracy"])
    measured(open_study(url, config), None)
    return url


def measured(study: Any, observer: Any, *, verbose: bool = False) -> bool:
    """Run a search or a confirmation: by NLL the lowest rates are best, by accuracy 0.01."""
    with study:
        while not study.done:
            ticket = study.next_trial()
            if ticket is not None:
                rate = math.log10(ticket.params[RATE])
                noise = random.Random(f"{sorted(ticket.params.items())}").gauss(0.0, 0.002)
                wins = 0.2 * (ticket.params["loss.objective"] == "rri")
                accuracy = 0.5 - 0.05 * (rate + 2) ** 2 + wins + noise
                figures = {METRIC: 2 + 0.1 * rate + noise, "eval/arc/accuracy": accuracy}
                study.report(ticket.number, Report(study.config.full_steps, figures))
                study.complete(ticket.number, figures)
    return True


def test_each_of_several_metrics_is_confirmed_by_itself(of_two_metrics: str) -> None:
    first, second = [confirm(of_two_metrics, run=measured, metric=name) for name in ("", "eval/arc/accuracy")]
    assert first["metric"] == METRIC
    assert second["metric"] == "eval/arc/accuracy"
    assert second["direction"] == "maximize"
    assert second["verdict"]["word"] == "better"
    assert second["verdict"]["difference"] == pytest.approx(0.2, abs=0.03)
    rows = [row for row in views.trials(attach(of_two_metrics, "s")) if row["params"]["loss.objective"] == "rri"]
    rates = {row["number"]: row["params"][RATE] for row in rows}
    assert {each["number"] for each in first["finalists"]} == set(sorted(rates, key=rates.__getitem__)[:2])
    middle = sorted(rates, key=lambda number: abs(math.log10(rates[number]) + 2))
    assert {each["number"] for each in second["finalists"]} == set(middle[:2])
    assert all(0 < each["search_value"] < 1 for each in second["finalists"])
    assert set(list_studies(of_two_metrics)) == {"s", "s.confirm", "s.confirm-arc.accuracy"}
    again = confirm(of_two_metrics, run=measured, metric="eval/arc/accuracy")
    assert again == second
    kept = verdicts(attach(of_two_metrics, "s"))
    assert [each["metric"] for each in kept] == [METRIC, "eval/arc/accuracy"], "both, and the search's own metric first"
    assert [each["verdict"]["text"] for each in kept] == [each["verdict"]["text"] for each in (first, second)]
    chosen = views.confirmed(attach(of_two_metrics, "s"))
    assert chosen is not None
    assert (chosen["number"], chosen["params"]) == (first["finalists"][0]["number"], first["finalists"][0]["params"])


def test_a_confirmation_is_not_confirmed(searched: str) -> None:
    confirm(searched)
    with pytest.raises(UserError, match=r"s\.confirm is a confirmation itself, of s;.*name the search"):
        confirmed_config(attach(searched, "s.confirm"), searched, {})


@pytest.mark.parametrize("label", ["a b/c", "../x", "ü", "x" * 51, "a\n"])
def test_a_label_is_a_part_of_a_name(searched: str, label: str) -> None:
    with pytest.raises(ConfigError, match=r"--label .*allowed: letters, digits"):
        confirmed_config(attach(searched, "s"), searched, {}, label)


def test_test_data_that_are_given_are_found_from_anywhere(searched: str, tmp_path: Any, monkeypatch: Any) -> None:
    """Workers run elsewhere, and so may the command that resumes: a path is relative to where it was given."""
    monkeypatch.chdir(tmp_path)
    [given, _] = confirmed_config(attach(searched, "s"), searched, {"data.test": "new.jsonl"})
    assert given.data.test == str(tmp_path / "new.jsonl")
    [mixed, _] = confirmed_config(attach(searched, "s"), searched, {"data.test": [{"path": "a.jsonl"}, "b.jsonl"]})
    assert [place.path for place in mixed.data.test] == [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]


def test_the_last_of_two_confirmations_by_one_metric_counts_first(searched: str) -> None:
    study = attach(searched, "s")
    names = ["s.confirm-b", "s.confirm", "s.confirm-a"]
    for number, name in enumerate(names):
        said = {"metric": METRIC, "confirmation": name, "verdict": {"word": "worse"}}
        finished = attach(searched, "s")
        finished.name = name
        record_verdict(study, finished, {**said, "finalists": [{"number": number}]})
    kept = verdicts(attach(searched, "s"))
    assert [each["confirmation"] for each in kept] == ["s.confirm-a", "s.confirm", "s.confirm-b"]
    assert (views.confirmed(attach(searched, "s")) or {})["number"] == 2


def test_to_look_at_an_earlier_confirmation_again_does_not_make_it_the_last(searched: str) -> None:
    confirm(searched)
    confirm(searched, label="later")
    assert verdicts(attach(searched, "s"))[0]["confirmation"] == "s.confirm-later"
    confirm(searched)
    assert verdicts(attach(searched, "s"))[0]["confirmation"] == "s.confirm-later"


@pytest.mark.parametrize("kept", [0, 1])
def test_a_kill_while_a_verdict_is_written_leaves_one_that_the_next_start_completes(
    kept: int, searched: str, monkeypatch: Any
) -> None:
    found = confirm(searched)
    study = attach(searched, "s")
    finished, said = attach(searched, "s.confirm"), {**found, "seeds": 99}
    written = []

    def write(study_id: int, key: str, value: Any) -> None:
        if len(written) == kept:
            raise KeyboardInterrupt
        written.append(key)
        type(study.storage).set_study_user_attr(study.storage, study_id, key, value)

    with monkeypatch.context() as killed:
        killed.setattr(study.storage, "set_study_user_attr", write)
        with pytest.raises(KeyboardInterrupt):
            record_verdict(study, finished, said)
    record_verdict(study, finished, said)
    attributes = study.storage.get_study_user_attrs(study.study_id)
    assert {attributes[key]["seeds"] for key in ("rankray:verdict", "rankray:verdict:s.confirm")} == {99}


def test_a_verdict_of_an_earlier_version_is_shown(searched: str) -> None:
    """Then the search's study had the last verdict only."""
    found = confirm(searched)
    study = attach(searched, "s")
    study.storage.set_study_user_attr(study.study_id, "rankray:verdict:s.confirm", None)
    assert [each["verdict"]["text"] for each in verdicts(attach(searched, "s"))] == [found["verdict"]["text"]]


def test_a_metric_of_a_further_set_is_not_measured_on_the_test_data(of_two_metrics: str) -> None:
    """The search has seen that set, and the runs that decide are measured on it as well as on data.test."""
    found = confirm(of_two_metrics, run=measured, metric="eval/arc/accuracy")
    assert found["data"] == {"source": "arc.jsonl", "is_test": False, "split": "evaluate.also.arc"}
    assert "on evaluate.also.arc, which the search has seen" in found["verdict"]["text"]
    assert "data.test" not in found["verdict"]["text"]
    assert confirm(of_two_metrics, run=measured)["data"] == {"source": "t.jsonl", "is_test": True, "split": "data.test"}


def test_a_metric_that_the_search_did_not_select_by_is_refused(of_two_metrics: str, searched: str) -> None:
    with pytest.raises(ConfigError, match=r"--metric eval/arc/acuracy: s was not selected by it.*eval/arc/accuracy"):
        confirm(of_two_metrics, metric="eval/arc/acuracy")
    with pytest.raises(ConfigError, match=r"allowed: eval/nll; give one of these"):
        confirm(searched, metric="eval/accuracy")


def test_steps_are_those_of_what_is_compared(searched: str) -> None:
    """Where `train.max_steps` is searched, each candidate has its own."""
    search = attach(searched, "s")
    confirmation = confirmed_config(search, searched, {})[1]
    sides = [
        [Candidate({"train.max_steps": steps, "loss.objective": name}) for steps in (10, 40)] for name in ("rri", "sft")
    ]
    plan = Plan(Options(2, 1, 3), *sides, "e.jsonl", "t.jsonl", "salt", [], 4)
    assert plan_steps(plan, confirmation) == 2 * (10 + 40) + 3 * (40 + 40)
