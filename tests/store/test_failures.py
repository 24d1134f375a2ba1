"""What goes wrong with a store, told apart."""

from __future__ import annotations

import errno
import json
import random
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from sqlalchemy import exc

from rankray.errors import StoreUnavailable
from rankray.store import attach, failures, open_study
from rankray.store.backend import connect, with_retries
from rankray.store.failures import (
    AWAY,
    DAMAGED,
    FULL,
    LOCKED,
    LOGIN,
    MISSING,
    READ_ONLY,
    REFUSED,
    RIGHTS,
    UNENCRYPTED,
    driver_error,
    kind_of,
)
from store.helpers import drive, make_config


def of_driver(module: str, name: str = "OperationalError", *args: Any, **attributes: Any) -> Exception:
    """Return an error as a database driver raises it, under SQLAlchemy's and Optuna's."""
    original = type(name, (Exception,), {"__module__": module})(*args)
    for key, value in attributes.items():
        setattr(original, key, value)
    wrapped = exc.DBAPIError("SELECT 1", {}, original)  # type: ignore[arg-type]
    error = StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = wrapped
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of_driver("psycopg2.errors", "AdminShutdown", pgcode="57P01"), AWAY),
        (of_driver("psycopg2.errors", "SerializationFailure", pgcode="40001"), AWAY),
        (of_driver("psycopg2.errors", "InFailedSqlTransaction", pgcode="25P02"), AWAY),
        (of_driver("psycopg2.errors", "QueryCanceled", pgcode="57014"), AWAY),
        (of_driver("psycopg2.errors", "LockNotAvailable", pgcode="55P03"), LOCKED),
        (of_driver("psycopg2.errors", "DiskFull", pgcode="53100"), FULL),
        (of_driver("psycopg2.errors", "TooManyConnections", pgcode="53300"), AWAY),
        (of_driver("psycopg2.errors", "ReadOnlySqlTransaction", pgcode="25006"), READ_ONLY),
        (of_driver("psycopg2.errors", "UndefinedTable", pgcode="42P01"), REFUSED),
        (of_driver("psycopg2.errors", "DataCorrupted", pgcode="XX001"), DAMAGED),
        (of_driver("psycopg.errors", "InvalidPassword", sqlstate="28P01"), LOGIN),
        (of_driver("psycopg2", "OperationalError", 'FATAL:  password authentication failed for user "u"'), LOGIN),
        (of_driver("psycopg2", "OperationalError", "fe_sendauth: no password supplied"), LOGIN),
        (of_driver("psycopg2", "OperationalError", 'FATAL:  database "x" does not exist'), MISSING),
        (of_driver("psycopg2", "OperationalError", "server closed the connection unexpectedly"), AWAY),
        (of_driver("psycopg2", "OperationalError", "SSL connection has been closed unexpectedly"), AWAY),
        (of_driver("psycopg2", "OperationalError", "SSL SYSCALL error: EOF detected"), AWAY),
        (of_driver("psycopg2", "OperationalError", 'FATAL:  permission denied for database "d"'), RIGHTS),
        (of_driver("psycopg2", "OperationalError", 'FATAL:  too many connections for role "r"'), AWAY),
        (of_driver("psycopg2", "OperationalError", "server does not support SSL, but SSL was required"), UNENCRYPTED),
        (of_driver("psycopg2", "OperationalError", "SSL error: certificate verify failed"), UNENCRYPTED),
        (of_driver("psycopg2", "OperationalError", 'invalid sslmode value: "yes"'), UNENCRYPTED),
        (of_driver("psycopg2", "ProgrammingError", "syntax"), REFUSED),
        (of_driver("pymysql.err", "OperationalError", 1045, "Access denied"), LOGIN),
        (of_driver("pymysql.err", "OperationalError", 2013, "Lost connection"), AWAY),
        (of_driver("pymysql.err", "OperationalError", 1213, "Deadlock found"), LOCKED),
        (of_driver("pymysql.err", "OperationalError", 1049, "Unknown database"), MISSING),
        (of_driver("sqlite3", "OperationalError", sqlite_errorname="SQLITE_BUSY_SNAPSHOT"), LOCKED),
        (of_driver("sqlite3", "OperationalError", sqlite_errorname="SQLITE_READONLY"), READ_ONLY),
        (of_driver("sqlite3", "OperationalError", sqlite_errorname="SQLITE_FULL"), FULL),
        (of_driver("sqlite3", "DatabaseError", sqlite_errorname="SQLITE_NOTADB"), DAMAGED),
        (exc.PendingRollbackError("Can't reconnect until invalid transaction is rolled back."), AWAY),
        (exc.ResourceClosedError("This Connection is closed"), AWAY),
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (PermissionError(errno.EACCES, "Permission denied"), READ_ONLY),
        (TimeoutError("the lock"), AWAY),
        (json.JSONDecodeError("x", "y", 0), DAMAGED),
    ],
)
def test_failures_are_told_apart_by_their_codes(error: Exception, kind: str) -> None:
    cause = driver_error(error)
    assert cause is not None
    assert kind_of(cause) == kind


