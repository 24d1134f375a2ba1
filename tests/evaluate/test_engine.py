"""Answers from a function of one's own and from an OpenAI-compatible server."""

import json
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rankray.config import Config
from rankray.errors import ConfigError
from rankray.evaluate.run import evaluate
from rankray.model.resident import fresh_model, split_of, tokenizer_of


class Server(BaseHTTPRequestHandler):
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        self.answer({"data": [{"id": "served"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        first, _, second = request["prompt"].split()[:3]
        self.answer({"choices": [{"text": str(int(first) + int(second))}] * request["n"]})

    def answer(self, tree):
        body = json.dumps(tree).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_address[1]}/v1"
        found.shutdown()
        thread.join()


def measured(tree, **changes):
    config = Config.model_validate(tree(evaluate__metrics=["accuracy", "avg@3"], **changes))
    tokenizer = tokenizer_of(config)
    return evaluate(fresh_model(config).eval(), tokenizer, split_of("eval", config, tokenizer), config)


def test_a_server_answers(tree, server):
    Server.asked.clear()
    found = measured(tree, evaluate__engine=server, evaluate__seed=5)
    assert (found["eval/accuracy"], found["eval/avg@3"]) == (1.0, 1.0)
    assert {(each["n"], each["temperature"]) for each in Server.asked} == {(1, 0.0), (3, 1.0)}
    assert {(each["model"], each["seed"]) for each in Server.asked} == {("served", 5)}
    assert len(Server.asked) == 20


def test_a_server_cannot_judge_a_trial_in_training(tree, train):
    with pytest.raises(ConfigError, match=r"evaluate\.engine: http://x/v1 has its own weights"):
        train(tree(evaluate__engine="http://x/v1"))


def test_a_server_that_is_not_there_is_named(tree):
    with pytest.raises(ConfigError, match=r"evaluate\.engine: http://127\.0\.0\.1:9/v1/models does not answer"):
        measured(tree, evaluate__engine="http://127.0.0.1:9/v1")


def test_a_function_answers(tree, monkeypatch):
    module = types.ModuleType("my_engine")
    module.eight = lambda model, tokenizer, prompts, options: [["8"] * options["samples"] for _ in prompts]
    module.short = lambda model, tokenizer, prompts, options: [["8"] for _ in prompts]
    monkeypatch.setitem(sys.modules, "my_engine", module)
    found = measured(tree, evaluate__engine="my_engine:eight", evaluate__max_examples=None)
    assert found["eval/accuracy"] == found["eval/avg@3"] == pytest.approx(1 / 24)
    with pytest.raises(
        ConfigError, match=r"my_engine:short returned .* for 10 prompts; allowed is a list with 3 texts"
    ):
        measured(tree, evaluate__engine="my_engine:short")
