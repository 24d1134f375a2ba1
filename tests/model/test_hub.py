"""Pushing a directory, to a hub on the loopback interface that keeps what it is sent."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rankray.errors import ModelError
from rankray.model.hub import push


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's API as an upload uses; every file is sent inline."""

    def log_message(self, *words):
        pass

    def _answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._answer({"id": "someone/model", "sha": "0" * 40, "siblings": [], "type": "user", "name": "someone"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        if self.headers.get("Authorization") != "Bearer hf_good":
            self._answer({"error": "not allowed"}, 403)
        elif self.path == "/api/repos/create":
            self.server.created = json.loads(body)
            self._answer({"url": f"http://{self.headers['Host']}/someone/model", "id": "someone/model"})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    self.server.files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            url = f"http://{self.headers['Host']}/someone/model/commit/{'1' * 40}"
            self._answer({"commitUrl": url, "commitOid": "1" * 40, "success": True})
        else:
            self._answer({"warnings": [], "errors": []})


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.files, server.created = [], {}, {}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("README.md", "config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_bytes(name.encode() * 3)
    return tmp_path / "model"


def test_every_file_arrives_in_a_private_repository(hub, directory):
    assert push(directory, "someone/model", private=True).endswith("/someone/model")
    assert hub.files == {file.name: file.read_bytes() for file in directory.iterdir()}
    assert hub.created["name"] == "model"
    assert hub.created.get("private") is True or hub.created.get("visibility") == "private"


def test_a_refusal_says_what_to_check_and_where_the_model_is(hub, directory, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        ModelError, match=r"--push-to-hub someone/model: .*check the name, `hf auth whoami`.*pushed from there"
    ):
        push(directory, "someone/model", private=True)
    assert hub.files == {}


def test_a_name_that_is_none(hub, directory):
    with pytest.raises(ModelError, match="--push-to-hub a/b/c"):
        push(directory, "a/b/c", private=True)
