"""Models of the hub, pinned to a commit: a hub on this machine, and a cache without a connection."""

from pathlib import Path

import pytest
from fixtures.hub import NEW, OLD, asking, hub_of

from rankray.config import config_from
from rankray.errors import ModelError
from rankray.model.pin import asked_revision, commit_of, pinned

PROBE = """
import json, sys
from rankray.config import config_from
from rankray.errors import ModelError
from rankray.model.pin import pinned
from rankray.model.resident import fresh_model, tokenizer_of
for line in sys.stdin:
    try:
        config = pinned(config_from(json.loads(line)))
    except ModelError as error:
        print(json.dumps(str(error)), flush=True)
        continue
    tokenizer_of(config)
    first = float(fresh_model(config).get_input_embeddings().weight[0, 0])
    print(json.dumps([config.model.revision, first]), flush=True)
"""
"""Pins and loads the model of each configuration that it reads."""


@pytest.fixture
def hub(model_dir):
    """A hub with one model of two commits, whose embeddings differ."""
    from safetensors.torch import load_file, save

    weights = load_file(model_dir / "model.safetensors")
    name = next(key for key in weights if "embed_tokens" in key)
    contents = {}
    for commit, value in ((OLD, 1.0), (NEW, 2.0)):
        weights[name][0, 0] = value
        contents[commit] = save(weights, metadata={"format": "pt"})
    files = {file.name: file.read_bytes() for file in model_dir.iterdir() if file.is_file()}
    commits = {commit: files | {"model.safetensors": content} for commit, content in contents.items()}
    with hub_of(commits, "models") as found:
        yield found


def tree_of(tree, **model):
    return tree() | {"model": model}


def test_a_branch_is_a_commit_for_good(hub, tmp_path, tree):
    """The newest commit when it is asked for the first time; that one afterwards, whatever the branch has become."""
    model = {"path": "org/tiny"}
    with asking(PROBE, hub, tmp_path) as ask, asking(PROBE, hub, tmp_path, offline=True) as ask_offline:
        assert ask(tree_of(tree, **model)) == [OLD, 1.0]
        hub.branches["main"] = NEW
        assert ask(tree_of(tree, **model, revision=OLD)) == [OLD, 1.0]
        assert ask_offline(tree_of(tree, **model)) == [OLD, 1.0], "the cache knows the branch as it was"
        assert ask(tree_of(tree, **model)) == [NEW, 2.0]
        absent = ask(tree_of(tree, path="org/none"))
        assert absent.startswith("model.path: 'org/none' at revision 'main' cannot be found (")


def test_what_is_asked_for_and_what_is_held(tree, model_dir, monkeypatch):
    monkeypatch.setattr("rankray.model.pin.commit_of", lambda model, revision: f"{revision} of {model}")
    config = config_from(tree_of(tree, path="org/tiny"))
    assert asked_revision(config) == "main"
    assert pinned(config).model.revision == "main of org/tiny"
    assert pinned(config, held=OLD).model.revision == OLD
    other = config_from(tree_of(tree, path="org/tiny", revision="v2"))
    assert (asked_revision(other), pinned(other).model.revision) == ("v2", "v2 of org/tiny")
    local = config_from(tree_of(tree, path=str(model_dir)))
    assert (asked_revision(local), pinned(local)) == ("", local)
    main = config_from(tree_of(tree, path=str(model_dir), revision="main"))
    assert pinned(main).model.revision is None, "what is there is the main revision, and the same study as without"
    with pytest.raises(ModelError, match=r"^model.revision: got 'v2' for the local directory"):
        pinned(config_from(tree_of(tree, path=str(model_dir), revision="v2")))


@pytest.mark.parametrize("model", ["not a model", "a/b/c", "org/" + "x" * 500])
def test_an_id_that_cannot_be_one_is_refused(model):
    with pytest.raises(ModelError, match=r"^model.path: .* cannot be found \("):
        commit_of(model, "main")


def test_the_cache_path_names_the_commit(tmp_path, monkeypatch):
    """Read from huggingface_hub 1.x: `.../snapshots/<commit>/config.json`."""
    file = Path(tmp_path, "snapshots", NEW, "config.json")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(file))
    assert commit_of("org/tiny", "main") == NEW
