from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from rankray.config.params import set_path
from rankray.errors import StoreError, StoreUnavailable, StudyMismatch
from rankray.store import attach, list_studies, open_study, views
from rankray.store.backend import connect
from rankray.store.migrate import CONFIG
from rankray.store.move import copy_study, delete_study
from rankray.store.optuna_private import trial_id
from rankray.store.overview import overview
from rankray.store.records import END
from rankray.store.repair import repair
from store.helpers import begin, drive, make_config, run_trial, states, stored

SECRET = "hunter2-planted"


def everything(storage: Any) -> str:
    """All that a store holds, as one text."""
    found = [str(vars(study)) for study in storage.get_all_studies()]
    for study in storage.get_all_studies():
        found += [str(vars(trial)) for trial in storage.get_all_trials(study._study_id)]
    return "\n".join(found)


def test_another_configuration_is_refused_field_by_field(url: str) -> None:
    store = open_study(url, make_config(), provenance={"data": "d1", "model": "m1", "host": "h"})
    other = make_config(
        loss={"temperature": 2.0},
        train={"max_steps": 80},
        space={"loss.entropy_weight": {"float": [0.0, 1.0]}},
        study={"known": ["sft"]},
    )
    with pytest.raises(StudyMismatch) as caught:
        open_study(url, other, provenance={"data": "d2", "model": "m1", "host": "other"})
    text = str(caught.value)
    for line in (
        "loss.temperature: stored 1.0, given 2.0",
        "train.max_steps: stored 40, given 80",
        'study.known: stored [], given ["sft"]',
        'space.loss.entropy_weight: stored nothing, given {"float": [0.0, 1.0]}',
        "data: stored d1, given d2",
        "--name other",
    ):
        assert line in text
    assert "space.train.learning_rate: stored {" in text
    assert "host" not in text
    assert "model" not in text
    assert store.storage.get_study_user_attrs(store.study_id)["rankray:config"]["train"]["max_steps"] == 40


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        (None, "{{ 1 }}\n", r"stored null, given '{{ 1 }}\n'"),
        ("{{ 1 }}", "plain", "stored {{ 1 }}, given plain"),
        ("{{ 1 }}" * 40 + "old", "{{ 1 }}" * 40 + "new", f"stored ...'{('{{ 1 }}' * 5)[-30:]}old', given ...'"),
        ("{{ 1 }}" * 40, "{{ 1 }}" * 90, "stored ...'}}{{ 1 }}"),
    ],
)
def test_of_two_long_texts_the_part_is_shown_where_they_differ(url: str, old: str | None, new: str, shown: str) -> None:
    data = {"train": "t.jsonl", "eval": "e.jsonl"}
    open_study(url, make_config(data={**data, "chat_template": old}))
    with pytest.raises(StudyMismatch) as caught:
        open_study(url, make_config(data={**data, "chat_template": new}))
    [line] = [line for line in str(caught.value).splitlines() if "data.chat_template" in line]
    assert shown in line
    assert len(line) < 300


def test_free_fields_may_change(url: str) -> None:
    open_study(url, make_config())
    again = open_study(
        url,
        make_config(
            study={"trials": 80, "max_failures_per_trial": 2},
            resources={"workers": 2},
            store="sqlite:///elsewhere.db",
            storage="elsewhere",
            train={"max_steps": 40, "threads": 3},
        ),
    )
    assert again.budget == 80
    assert attach(url, "s").budget == 80


def test_of_drivers_that_extend_a_study_at_once_the_largest_number_stays(sqlite_url: str) -> None:
    for order in itertools.permutations(range(3)):
        drivers = [open_study(sqlite_url, make_config(study={"trials": trials})).join() for trials in (66, 75, 63)]
        assert attach(sqlite_url, "s").budget == 75, "the last one to open it has asked for less"
        for index in order:
            drivers[index].leave()
            assert attach(sqlite_url, "s").budget == 75
    drivers[2].join()
    assert open_study(sqlite_url, make_config(study={"trials": 70})).budget == 70
    assert attach(sqlite_url, "s").budget == 70, "nobody who asked for more is there"
    drivers[2].leave()
    assert attach(sqlite_url, "s").budget == 70


def test_a_study_is_made_shorter_down_to_what_is_finished(sqlite_url: str) -> None:
    drive(open_study(sqlite_url, make_config(study={"trials": 3})))
    for given, shown in ((9, 9), (5, 5), (2, 3)):
        open_study(sqlite_url, make_config(study={"trials": given}))
        assert attach(sqlite_url, "s").budget == shown


