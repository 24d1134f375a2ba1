"""Servers of a Ray of one's own that end, or are stopped: processes of their names stand in for them."""

import os
import shutil
import signal
import subprocess
import threading

import pytest

from rankray.cluster import own_ray
from rankray.cluster.own_ray import SERVERS, servers_here, watching_own_ray


@pytest.fixture
def server(tmp_path):
    """Return what starts a child of this process that is called as one of Ray's servers."""
    begun = []

    def start(name):
        place = tmp_path / str(len(begun))
        place.mkdir()
        shutil.copy(shutil.which("sleep"), place / name)
        begun.append(subprocess.Popen([place / name, "3600"]))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.wait()


class Ends:
    def __init__(self):
        self.names, self.one = [], threading.Event()

    def __call__(self, name):
        self.names.append(name)
        self.one.set()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_killed_is_noticed_and_named_once(server, name):
    ended, others = Ends(), servers_here()
    process = server(name)
    with watching_own_ray(ended, others):
        process.kill()
        assert ended.one.wait(600)
    assert ended.names == [name]


def test_a_server_that_is_stopped_for_long_is_ended(server, monkeypatch):
    monkeypatch.setattr(own_ray, "STOPPED_SECONDS", 1.0)
    ended, others = Ends(), servers_here()
    process = server("raylet")
    os.kill(process.pid, signal.SIGSTOP)
    with watching_own_ray(ended, others):
        assert ended.one.wait(600)
    assert ended.names == ["raylet"]
    assert process.wait() == -signal.SIGKILL


def test_what_runs_on_and_what_is_no_server_is_left_alone(server):
    ended, others = Ends(), servers_here()
    server("raylet")
    other = server("another")
    with watching_own_ray(ended, others):
        other.kill()
        assert not ended.one.wait(3 * own_ray.LOOK_SECONDS)
    assert ended.names == []


def test_a_server_that_was_here_before_is_of_another_ray(server):
    """A second search in one process, as in a notebook: the Ray of the first may still be ending, or is a zombie."""
    ended = Ends()
    earlier, ending = server("gcs_server"), server("raylet")
    ending.kill()
    others = servers_here()
    own = server("gcs_server")
    with watching_own_ray(ended, others):
        earlier.kill()
        assert not ended.one.wait(3 * own_ray.LOOK_SECONDS)
        own.kill()
        assert ended.one.wait(600)
    assert ended.names == ["gcs_server"]
