"""Datasets of the hub, pinned to a commit: a hub on this machine, and a cache without a connection."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from rankray.config import config_from
from rankray.data.pin import asked_revisions, commit_of, pinned
from rankray.errors import DataError

OLD, NEW = "a" * 40, "b" * 40
PROBE = """
import json, sys
from rankray.config import config_from
from rankray.data.pin import pinned
from rankray.data.hub import HubOrigin
from rankray.data.sources import Source
from rankray.errors import DataError
try:
    config = pinned(config_from(json.loads(sys.argv[1])))
    found = Source("train", config.data, hub=HubOrigin).examples()
except DataError as error:
    print(error)
    sys.exit(2)
print(json.dumps([config.data.revision, found[0].example.completion]))
"""


@pytest.fixture
def hub():
    """A hub with one dataset of two commits, whose answers differ; `branches` says what is where."""
    branches = {"main": OLD}
    texts = {
        commit: "".join(json.dumps({"prompt": f"{i}", "completion": answer}) + "\n" for i in range(4)).encode()
        for commit, answer in ((OLD, "old"), (NEW, "new"))
    }

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def do_POST(self):
            asked = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self.answer(body=True, asked=asked)

        def answer(self, body, asked=""):
            parts = self.path.partition("?")[0].strip("/").split("/")
            status, found, commit = 404, b"", ""
            if parts[:2] == ["api", "datasets"] and parts[2:4] == ["org", "tiny"]:
                kind, revision = (*parts[4:6], "", "")[:2] if len(parts) > 4 else ("", "")
                commit = branches.get(revision or "main", revision)
                entry = {"type": "file", "path": "train.jsonl", "size": len(texts.get(commit, b"")), "oid": commit}
                if commit in texts and kind in ("", "revision"):
                    siblings = [{"rfilename": "train.jsonl"}]
                    found = json.dumps({"id": "org/tiny", "sha": commit, "siblings": siblings}).encode()
                elif commit in texts and kind == "tree":
                    found = json.dumps([entry] if len(parts) == 6 else []).encode()
                elif commit in texts and kind == "paths-info":
                    found = json.dumps([entry] if "train.jsonl" in asked else []).encode()
            elif parts[:4] == ["datasets", "org", "tiny", "resolve"]:
                commit = branches.get(parts[4], parts[4])
                found = texts.get(commit, b"") if parts[5] == "train.jsonl" else b""
            status = 200 if found else 404
            self.send_response(status)
            if found:
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{commit}"')
            else:
                known = "/org/tiny" in self.path
                revision = known and commit not in texts
                self.send_header(
                    "X-Error-Code", "RevisionNotFound" if revision else "EntryNotFound" if known else "RepoNotFound"
                )
            self.send_header("Content-Length", str(len(found)))
            self.send_header("Content-Type", "application/json")
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


def tree_of(tree, **data):
    made = tree()
    made["data"] = {"train": "org/tiny:train", "eval": "org/tiny:train", **data}
    return made


def probe(hub, cache, tree, offline=False):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    words = [sys.executable, "-c", PROBE, json.dumps(tree)]
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def answer(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_branch_is_a_commit_for_good(hub, tmp_path, tree):
    """The newest commit when it is asked for the first time; that one afterwards, whatever the branch has become."""
    assert answer(probe(hub, tmp_path, tree_of(tree))) == [{"org/tiny": OLD}, "old"]
    hub.branches["main"] = NEW
    held = tree_of(tree, revision={"org/tiny": OLD})
    assert answer(probe(hub, tmp_path, held)) == [{"org/tiny": OLD}, "old"]
    assert answer(probe(hub, tmp_path, held, offline=True)) == [{"org/tiny": OLD}, "old"]
    assert answer(probe(hub, tmp_path, tree_of(tree))) == [{"org/tiny": NEW}, "new"]
    other = probe(hub, tmp_path, held, offline=True)
    assert (other.returncode, NEW in other.stdout) in ((0, False), (2, True)), "never another commit in silence"
    absent = probe(hub, tmp_path, tree_of(tree, train="org/none:train"))
    assert absent.returncode == 2
    assert absent.stdout.startswith("data.revision: 'org/none' at revision 'main' cannot be found (")


def test_what_is_asked_for_and_what_is_held(tree, data_file, monkeypatch):
    monkeypatch.setattr("rankray.data.pin.commit_of", lambda name, revision: f"{revision} of {name}")
    config = config_from(tree_of(tree, test="org/other:c:test", revision={"org/other": "v2"}))
    assert asked_revisions(config) == {"org/tiny": "main", "org/other": "v2"}
    assert pinned(config).data.revision == {"org/tiny": "main of org/tiny", "org/other": "v2 of org/other"}
    assert pinned(config, {"org/tiny": OLD}).data.revision == {"org/tiny": OLD, "org/other": "v2 of org/other"}
    mixture = [{"path": "org/a:train[:5%]"}, {"path": str(data_file)}]
    config = config_from(tree_of(tree, train=mixture, revision="v1"))
    assert asked_revisions(config) == {"org/a": "v1", "org/tiny": "v1"}
    searched = tree_of(tree) | {"space": {"data.train": {"choice": ["org/tiny:train", "org/b:train"]}}}
    assert asked_revisions(config_from(searched)) == {"org/tiny": "main", "org/b": "main"}
    further = tree_of(tree)
    further["evaluate"] |= {"also": {"more": {"data": "org/more:test", "metrics": ["nll"]}}}
    assert asked_revisions(config_from(further)) == {"org/tiny": "main", "org/more": "main"}
    local = config_from(tree())
    assert pinned(local) is local


def test_a_commit_is_taken_as_it_is():
    assert commit_of("org/none", OLD) == OLD


@pytest.mark.parametrize("name", ["not a name", "a/b/c"])
def test_an_id_that_cannot_be_one_is_refused(name):
    with pytest.raises(DataError, match=r"^data.revision: .* cannot be found \("):
        commit_of(name, "main")
