from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from rankray.contracts import Report, Verdict
from rankray.errors import LeaseLost, StoreError
from rankray.store import attach, open_study, views
from rankray.store.confirmation import runs_of
from rankray.store.optuna_private import trial_id
from rankray.store.records import DRIVER, ORIGIN, READY, is_void
from store.helpers import FULL, SPACE, begin, begin_and_die, drive, make_config, states, stored


def test_parameters_are_the_space_s_in_order_without_the_inactive_ones(url: str) -> None:
    with open_study(url, make_config(study={"trials": 8})) as store:
        tickets = [begin(store) for _ in range(8)]
    for ticket in tickets:
        inactive = {"loss.form", "loss.temperature"} if ticket.params["loss.objective"] == "sft" else set()
        assert set(ticket.params) == set(SPACE) - inactive
        names = list(ticket.params)
        assert names.index("loss.objective") < min([names.index(n) for n in names if n in ("loss.form",)], default=9)
    assert {ticket.params["loss.objective"] for ticket in tickets} == {"sft", "rri"}


def test_every_kind_of_distribution_is_drawn_within_its_bounds(file_url: str) -> None:
    space = {
        "train.batch_size": {"int": [8, 64], "step": 8},
        "train.seed": {"int": [1, 100], "log": True},
        "loss.entropy_weight": {"float": [0.0, 2.0], "step": 0.5},
        "loss.max_scale": {"choice": [None, 2.0]},
    }
    with open_study(file_url, make_config(space=space, study={"trials": 20})) as store:
        for _ in range(20):
            params = begin(store).params
            assert params["train.batch_size"] in range(8, 65, 8)
            assert isinstance(params["train.seed"], int)
            assert params["loss.entropy_weight"] in (0.0, 0.5, 1.0, 1.5, 2.0)
            assert params["loss.max_scale"] in (None, 2.0)


def test_a_pruned_trial_is_pruned_as_optuna_would_have(file_url: str, tmp_path: Path) -> None:
    """The verdicts are those of optuna's own loop on the same numbers."""
    import optuna

    from rankray.store.strategies import pruner

    curves = [[3.0, 2.0, 1.0], [2.0, 1.9, 1.8], [2.5, 2.4, 2.3], [1.0, 3.0, 3.0], [0.9, 0.8, 0.7], [1.5, 1.4, 1.3]]
    config = make_config(study={"trials": 9, "pruner": {"name": "successive_halving", "reduction_factor": 2}})
    plain = optuna.create_study(pruner=pruner(config))
    with open_study(file_url, config) as store:
        for curve in curves:
            ticket, trial = begin(store), plain.ask()
            for step, value in zip((10, 20, 30), curve, strict=True):
                trial.report(value, step)
                stop = trial.should_prune()
                assert store.report(ticket.number, Report(step, {"eval/nll": value})).stop == stop
                if stop:
                    plain.tell(trial, state=TrialState.PRUNED)
                    break
            else:
                plain.tell(trial, curve[-1])
                store.complete(ticket.number, {"eval/nll": curve[-1]})
    assert states(store)[:6] == [trial.state.name for trial in plain.trials]
    assert "PRUNED" in states(store)


@pytest.mark.parametrize("name", ["successive_halving", "hyperband", "median"])
def test_a_whole_trial_is_never_pruned(name: str, file_url: str) -> None:
    with open_study(file_url, make_config(study={"trials": 8, "pruner": name})) as store:
        for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
            ticket = begin(store)
            assert store.report(ticket.number, Report(FULL, {"eval/nll": value})) == Verdict(False)
            store.complete(ticket.number, {"eval/nll": value})
    assert states(store) == ["COMPLETE"] * 6


@pytest.mark.parametrize("name", ["hyperband", "median"])
def test_the_other_pruners_prune(name: str, file_url: str) -> None:
    with open_study(file_url, make_config(study={"trials": 12, "pruner": name})) as store:
        for value in range(12):
            ticket = begin(store)
            for step in (10, 20, 30):
                if store.report(ticket.number, Report(step, {"eval/nll": float(value)})).stop:
                    break
            else:
                store.complete(ticket.number, {"eval/nll": float(value)})
    assert store.counts().pruned > 3


def test_a_report_without_the_metric_is_kept_and_not_judged(file_url: str) -> None:
    with open_study(file_url, make_config()) as store:
        ticket = begin(store)
        assert store.report(ticket.number, Report(5, {"train/loss": 9.0}, "c5")) == Verdict(False)
        store.release(ticket.number)
        again = begin(store)
    assert again.history == [{"step": 5, "train/loss": 9.0}]
    assert again.checkpoint == "c5"


