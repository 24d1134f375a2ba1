"""Studies of earlier versions open; `fixtures/make_schema_0.py` says how the stored ones were made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from rankray.config.schema import Config
from rankray.errors import StoreError, StudyMismatch
from rankray.store import attach, migrate, open_study, views
from rankray.store.claims import IDENTITY, SUFFIX, Claims
from rankray.store.migrate import CONFIG, SCHEMA, current
from rankray.store.move import copy_study
from store.helpers import begin, drive, make_config, run_trial, stored

FIXTURES = Path(__file__).parent / "fixtures"
STUDY = {"trials": 6, "known": ["sft"], "warm_start": [{"train.learning_rate": 1e-4}]}


@pytest.fixture(params=["sqlite:///schema-0.db", "journal:///schema-0.log"], ids=["sqlite", "journal"])
def old_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store with a study, `s`, that commit 1849847 wrote."""
    scheme, _, name = str(request.param).partition(":///")
    shutil.copy(FIXTURES / name, tmp_path / name)
    return f"{scheme}:///{tmp_path}/{name}"


def attributes(store: Any) -> dict[str, Any]:
    return dict(store.storage.get_study_user_attrs(store.study_id))


def test_a_new_study_has_the_schema_s_number(url: str) -> None:
    store = open_study(url, make_config())
    assert attributes(store)[SCHEMA] == current() == len(migrate.STEPS)
    claims = Claims(store.storage, store.storage.get_study_id_from_name("s" + SUFFIX))
    claims.refresh()
    assert claims.first(IDENTITY)["schema"] == current()


def test_an_earlier_study_is_shown_without_being_changed(old_url: str) -> None:
    view = attach(old_url, "s")
    assert SCHEMA not in attributes(view)
    assert view.provenance == {"data": "d1", "model": "m1"}
    assert view.identity
    counts = view.counts()
    assert (counts.complete, counts.pruned, counts.failed, counts.waiting) == (1, 1, 1, 1)
    whole, pruned, failed, waiting = (views.trial(view, number) for number in range(4))
    assert (whole["value"], whole["metrics"]["eval/accuracy"], whole["checkpoint"]) == (1.0, 0.5, "checkpoint-40")
    assert [step["step"] for step in whole["steps"]] == [10, 20, 30, 40]
    assert (pruned["value"], pruned["step"], pruned["origin"]) == (9.0, 10, "warm_start")
    assert pruned["reason"].startswith("successive_halving at step 10")
    assert (failed["reason"], failed["traceback"]) == ("out of memory", "Traceback: here")
    lost = {"reason": "preempted", "steps": 3, "wall_seconds": 1.5, "preempted": False, "at": ""}
    assert waiting["work_lost"] == [lost]
    assert SCHEMA not in attributes(view), "to look at a study writes nothing"


def test_an_earlier_study_is_resumed_and_finished(old_url: str) -> None:
    before = {number: views.trial(attach(old_url, "s"), number) for number in range(3)}
    identity = attach(old_url, "s").identity
    store = open_study(old_url, make_config(study=STUDY), provenance={"data": "d1", "model": "m1"})
    assert attributes(store)[SCHEMA] == current()
    with store:
        ticket = begin(store)
        assert (ticket.number, ticket.adopted, ticket.checkpoint) == (3, True, "checkpoint-10")
        assert ticket.history == [{"step": 10, "eval/nll": 0.9, "train/loss": 0.5}]
        run_trial(store, ticket)
    drive(store)
    assert (store.finished, store.identity) == (6, identity)
    assert stored(store, 3).state in (TrialState.COMPLETE, TrialState.PRUNED)
    assert {number: views.trial(attach(old_url, "s"), number) for number in range(3)} == before
    assert sum(trial.user_attrs["rankray:origin"] == "baseline:sft" for trial in store.trials()) == 1


def test_an_earlier_study_continues_with_the_loss_it_began_with(old_url: str, url: str) -> None:
    known = {"data": "d1", "model": "m1"}
    assert attach(old_url, "s").config.loss.low_entropy == "bound"
    store = open_study(old_url, make_config(study=STUDY), provenance=known)
    assert (store.config.loss.low_entropy, store.config.loss.min_competence) == ("bound", 0.0)
    given = make_config(study=STUDY, loss={"low_entropy": "max_prob", "min_competence": 1e-6})
    with pytest.raises(StudyMismatch, match=r"loss\.low_entropy: stored bound, given max_prob"):
        open_study(old_url, given, provenance=known)
    new = open_study(url, make_config())
    assert (new.config.loss.low_entropy, new.config.loss.min_competence) == ("max_prob", 1e-6)
    assert (attach(url, "s").config.loss.low_entropy, new.config) == ("max_prob", make_config())


