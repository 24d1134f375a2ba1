"""The directory of a process's own."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rankray.cluster import scratch
from rankray.store.leases import this_process


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(scratch, "LONGEST", 1000)
    monkeypatch.setattr(scratch.atexit, "register", lambda *_: None)
    scratch.own_directory.cache_clear()
    yield tmp_path
    scratch.own_directory.cache_clear()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_may_enter_and_read_the_token(fresh):
    before = os.umask(0)
    try:
        directory, token = scratch.own_directory(), scratch.own_token()
    finally:
        os.umask(before)
    assert directory.parent == fresh
    assert (mode(directory), mode(token)) == (0o700, 0o600)
    assert scratch.own_directory() == directory
    assert scratch.own_token() == token
    assert len(token.read_text()) == 64


def test_what_a_dead_process_left_is_removed_and_nothing_else(fresh):
    dead = this_process() | {"start": "another"}
    kinds = {
        "dead": dead, "alive": this_process(), "elsewhere": dead | {"host": "far-away"}, "unknown": None, "odd": [1],
    }  # fmt: skip
    for name, owner in kinds.items():
        directory = fresh / f"{scratch.PREFIX}{name}"
        directory.mkdir()
        if owner is not None:
            (directory / scratch.OWNER).write_text(json.dumps(owner))
    (fresh / "dead-too").mkdir()
    (fresh / "dead-too" / scratch.OWNER).write_text(json.dumps(dead))
    (fresh / f"{scratch.PREFIX}link").symlink_to(fresh / "dead-too")
    mine = scratch.own_directory()
    left = {path.name.removeprefix(scratch.PREFIX) for path in fresh.iterdir() if path != mine}
    assert left == {"alive", "elsewhere", "unknown", "odd", "dead-too", "link"}
    assert (fresh / "dead-too" / scratch.OWNER).exists()


def test_it_is_gone_when_its_process_has_ended(tmp_path):
    code = "from rankray.cluster.scratch import own_token; print(own_token().parent)"
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not Path(done.stdout.strip()).exists()