def test_completing_without_the_metric_fails(file_url: str) -> None:
    with open_study(file_url, make_config()) as store:
        store.complete(begin(store).number, {"eval/accuracy": 0.5})
    assert states(store) == ["FAIL"]


def test_failed_trials_are_replaced(url: str) -> None:
    with open_study(url, make_config(study={"trials": 2})) as store:
        for number in range(5):
            assert begin(store).number == number
            store.fail(number, "broken")
    drive(store)
    assert store.finished == 2
    assert states(store).count("FAIL") == 5


def test_raising_the_budget_continues_the_study(url: str) -> None:
    drive(open_study(url, make_config(study={"trials": 3})))
    before = open_study(url, make_config(study={"trials": 3}))
    more = open_study(url, make_config(study={"trials": 5}))
    assert (before.done, more.done) == (True, False)
    drive(more)
    assert states(more)[:3] == states(before)[:3]
    assert (more.finished, attach(url, "s").budget) == (5, 5)


def test_a_failed_point_is_not_tried_again(file_url: str) -> None:
    with open_study(file_url, make_config(study={"known": ["sft"]})) as store:
        store.fail(begin(store).number, "broken")
        assert begin(store).origin == "sampler"


def test_a_point_that_failed_with_everything_else_is_tried_by_the_next_driver(file_url: str) -> None:
    """What failed before anything had finished was fixed, or the search would not have been started again."""
    config = make_config(study={"known": ["sft"]})
    with open_study(file_url, config) as store:
        store.fail(begin(store).number, "no such module")
    with open_study(file_url, config) as store:
        ticket = begin(store)
        assert (ticket.origin, ticket.number) == ("baseline:sft", 1)
        store.complete(begin(store).number, {"eval/nll": 1.0})
        store.fail(ticket.number, "really broken")
    with open_study(file_url, config) as store:
        assert begin(store).origin == "sampler", "others have finished, so it is the point that is broken"