def test_an_earlier_study_continues_with_the_strategies_it_began_with(old_url: str, url: str) -> None:
    """The file leaves sampler, pruner and known settings to the defaults, which are others now."""
    tree = make_config(study=STUDY).model_dump(mode="json")
    del tree["loss"]
    for field in ("sampler", "pruner", "prune_on", "known"):
        del tree["study"][field]
    left_out = Config.model_validate(tree | {"store": old_url})
    assert left_out.study.sampler == left_out.study.pruner == "auto"
    store = open_study(old_url, left_out, provenance={"data": "d1", "model": "m1"})
    study = store.config.study
    assert (study.sampler, study.pruner, study.prune_on) == ("random", "successive_halving", "eval/nll")
    assert study.known == ["sft"]
    assert attach(old_url, "s").config.study.pruner == "successive_halving"
    assert open_study(url, left_out).config.study.sampler == "auto", "a new study has the new defaults"
    given = make_config(study={**STUDY, "pruner": "auto"})
    with pytest.raises(StudyMismatch, match=r"study\.pruner: stored successive_halving, given auto"):
        open_study(old_url, given, provenance={"data": "d1", "model": "m1"})


def test_a_copy_of_an_earlier_study_opens_too(old_url: str, sqlite_url: str) -> None:
    assert copy_study(old_url, sqlite_url, "s") == 4
    copied = open_study(sqlite_url, make_config(study=STUDY), provenance={"data": "d1", "model": "m1"})
    assert attributes(copied)[SCHEMA] == current()
    drive(copied)
    assert copied.finished == 6


def renamed(identity: dict[str, Any]) -> dict[str, Any]:
    """A step for these tests: what was `train.max_steps` in it is `train.steps` from now on, and counted in tens."""
    config = {**identity["config"], "train": dict(identity["config"]["train"])}
    if "max_steps" in config["train"]:
        config["train"]["steps"] = config["train"].pop("max_steps") // 10
    return {**identity, "config": config}


def back(stored: dict[str, Any], url: str) -> Config:
    """Read a configuration of that schema, as a version would that has the new field."""
    train = {"max_steps": stored["train"]["steps"] * 10} | {k: v for k, v in stored["train"].items() if k != "steps"}
    return Config.model_validate({**stored, "train": train, "store": url})


def test_steps_are_applied_in_memory_to_look_and_stored_to_work(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rankray.store import identity, study

    monkeypatch.setattr(migrate, "STEPS", (*migrate.STEPS, renamed))
    snapshot = identity.snapshot
    monkeypatch.setattr(identity, "restore", back)
    monkeypatch.setattr(study, "readable", lambda stored, url: (back(stored, url), []))
    for module in (identity, study):
        monkeypatch.setattr(module, "snapshot", lambda config: renamed({"config": snapshot(config)})["config"])
    view = attach(old_url, "s")
    assert view.config.train.max_steps == 40
    assert attributes(view)[CONFIG]["train"]["max_steps"] == 40
    config, known = make_config(study=STUDY), {"data": "d1", "model": "m1"}
    for _ in range(2):
        store = open_study(old_url, config, provenance=known)
        assert attributes(store)[SCHEMA] == current()
        assert attributes(store)[CONFIG]["train"]["steps"] == 4
        assert "max_steps" not in attributes(store)[CONFIG]["train"]
    assert attach(old_url, "s").config.train.max_steps == 40
    store.storage.set_study_user_attr(store.study_id, SCHEMA, None)  # as a kill between the two writes leaves it
    open_study(old_url, config, provenance=known)
    assert attributes(store)[SCHEMA] == current()
    assert attributes(store)[CONFIG]["train"]["steps"] == 4


def test_a_newer_study_is_refused_and_left_as_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "STEPS", (*migrate.STEPS, lambda identity: identity))
        open_study(url, make_config())
    for look in (lambda: attach(url, "s"), lambda: open_study(url, make_config())):
        with pytest.raises(StoreError) as caught:
            look()
        assert f"study s: stored with schema {current() + 1} by a newer version of rankray" in str(caught.value)
        assert f"up to schema {current()}, " in str(caught.value)
        assert str(caught.value).endswith("upgrade rankray")
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "STEPS", (*migrate.STEPS, lambda identity: identity))
        assert attributes(attach(url, "s"))[SCHEMA] == current()


def test_names_that_are_there_twice_in_a_stored_study_are_there_once() -> None:
    """Earlier versions took them, today's refuse them: the study opens, with a file that has them once."""
    made = make_config(evaluate={"every_steps": 10, "metrics": ["nll", "accuracy"]}).model_dump(mode="json")
    more = {"data": "x.jsonl", "metrics": ["accuracy", "accuracy"]}
    evaluate = {**made["evaluate"], "metrics": ["nll", "accuracy", "nll"], "also": {"x": more}}
    model = {**made["model"], "lora": {"target_modules": ["q", "v", "q"]}}
    repeated = {**made, "logging": ["mlflow", "mlflow"], "evaluate": evaluate, "model": model}
    found = migrate.migrated_config("s", {CONFIG: repeated, SCHEMA: current()})
    assert found["logging"] == ["mlflow"]
    assert found["evaluate"]["metrics"] == ["nll", "accuracy"]
    assert found["evaluate"]["also"]["x"]["metrics"] == ["accuracy"]
    assert found["model"] == {**made["model"], "lora": {"target_modules": ["q", "v"]}}
    assert Config.model_validate(found).evaluate.metrics == ["nll", "accuracy"]
    assert migrate.migrated("s", {"config": repeated, "schema": current()})["config"] == found
    for malformed in ({"logging": [{}], "evaluate": {"metrics": 3, "also": {"x": 3}}}, {"evaluate": 3}, 3, None):
        assert migrate.migrated("s", {"config": malformed, "schema": current()})["config"] == malformed
