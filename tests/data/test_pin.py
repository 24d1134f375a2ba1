"""Datasets of the hub, pinned to a commit: a hub on this machine, and a cache without a connection."""

import json

import pytest
from fixtures.hub import NEW, OLD, asking, hub_of

from rankray.config import config_from
from rankray.data.pin import asked_revisions, commit_of, pinned
from rankray.data.sources import revision_of
from rankray.errors import DataError

PROBE = """
import json, sys
from functools import partial
from rankray.config import config_from
from rankray.data.pin import pinned
from rankray.data.hub import HubOrigin
from rankray.data.sources import Source
from rankray.errors import DataError
for line in sys.stdin:
    try:
        config = pinned(config_from(json.loads(line)))
        hub = partial(HubOrigin, streaming=config.data.streaming)
        found = list(Source("train", config.data, hub=hub).placed())
        print(json.dumps([config.data.revision, found[0].example.completion]), flush=True)
    except DataError as error:
        print(json.dumps(str(error)), flush=True)
"""


@pytest.fixture
def hub():
    """A hub with one dataset of two commits, whose answers differ."""
    texts = {
        commit: "".join(json.dumps({"prompt": f"{i}", "completion": answer}) + "\n" for i in range(4)).encode()
        for commit, answer in ((OLD, "old"), (NEW, "new"))
    }
    with hub_of({commit: {"train.jsonl": text} for commit, text in texts.items()}, "datasets") as found:
        yield found


def tree_of(tree, **data):
    made = tree()
    made["data"] = {"train": "org/tiny:train", "eval": "org/tiny:train", **data}
    return made


def test_a_branch_is_a_commit_for_good(hub, tmp_path, tree):
    """The newest commit when it is asked for the first time; that one afterwards, whatever the branch has become."""
    held = tree_of(tree, revision={"org/tiny": OLD})
    with asking(PROBE, hub, tmp_path) as ask:
        assert ask(tree_of(tree, streaming=True)) == [{"org/tiny": OLD}, "old"]
        assert not [*tmp_path.rglob("*.arrow"), *tmp_path.rglob("*.jsonl")], "streaming downloads no file"
        assert ask(tree_of(tree)) == [{"org/tiny": OLD}, "old"]
        hub.branches["main"] = NEW
        assert ask(held) == [{"org/tiny": OLD}, "old"]
        assert ask(tree_of(tree)) == [{"org/tiny": NEW}, "new"]
        absent = ask(tree_of(tree, train="org/none:train"))
        assert absent.startswith("data.revision: 'org/none' at revision 'main' cannot be found (")
        streamed = tree_of(tree, revision={"org/tiny": OLD}, streaming=True, max_examples=3)
        assert ask(streamed) == [{"org/tiny": OLD}, "old"]
        for part in ("[:2]", "[50%:]", "[7:]"):
            sliced = ask(tree_of(tree, train=f"org/tiny:train{part}", revision={"org/tiny": OLD}, streaming=True))
            assert "holds no rows" in sliced if part == "[7:]" else sliced[1] == "old"
    with asking(PROBE, hub, tmp_path, offline=True) as ask:
        assert NEW in str(ask(held)), "the newest in the cache is another commit, which is refused"


def test_what_is_asked_for_and_what_is_held(tree, data_file, monkeypatch):
    monkeypatch.setattr("rankray.data.pin.commit_of", lambda name, revision: f"{revision} of {name}")
    config = config_from(tree_of(tree, test="org/other:c:test", revision={"org/other": "v2"}))
    assert asked_revisions(config) == {"org/tiny": "main", "org/other": "v2"}
    assert pinned(config).data.revision == {"org/tiny": "main of org/tiny", "org/other": "v2 of org/other"}
    assert pinned(config, {"org/tiny": OLD}).data.revision == {"org/tiny": OLD, "org/other": "v2 of org/other"}
    mixture = [{"path": "org/a:train[:5%]"}, {"path": str(data_file)}]
    config = config_from(tree_of(tree, train=mixture, revision="v1"))
    assert asked_revisions(config) == {"org/a": "v1", "org/tiny": "v1"}
    two = [{"path": "org/a:train", "revision": "v2"}, {"path": "org/a:train[:9]", "revision": "v1"}, "org/b:train"]
    config = config_from(tree_of(tree, train=two))
    assert asked_revisions(config) == {"org/a@v2": "v2", "org/a@v1": "v1", "org/b": "main", "org/tiny": "main"}
    held = pinned(config, {"org/a@v1": OLD}).data
    assert held.revision["org/a@v1"] == OLD
    assert held.revision["org/a@v2"] == "v2 of org/a"
    assert [revision_of(e.path, held, "w", e.revision) for e in held.train] == ["v2 of org/a", OLD, "main of org/b"]
    searched = tree_of(tree) | {"space": {"data.train": {"choice": ["org/tiny:train", "org/b:train"]}}}
    assert asked_revisions(config_from(searched)) == {"org/tiny": "main", "org/b": "main"}
    further = tree_of(tree)
    further["evaluate"] |= {"also": {"more": {"data": "org/more:test", "metrics": ["nll"]}}}
    assert asked_revisions(config_from(further)) == {"org/tiny": "main", "org/more": "main"}
    wrong = config_from(tree_of(tree, train="notes.txt", eval="x"))
    assert asked_revisions(wrong) == {}, "refused elsewhere, with the line"
    local = config_from(tree())
    assert pinned(local) is local


def test_a_commit_is_taken_as_it_is():
    assert commit_of("org/none", OLD) == OLD


@pytest.mark.parametrize("name", ["not a name", "a/b/c"])
def test_an_id_that_cannot_be_one_is_refused(name):
    with pytest.raises(DataError, match=r"^data.revision: .* cannot be found \("):
        commit_of(name, "main")