@pytest.mark.parametrize("killed", [True, False])
def test_a_study_made_shorter_has_no_more_finished_trials_than_asked_for(url: str, killed: bool) -> None:
    """What was running when it was longer is resumed only as far as there is room; the rest stays for a longer one."""
    first = open_study(url, make_config(study={"trials": 8, "pruner": "none"})).join()
    for _ in range(3):
        run_trial(first, begin(first))
    for _ in range(4):
        begin(first)
    first._lease.drop() if killed else first.leave()
    second, third = (open_study(url, make_config(study={"trials": 5, "pruner": "none"})).join() for _ in range(2))
    tickets = [second.next_trial(), third.next_trial()]
    assert [ticket and ticket.number for ticket in tickets] == [3, 4]
    assert (second.next_trial(), third.next_trial()) == (None, None)
    assert states(second)[5:] == ["WAITING"] * 2
    third.fail(4, "broken", retry=False)
    fifth = begin(second)
    assert fifth.number == 5
    for ticket in (tickets[0], fifth):
        run_trial(second, ticket)
    assert (second.finished, second.done, second.next_trial()) == (5, True, None)
    second.leave()
    third.leave()
    longer = open_study(url, make_config(study={"trials": 6, "pruner": "none"}))
    drive(longer)
    assert (longer.finished, states(longer)[6]) == (6, "COMPLETE")


def test_a_trial_whose_end_is_committed_is_ended_where_no_place_is_left(url: str) -> None:
    first = open_study(url, make_config(study={"trials": 4, "pruner": "none"})).join()
    run_trial(first, begin(first))
    ended, open_one = begin(first), begin(first)
    first.storage.set_trial_user_attr(
        trial_id(stored(first, ended.number)), END, {"state": "complete", "value": 1.0, "metrics": {"eval/nll": 1.0}}
    )
    first._lease.drop()
    with open_study(url, make_config(study={"trials": 2, "pruner": "none"})) as second:
        assert second.next_trial() is None
        assert states(second) == ["COMPLETE", "COMPLETE", "WAITING"]
        assert open_one.number == 2


def test_a_search_that_has_ended_leaves_nothing_running(url: str) -> None:
    """Nobody asks for a trial any more, so nobody adopts what a killed driver left."""
    first = open_study(url, make_config(study={"trials": 4, "pruner": "none"})).join()
    run_trial(first, begin(first))
    begin(first)
    first._lease.drop()
    second = open_study(url, make_config(study={"trials": 1, "pruner": "none"}))
    assert second.done
    second.give_back_orphans()
    assert states(second) == ["COMPLETE", "WAITING"]
    assert second.drivers() == {}


def test_another_spelling_is_no_difference_and_other_content_is(url: str, tmp_path: Path) -> None:
    prints = {"data": {"train": "sha256:1", "eval": "sha256:2"}, "model": "sha256:3"}
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    data = {"train": f"{tmp_path}/here/a.jsonl", "eval": "b.jsonl"}
    open_study(url, make_config(data=data, model={"path": f"{tmp_path}/here"}), provenance=prints)
    data["train"] = f"{tmp_path}/link/../link/a.jsonl"
    open_study(url, make_config(data=data, model={"path": f"{tmp_path}/link"}), provenance=prints)
    moved = make_config(data={"train": "/elsewhere/a.jsonl", "eval": "b.jsonl"}, model={"path": "/elsewhere/m"})
    open_study(url, moved, provenance=prints)
    with pytest.raises(StudyMismatch, match=r"data.train: stored .*here/a.jsonl, given /elsewhere/a.jsonl"):
        open_study(url, moved, provenance={"data": {"train": "sha256:9", "eval": "sha256:2"}, "model": "sha256:3"})
    with pytest.raises(StudyMismatch, match=r"model.path: stored"):
        open_study(
            url, make_config(data=data, model={"path": "org/model"}), provenance={**prints, "model": "org/model"}
        )


def test_a_default_written_out_and_sizes_that_change_no_result_are_no_difference(url: str) -> None:
    open_study(url, make_config())
    written = {"batch_size": 7, "every_steps": 10, "max_new_tokens": 128}
    train = {"max_steps": 40, "micro_batch_size": 8, "learning_rate": 5e-5}
    open_study(url, make_config(evaluate=written, train=train, loss={"alpha": 1.0}))


