"""Models of the hub, pinned to a commit: a hub on this machine, and a cache without a connection."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from rankray.config import config_from
from rankray.errors import ModelError
from rankray.model.pin import asked_revision, commit_of, pinned

OLD, NEW = "a" * 40, "b" * 40
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
        print(error, flush=True)
        continue
    tokenizer_of(config)
    print(config.model.revision, float(fresh_model(config).get_input_embeddings().weight[0, 0]), flush=True)
"""
"""Pins and loads the model of each configuration that it reads."""


@pytest.fixture
def hub(model_dir):
    """A hub with one model of two commits, whose embeddings differ; `main` and `branches` say what is where."""
    from safetensors.torch import load_file, save

    weights = load_file(model_dir / "model.safetensors")
    name = next(key for key in weights if "embed_tokens" in key)
    contents = {}
    for commit, value in ((OLD, 1.0), (NEW, 2.0)):
        weights[name][0, 0] = value
        contents[commit] = save(weights, metadata={"format": "pt"})
    branches = {"main": OLD}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body):
            parts = self.path.partition("?")[0].split("/")
            found = None
            if parts[1:4] == ["org", "tiny", "resolve"] and len(parts) == 6:
                commit = branches.get(parts[4], parts[4])
                file = model_dir / parts[5]
                if commit in contents and file.is_file():
                    found = contents[commit] if parts[5] == "model.safetensors" else file.read_bytes()
            self.send_response(200 if found is not None else 404)
            if found is not None:
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hash(found) & (2**64 - 1):040x}"')
            elif "/org/tiny/" in self.path:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            if body and found:
                self.wfile.write(found)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(branches=branches, url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def tree_of(tree, **model):
    return tree() | {"model": model}


@contextmanager
def probe(hub, cache, offline=False):
    """Give a function that has a process of its own pin and load a model, and returns what it says."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROBE], env=environment, **pipes) as process:

        def ask(made):
            process.stdin.write(json.dumps(made) + "\n")
            process.stdin.flush()
            return process.stdout.readline()

        yield ask
        process.stdin.close()


def test_a_branch_is_a_commit_for_good(hub, tmp_path, tree):
    """The newest commit when it is asked for the first time; that one afterwards, whatever the branch has become."""
    model = {"path": "org/tiny"}
    with probe(hub, tmp_path) as ask, probe(hub, tmp_path, offline=True) as ask_offline:
        assert ask(tree_of(tree, **model)).split() == [OLD, "1.0"]
        hub.branches["main"] = NEW
        assert ask(tree_of(tree, **model, revision=OLD)).split() == [OLD, "1.0"]
        assert ask_offline(tree_of(tree, **model)).split() == [OLD, "1.0"], "the cache knows the branch as it was"
        assert ask(tree_of(tree, **model)).split() == [NEW, "2.0"]
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
