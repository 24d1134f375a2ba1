"""What a process learns of the drain of its node; a real drain is in test_ray_private.py."""

import logging
import re
import time
from types import SimpleNamespace

import pytest
from fixtures.waiting import until

from rankray.cluster import drain


@pytest.fixture
def answers(monkeypatch):
    """What Ray says, one after the other, of the nodes that are being drained; the last one stays."""
    given = []

    def draining_nodes():
        answer = given.pop(0) if len(given) > 1 else given[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(drain, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(drain.ray_private, "draining_nodes", draining_nodes)
    monkeypatch.setattr(drain.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(drain.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "mine"))
    return given


def test_the_drain_of_this_node_is_seen_and_of_others_not(answers):
    answers += [{}, {"another": 0}, {"another": 0, "mine": 0}]
    assert until(drain.DrainWatcher()) == "its node is being taken away"


def test_a_deadline_is_said_in_seconds(answers):
    answers += [{"mine": int((time.time() + 3600) * 1000)}]
    assert re.fullmatch(r"its node is being taken away in \d+ s", until(drain.DrainWatcher()))


def test_ray_is_asked_again_after_an_error_which_leaves_a_line(answers, caplog):
    answers += [ConnectionError("no answer"), {"mine": 0}]
    with caplog.at_level(logging.DEBUG, logger="rankray"):
        until(drain.DrainWatcher())
    assert "it is asked again" in caplog.text
    assert "no answer" in caplog.text


def test_an_interrupted_search_is_seen_by_its_own_processes(answers, monkeypatch):
    up = set()
    monkeypatch.setattr(drain.ray_private, "flag_is_up", lambda name: name in up)
    answers += [{}]
    mine, another = drain.DrainWatcher("mine"), drain.DrainWatcher("another")
    up.add("mine")
    assert until(mine) == drain.INTERRUPTED
    assert another() == drain.DrainWatcher()() == ""
    another.close()


def test_outside_ray_nothing_is_asked(answers, monkeypatch):
    monkeypatch.setattr(drain.ray, "is_initialized", lambda: False)
    assert drain.DrainWatcher()() == ""
    assert answers == []