def test_choices_of_files_may_be_spelled_in_another_way(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna takes "a.jsonl" and its absolute path for two choices, and refuses a trial with other choices."""
    monkeypatch.chdir(tmp_path)
    space = {"data.train": {"choice": ["a.jsonl", "b.jsonl", "c.jsonl"]}}
    with open_study(url, make_config(space=space)) as study:
        first = study.next_trial()
        study.complete(first.number, {"eval/nll": 1.0})
    absolute = {"data.train": {"choice": [f"{tmp_path}/{name}.jsonl" for name in "abc"]}}
    with open_study(url, make_config(space=absolute)) as study:
        second = study.next_trial()
        assert {first.params["data.train"], second.params["data.train"]} < {"a.jsonl", "b.jsonl", "c.jsonl"}
        assert len({first.params["data.train"], second.params["data.train"]}) == 2


def test_a_field_that_did_not_exist_yet_counts_as_its_default(file_url: str) -> None:
    from rankray.store.identity import check_same, snapshot

    new = snapshot(make_config())
    old = json.loads(json.dumps(new))
    del old["loss"]["alpha"]
    check_same("s", {"config": old}, {"config": new})
    with pytest.raises(StudyMismatch, match=r"loss.alpha: stored 1.0, given 0.5"):
        check_same("s", {"config": old}, {"config": snapshot(make_config(loss={"alpha": 0.5}))})


def test_an_unknown_study_is_answered_with_the_nearest(url: str) -> None:
    for name in ("gsm8k", "math"):
        open_study(url, make_config(name=name))
    assert list_studies(url) == ["gsm8k", "math"]
    with pytest.raises(StoreError) as caught:
        attach(url, "gsm8")
    assert "did you mean 'gsm8k'?" in str(caught.value)
    assert "gsm8k, math" in str(caught.value)


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_looking_makes_no_file(kind: str, tmp_path: Path) -> None:
    missing = f"{kind}:///{tmp_path}/deep/none.file"
    for look in (lambda: attach(missing, "s"), lambda: list_studies(missing)):
        with pytest.raises(StoreError, match="no such file"):
            look()
    assert list(tmp_path.iterdir()) == []
    open_study(missing, make_config())
    assert (tmp_path / "deep" / "none.file").is_file()


def test_studies_in_one_store_keep_apart(file_url: str) -> None:
    one = open_study(file_url, make_config(name="one", study={"trials": 3}))
    two = open_study(file_url, make_config(name="two", study={"trials": 2}))
    drive(one)
    drive(two)
    assert (one.finished, two.finished) == (3, 2)
    assert [trial.number for trial in two.trials()] == [0, 1]


@pytest.mark.db
def test_a_password_goes_nowhere(postgresql_url: str, tmp_path: Path) -> None:
    """The server lets everybody in, so any password may stand in the URL."""
    user, _, rest = postgresql_url.partition("@")
    planted = f"{user.rstrip(':')}:{SECRET}@{rest}"
    config = make_config(store=planted, study={"trials": 2})
    store = open_study(planted, config, provenance={"data": "d"})
    with store:
        ticket = store.next_trial()
        assert ticket is not None
        run_trial(store, ticket)
        shown = [repr(store), store.url, repr(store.storage), str(views.status(store)), str(ticket)]
        shown += [str(views.trial(store, 0)), str(views.objectives(store)), str(store.drivers())]
    shown += [everything(store.storage), attach(planted, "s").config.store]
    errors = []
    for wrong in (
        lambda: open_study(planted, make_config(train={"max_steps": 7})),
        lambda: attach(planted, "none"),
        lambda: store.complete(99, {}),
    ):
        with pytest.raises(StoreError) as caught:
            wrong()
        errors.append(str(caught.value) + repr(caught.value))
    text = "\n".join(shown + errors)
    assert SECRET not in text
    assert ":***@" in text


@pytest.mark.usefixtures("impatient")
def test_a_server_that_does_not_answer_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    with pytest.raises(StoreUnavailable) as caught:
        open_study(f"postgresql://user:{SECRET}@127.0.0.1:1/d", make_config())
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert "postgresql://user:***@127.0.0.1:1/" in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_test_split_may_be_given_later_but_not_exchanged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    first, second = ({"data": {"train": "a", "eval": "b", "test": name}} for name in ("c", "d"))
    plain = {"data": {"train": "a", "eval": "b"}}
    without, given, other = (
        config.model_copy(update={"data": config.data.model_copy(update={"test": name})})
        for config, name in ((make_config(), None), (make_config(), "one.jsonl"), (make_config(), "other.jsonl"))
    )
    open_study(url, without, provenance=plain)
    assert open_study(url, given, provenance=first).config.data.test == "one.jsonl"
    renamed = [config.model_copy(update={"name": "again"}) for config in (given, other)]
    open_study(url, renamed[0], provenance=first)
    with pytest.raises(StudyMismatch, match=r"data\.test: stored one\.jsonl, given other\.jsonl"):
        open_study(url, renamed[1], provenance=first)
    with pytest.raises(StudyMismatch, match="data: stored"):
        open_study(url, renamed[0], provenance=second)
    with pytest.raises(StudyMismatch, match="data: stored"):
        open_study(url, given, provenance={"data": {"train": "other", "eval": "b", "test": "c"}})


def test_data_that_the_space_may_choose_are_those_of_the_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    first, second = ({"choices": {"data.train: a": "sha256:1", "data.train: b": each}} for each in ("2", "3"))
    open_study(url, make_config(), provenance=first)
    open_study(url, make_config(), provenance={"choices": {"data.train: a": "sha256:1"}})
    with pytest.raises(StudyMismatch, match="choices: stored"):
        open_study(url, make_config(), provenance=second)


def test_a_study_that_another_program_made_is_not_taken_for_ours(any_url: str) -> None:
    """Its trials would count, and the best of them be shown with a command that trains nothing."""
    storage = connect(any_url)
    other = optuna.create_study(storage=storage, study_name="s")
    other.optimize(lambda trial: trial.suggest_float("x", 0.0, 1.0), n_trials=1)
    with pytest.raises(StoreError, match=r"^study s: .* a study of this name that is not one of rankray's.* --name"):
        open_study(any_url, make_config())
    assert [study.study_name for study in storage.get_all_studies()] == ["s"]
    assert open_study(any_url, make_config(name="t")).finished == 0


def made_otherwise(url: str, **changes: Any) -> None:
    """Leave a study as another version would have, which allowed or knew more."""
    storage = connect(url)
    study_id = storage.get_study_id_from_name("s")
    config = storage.get_study_user_attrs(study_id)[CONFIG]
    for path, value in changes.items():
        set_path(config, path.replace("__", "."), value)
    storage.set_study_user_attr(study_id, CONFIG, config)


def test_what_another_version_made_is_looked_at_copied_and_deleted(url: str, tmp_path: Path) -> None:
    space = {"train.seed": {"choice": [1, 2, 3]}}
    store = open_study(url, make_config(space=space, study={"trials": 2, "pruner": "none"}))
    with store:
        for _ in range(2):
            ticket = begin(store)
            store.complete(ticket.number, {"eval/nll": 1.0 + ticket.number})
    before = attach(url, "s")
    shown = [views.status(before), views.best(before), views.trials(before), overview(before)["trials"]]
    left = before.points_left()
    changes = {"evaluate__samples": 20_000, "train__gone": 1, "logging": ["comet"]}
    made_otherwise(url, **changes)
    held = attach(url, "s")
    assert sorted(held.refused) == ["evaluate.samples: 20000", "logging: ['comet']", "train.gone: 1"]
    assert [views.status(held), views.best(held), views.trials(held), overview(held)["trials"]] == shown
    assert held.points_left() == left == 1, "that its configuration is refused says nothing of its points"
    assert held.config.evaluate.samples == 20_000
    said = repair(url)
    assert said == [
        "left as it is: study s: another version of rankray made it, with what this one refuses: "
        + ", ".join(held.refused)
    ]
    target = f"sqlite:///{tmp_path}/target.db"
    assert copy_study(url, target, "s") == 2
    assert sorted(attach(target, "s").refused) == sorted(held.refused)
    delete_study(url, "s")
    assert list_studies(url) == []


def test_a_study_may_begin_with_what_another_version_found(sqlite_url: str) -> None:
    drive(open_study(sqlite_url, make_config(study={"trials": 2})))
    made_otherwise(sqlite_url, evaluate__samples=20_000)
    config = make_config(name="t", study={"warm_start": ["s"]})
    with (store := open_study(sqlite_url, config)):
        assert begin(store).params == views.best(attach(sqlite_url, "s"))["params"]
