"""A study keeps the commits of its model and data; its drivers, confirmations and evaluations take those."""

from dataclasses import replace

import pytest

from rankray.cli.pins import pin, pin_run, pinned_as
from rankray.config import LoadedConfig, config_from
from rankray.search.confirm import confirmed_config
from rankray.store import attach, open_study


@pytest.fixture
def hub(monkeypatch):
    """What each branch is now, of models and of datasets; a name that is not asked for is `main`."""
    now = {"main": "a" * 40}

    def commit_of(name, revision):
        return now.get(revision, revision)

    monkeypatch.setattr("rankray.model.pin.commit_of", commit_of)
    monkeypatch.setattr("rankray.data.pin.commit_of", commit_of)
    return now


@pytest.fixture
def loaded(tree, tmp_path):
    def make(**data):
        made = tree() | {"model": {"path": "org/model"}, "store": f"sqlite:///{tmp_path}/s.db"}
        made["data"] = {"train": "org/data:train", "eval": "org/data:dev", **data}
        made["space"] = {"loss.objective": {"choice": ["sft", "rri"]}}
        return LoadedConfig(config_from(made), "x.yaml", {})

    return make


def commits(config):
    return config.model.revision, config.data.revision


A, B = "a" * 40, "b" * 40


def test_a_study_keeps_what_it_was_opened_with(hub, loaded):
    first, asked = pin(loaded())
    assert commits(first.config) == (A, {"org/data": A})
    assert asked == {"model_revision": "main", "data_revisions": {"org/data": "main"}}
    open_study(first.config.store, first.config, provenance=asked)
    hub["main"] = B
    again, asked = pin(loaded())
    assert commits(again.config) == (A, {"org/data": A})
    open_study(again.config.store, again.config, provenance=asked)
    written = loaded(revision="main")
    assert commits(pin(written)[0].config) == (A, {"org/data": A}), "the same revision in another spelling"
    tested, asked = pin(loaded(test="org/other:test"))
    assert commits(tested.config) == (A, {"org/data": A, "org/other": B})
    open_study(tested.config.store, tested.config, provenance=asked)
    other, asked = pin(loaded(revision="v2"))
    with pytest.raises(Exception, match=r"data.revision.org/data: stored a+, given v2"):
        open_study(other.config.store, other.config, provenance=asked)


def test_a_study_that_pinned_nothing_stays_as_it_is(hub, loaded):
    config = loaded().config
    open_study(config.store, config, provenance={})
    found, asked = pin(loaded())
    assert (commits(found.config), asked) == ((None, None), {})
    open_study(found.config.store, found.config, provenance=asked)


def test_a_confirmation_takes_the_commits_of_its_search(hub, loaded):
    opened, asked = pin(loaded())
    open_study(opened.config.store, opened.config, provenance=asked)
    hub["main"] = B
    search = attach(opened.config.store, opened.config.name)
    _, config = confirmed_config(search, opened.config.store, {"data.test": "org/other:test"})
    confirmation, asked = pin(LoadedConfig(config, "x.yaml", {}))
    assert commits(confirmation.config) == (A, {"org/data": A, "org/other": B})
    open_study(config.store, confirmation.config, provenance=asked)
    hub["main"] = "c" * 40
    resumed, _ = pin(LoadedConfig(config, "x.yaml", {}))
    assert commits(resumed.config) == (A, {"org/data": A, "org/other": B}), "a test set is pinned once, too"


def test_a_run_by_itself_and_what_evaluates_it(hub, loaded):
    trained = pin_run(loaded()).config
    assert commits(trained) == (A, {"org/data": A})
    hub["main"] = B
    assert commits(pinned_as(loaded().config, trained)) == (A, {"org/data": A})
    assert commits(pinned_as(loaded(revision="v2").config, trained)) == (A, {"org/data": "v2"})
    local = replace(
        loaded(), config=trained.model_copy(update={"data": loaded(train="t.jsonl", eval="e.jsonl").config.data})
    )
    assert local.config.data.revision is None
    assert pinned_as(local.config, trained).data.revision is None


def test_an_entry_of_a_mixture_keeps_the_commit_of_its_own_revision(hub, loaded):
    entries = [{"path": "org/data:train", "revision": "v2"}, "org/data:more"]
    hub["v2"] = "c" * 40
    first, asked = pin(loaded(train=entries))
    taken = first.config.data.revision
    assert asked["data_revisions"] == {"org/data@v2": "v2", "org/data": "main"}
    assert taken == {"org/data@v2": "c" * 40, "org/data": A}
    open_study(first.config.store, first.config, provenance=asked)
    hub |= {"main": B, "v2": B}
    again, asked = pin(loaded(train=entries))
    assert again.config.data.revision == taken
    open_study(again.config.store, again.config, provenance=asked)
    assert pin(first)[0].config.data.revision == taken, "what is pinned stays, as in a confirmation"
    assert pinned_as(loaded(train=entries).config, first.config).data.revision == taken
    pinned_now = pinned_as(loaded(train=[{**entries[0], "revision": "v3"}, entries[1]]).config, first.config)
    assert pinned_now.data.revision == {"org/data@v3": "v3", "org/data": A}