def beaten(asker: Any, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let another driver act just before this one creates the trial that it has decided on."""
    real, acts = asker._create, [act]

    def create(*what: Any) -> Any:
        if acts:
            acts.pop()()
        return real(*what)

    monkeypatch.setattr(asker, "_create", create)


def test_two_drivers_cannot_take_one_point(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see it free; the one whose trial has the higher number withdraws it and makes another."""
    config = make_config(study={"known": ["sft"]})
    with open_study(file_url, config) as one, open_study(file_url, config) as two:
        beaten(one._asker, lambda: begin(two), monkeypatch)
        ticket = begin(one)
    assert (stored(one, 0).user_attrs[DRIVER], stored(one, 0).user_attrs[ORIGIN]) == (two.driver, "baseline:sft")
    assert (ticket.origin, ticket.number) == ("sampler", 2)
    assert is_void(stored(one, 1))


def test_two_drivers_that_ask_for_the_same_number_get_different_points(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with open_study(file_url, config) as one, open_study(file_url, config) as two:
        beaten(one._asker, lambda: begin(two), monkeypatch)
        ticket = begin(one)
    assert stored(one, 1).params == stored(one, 0).params
    assert is_void(stored(one, 1))
    assert ticket.number == 2
    assert ticket.params != stored(one, 0).params


def test_a_space_of_one_point_does_not_ask_endlessly(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(space={"loss.objective": {"choice": ["sft"]}})
    with open_study(file_url, config) as one, open_study(file_url, config) as two:
        beaten(one._asker, lambda: begin(two), monkeypatch)
        assert one.next_trial() is None
        assert is_void(stored(one, 1))


def test_the_budget_is_exact_when_two_drivers_see_the_last_place_free(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(study={"trials": 1})
    with open_study(file_url, config) as one, open_study(file_url, config) as two:
        beaten(one._asker, lambda: begin(two), monkeypatch)
        assert one.next_trial() is None
        assert is_void(stored(one, 1))
        assert one.counts().failed == 0
        assert one.counts().running == 1


def test_a_fresh_trial_of_a_live_driver_is_left_alone(file_url: str) -> None:
    config = make_config(study={"trials": 5})
    with open_study(file_url, config) as slow, open_study(file_url, config) as store:
        begin_and_die(slow)
        assert begin(store).number == 1
        assert READY not in stored(store, 0).user_attrs
        assert states(store)[0] == "RUNNING"
        assert begin(slow).number == 2
        assert is_void(stored(store, 0))


def test_a_driver_taken_for_dead_between_two_writes_of_a_new_trial_makes_another(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_study(file_url, make_config())
    asker, created = store._asker, []
    real = asker._create

    def discarded(*what: Any) -> Any:
        created.append(real(*what))
        if len(created) == 1:
            store.storage.set_trial_state_values(created[0]._trial_id, TrialState.FAIL)
        return created[-1]

    monkeypatch.setattr(asker, "_create", discarded)
    with store:
        assert begin(store).number == 1
    assert [trial.number for trial in created] == [0, 1]


def test_an_attached_study_is_not_written_to(file_url: str) -> None:
    with open_study(file_url, make_config()) as store:
        number = begin(store).number
        view = attach(file_url, "s")
        for write in (
            view.join,
            view.next_trial,
            lambda: view.report(number, Report(10, {"eval/nll": 1.0})),
            lambda: view.complete(number, {"eval/nll": 1.0}),
            lambda: view.fail(number, "x"),
            lambda: view.release(number),
            view.remove_dead_drivers,
            view.repair_trials,
        ):
            with pytest.raises(StoreError, match="open_study"):
                write()
        assert view.counts().running == 1


def test_an_unknown_trial_is_named(file_url: str) -> None:
    with open_study(file_url, make_config()) as store, pytest.raises(StoreError, match="no trial 7"):
        store.complete(7, {"eval/nll": 1.0})


def test_a_damaged_checkpoint_is_never_resumed_from_again_and_its_step_may_bring_another(url: str) -> None:
    config = make_config(study={"trials": 1})
    with open_study(url, config) as store:
        ticket = begin(store)
        for step in (10, 20):
            store.report(ticket.number, Report(step, {"eval/nll": 1.0 / step}, f"first-{step}"))
        store.damaged(ticket.number, "first-20", "optimizer.pt is missing")
        again = begin(store)
        assert (again.number, again.adopted, again.checkpoint, again.earlier) == (0, True, "first-10", ())
        assert [each["step"] for each in again.history] == [10, 20]
        assert not store.report(0, Report(20, {"eval/nll": 5.0}, "second-20")).stop
        store.report(0, Report(10, {"eval/nll": 5.0}, "second-10"))
        store.release(0)
    with open_study(url, config) as store:
        third = begin(store)
        assert (third.checkpoint, third.earlier) == ("second-20", ("first-10",))
        assert [each["eval/nll"] for each in third.history] == [0.1, 0.05], "what was committed has not changed"
        shown = views.trial(store, 0)
        assert shown["damaged"] == [{"checkpoint": "first-20", "reason": "optimizer.pt is missing"}]
        store.damaged(0, "second-20", "x")
        store.damaged(begin(store).number, "first-10", "y")
        assert begin(store).checkpoint is None


def test_a_damaged_checkpoint_that_is_written_anew_in_its_place_is_resumed_from(url: str) -> None:
    """In one launch all processes of a trial write to the same directory."""
    with open_study(url, make_config(study={"trials": 1})) as store:
        ticket = begin(store)
        for step in (10, 20):
            store.report(ticket.number, Report(step, {"eval/nll": 1.0 / step}, f"here-{step}"))
        store.damaged(ticket.number, "here-20", "optimizer.pt is missing")
        assert begin(store).checkpoint == "here-10"
        store.report(0, Report(20, {"eval/nll": 0.05}, "here-20"))
        store.release(0)
        assert (begin(store).checkpoint, views.trial(store, 0)["damaged"]) == ("here-20", [])


@pytest.mark.parametrize("act", ["report", "stop", "fail", "damaged"])
def test_a_driver_that_froze_between_look_and_write_is_told_that_its_trial_was_ended(
    url: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(study={"trials": 3, "pruner": "none", "max_failures_per_trial": 2})
    frozen, other = open_study(url, config).join(), open_study(url, config).join()
    number = begin(frozen).number
    frozen.report(number, Report(10, {"eval/nll": 1.0}, "c"))
    monkeypatch.setattr(other._watch, "is_dead", lambda driver: driver == frozen.driver)
    look = frozen._own

    def freeze(trial: Any) -> int:
        fence = look(trial)
        monkeypatch.setattr(frozen, "_own", look)
        assert begin(other).number == number
        other.complete(number, {"eval/nll": 0.5})
        return fence

    monkeypatch.setattr(frozen, "_own", freeze)
    acts: dict[str, Callable[[], Any]] = {
        "report": lambda: frozen.report(number, Report(20, {"eval/nll": 1.0}, node="n")),
        "stop": lambda: frozen.report(number, Report(20, {"eval/nll": float("nan")})),
        "fail": lambda: frozen.fail(number, "broken"),
        "damaged": lambda: frozen.damaged(number, "c", "optimizer.pt is missing"),
    }
    with pytest.raises(LeaseLost, match=f"trial {number} of s: another driver has ended it meanwhile"):
        acts[act]()
    frozen.leave()
    assert (states(other)[number], stored(other, number).value) == ("COMPLETE", 0.5)


@pytest.mark.db
def test_a_report_on_postgresql_takes_three_statements(postgresql_url: str) -> None:
    """Two questions, whether another driver has entered a claim or made a trial, and one write."""
    from sqlalchemy import event

    from rankray.store.optuna_private import engine_of

    with open_study(postgresql_url, make_config(study={"trials": 4, "pruner": "auto"})) as store:
        ticket = begin(store)
        assert store.storage.database is not None
        run_to = [Report(step, {"eval/nll": 1.0 + 1 / step, "train/loss": 0.5}, f"c-{step}") for step in (10, 20, 30)]
        store.report(ticket.number, run_to[0])  # reads what its creation has written
        statements: list[str] = []
        event.listen(
            engine_of(store.storage.database), "before_cursor_execute", lambda *given: statements.append(given[2])
        )
        verdicts = [store.report(ticket.number, each) for each in run_to[1:]]
        assert verdicts == [Verdict(stop=False)] * 2
        assert len(statements) <= 2 * 3 + 12, "now and then everything is read"
        assert sum("trial_user_attributes" in each and "INSERT" in each for each in statements) == 2
        with open_study(postgresql_url, store.config) as other:
            seen = other.trials()[ticket.number]
    assert seen.intermediate_values == {each.step: each.metrics["eval/nll"] for each in run_to}


@pytest.mark.db
def test_on_postgresql_no_node_of_a_trial_is_forgotten(postgresql_url: str) -> None:
    """A report that names a node writes twice; what this driver keeps of the trial has both."""
    from rankray.store.records import nodes_of

    with open_study(postgresql_url, make_config(study={"trials": 4, "pruner": "auto"})) as store:
        number = begin(store).number
        for step, node in ((10, "one"), (20, ""), (30, "two")):
            store.report(number, Report(step, {"eval/nll": 1.0}, node=node))
        assert [each["node"] for each in nodes_of(stored(store, number))] == ["one", "two"]
        kept = store._history.trials[number]
        assert store._history.knows(number)
        assert store._history.refresh(number)[number] == kept


def test_what_all_drivers_have_finished_is_seen_without_reading(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(study={"trials": 4, "pruner": "none"})
    with open_study(url, config) as one, open_study(url, config) as other:
        for store, value in ((one, 2.0), (other, 1.0)):
            store.complete(begin(store).number, {"eval/nll": value})
        open_trial = begin(one)
        monkeypatch.setattr(one, "storage", None)
        counts, best = one.seen()
        assert counts == {"complete": 2, "pruned": 0, "failed": 0}
        assert best is not None
        assert best[:2] == (1, 1.0)
        monkeypatch.undo()
        one.complete(open_trial.number, {"eval/nll": 3.0})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rankray:step:20", {"stop": False}),
        ("rankray:step:20", {"metrics": [1]}),
        ("rankray:step:20", {"metrics": {"eval/nll": "low"}}),
        ("rankray:end", "complete"),
        ("rankray:end", {"state": "complete", "metrics": 3}),
        ("rankray:end", {"state": "complete", "metrics": {"eval/nll": "low"}}),
        ("rankray:point", ["a", "list"]),
        ("rankray:point", ""),
    ],
)
def test_what_is_malformed_of_a_trial_stops_no_search(file_url: str, key: str, value: object) -> None:
    """It prunes on another metric than it selects on, so that each driver reads the steps of all trials."""
    config = make_config(
        study={"trials": 8, "sampler": "auto", "pruner": "auto", "metric": "eval/accuracy"},
        evaluate={"every_steps": 10, "metrics": ["nll", "accuracy"]},
    )

    def report(store: Any, accuracy: float) -> int:
        ticket = begin(store)
        store.report(ticket.number, Report(10, {"eval/accuracy": accuracy, "eval/nll": 1.0 - accuracy}))
        return ticket.number

    with open_study(file_url, config) as store:
        for accuracy in (0.1, 0.2, 0.3):
            made = trial_id(stored(store, report(store, accuracy)))
            store.storage.set_trial_user_attr(made, key, value)
            store.storage.set_trial_state_values(made, TrialState.COMPLETE, [accuracy])
    with open_study(file_url, config) as store:
        for accuracy in (0.4, 0.5, 0.6):
            store.complete(report(store, accuracy), {"eval/accuracy": accuracy, "eval/nll": 1.0 - accuracy})
    assert states(attach(file_url, "s")) == ["COMPLETE"] * 6
    assert [run.value for run in runs_of(attach(file_url, "s").trials(), "eval/accuracy")] == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
    ]