def test_every_kind_has_its_words() -> None:
    kinds = {AWAY, LOCKED, LOGIN, RIGHTS, MISSING, UNENCRYPTED, READ_ONLY, FULL, DAMAGED, REFUSED}
    assert failures.WORDS.keys() == kinds
    assert "safe" not in failures.WORDS[DAMAGED][1]


def test_an_error_that_is_no_store_s_is_passed_on() -> None:
    assert driver_error(ZeroDivisionError()) is None
    with pytest.raises(ZeroDivisionError):
        with_retries(lambda: 1 // 0, "sqlite:///x.db")  # type: ignore[arg-type, return-value]


@pytest.mark.usefixtures("impatient")
def test_a_transaction_that_a_lost_connection_has_ended_is_tried_again() -> None:
    tries = [exc.PendingRollbackError("rolled back"), of_driver("psycopg2.errors", "AdminShutdown", pgcode="57P01")]

    def act() -> str:
        if tries:
            raise tries.pop()
        return "done"

    assert with_retries(act, "postgresql://u:pw@h/d") == "done"


def test_a_file_that_is_no_database_is_not_called_safe(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StoreUnavailable, match=r"is damaged or no store .*file is not a database") as refused:
        connect(f"sqlite:///{tmp_path}/x.db")
    assert "was committed is safe" not in str(refused.value)


def test_a_store_that_may_not_be_written_says_so(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everything, so SQLite is told to refuse instead of the file system."""
    real = sqlite3.connect

    def read_only(path: str, **options: Any) -> sqlite3.Connection:
        return real(f"file:{path}?mode=ro", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with pytest.raises(StoreUnavailable, match="may not be written here"):
        connect(sqlite_url).create_new_study([StudyDirection.MINIMIZE], "s")


@pytest.mark.db
@pytest.mark.parametrize("terminations", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_no_driver_dies_of_dropped_connections(postgresql_url: str, terminations: int, seed: int) -> None:
    """Backends are terminated at random moments, again and again, while three drivers work, and extend their study."""
    import psycopg2

    failed: list[BaseException] = []
    enough = threading.Event()

    def work() -> None:
        trials = 12
        while True:
            config = make_config(study={"trials": trials, "pruner": "none", "sampler": "random"})
            try:
                drive(open_study(postgresql_url, config, lease_seconds=600))
                if enough.is_set():
                    return
                trials += 12
            except StoreUnavailable as error:
                if "does not answer" not in str(error):
                    failed.append(error)
            except BaseException as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    draw, killed = random.Random(seed), 0
    control = psycopg2.connect(postgresql_url)
    control.autocommit = True
    cursor = control.cursor()
    while killed < terminations and any(thread.is_alive() for thread in threads):
        for thread in threads:
            thread.join(draw.uniform(0.0, 0.1))
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        pids = [row[0] for row in cursor.fetchall()]
        if pids:
            cursor.execute("SELECT pg_terminate_backend(%s)", (draw.choice(pids),))
            killed += 1
    enough.set()
    for thread in threads:
        thread.join(300)
    control.close()
    assert failed == []
    study = attach(postgresql_url, "s")
    counts = study.counts()
    assert (counts.finished, counts.failed, counts.running, counts.waiting) == (study.config.study.trials, 0, 0, 0)
    print(f"{killed} backends terminated, {counts.finished} trials")
    assert killed == terminations
