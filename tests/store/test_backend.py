from __future__ import annotations

import logging
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import pytest
from fixtures.waiting import instead_of_sleep

from rankray.errors import StoreError, StoreUnavailable
from rankray.store import backend, open_study
from rankray.store.backend import RetryingStorage, connect
from rankray.store.optuna_private import database_of, engine_of
from store.helpers import drive, make_config, wait_for

URL = "postgresql://u:hunter2@h/d"


class Flaky:
    """A storage that fails a number of times."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def get_all_studies(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "studies"


def internal(cause: Exception) -> Exception:
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = cause
    return error


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("error", [internal(sqlite3.OperationalError("database is locked")), ConnectionResetError()])
def test_what_passes_is_tried_again(error: Exception) -> None:
    flaky = Flaky(2, error)
    assert RetryingStorage(flaky, URL).get_all_studies() == "studies"  # type: ignore[arg-type]
    assert flaky.calls == 3


def test_each_retry_leaves_a_line_in_the_log_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    instead_of_sleep(monkeypatch, pauses.append)
    caplog.set_level(logging.DEBUG, logger="rankray.store.backend")
    flaky = Flaky(2, internal(sqlite3.OperationalError(f"cannot reach {URL}\nmore")))
    assert RetryingStorage(flaky, URL).get_all_studies() == "studies"  # type: ignore[arg-type]
    assert caplog.messages == [
        f"store: postgresql://u:***@h/d: try {number} failed (OperationalError: cannot reach postgresql://u:***@h/d); "
        f"trying again in {pause:.2f} s"
        for number, pause in enumerate(backend.RETRY_SECONDS[:2], 1)
    ]
    assert pauses == list(backend.RETRY_SECONDS[:2])


def test_it_gives_up_after_all_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    instead_of_sleep(monkeypatch, pauses.append)
    flaky = Flaky(99, ConnectionResetError())
    with pytest.raises(StoreUnavailable, match="does not answer"):
        RetryingStorage(flaky, URL).get_all_studies()  # type: ignore[arg-type]
    assert pauses == list(backend.RETRY_SECONDS)
    assert flaky.calls == len(pauses) + 1


@pytest.mark.usefixtures("impatient")
def test_what_does_not_pass_is_said_without_the_password() -> None:
    flaky = Flaky(99, internal(sqlite3.OperationalError(f"cannot reach {URL} with hunter2\nmore")))
    with pytest.raises(StoreUnavailable) as caught:
        RetryingStorage(flaky, URL).get_all_studies()  # type: ignore[arg-type]
    assert flaky.calls == 3
    assert "hunter2" not in str(caught.value) + repr(caught.value)
    assert "postgresql://u:***@h/d does not answer (OperationalError: cannot reach" in str(caught.value)


@pytest.mark.parametrize(
    "error", [KeyError("x"), optuna.exceptions.UpdateFinishedTrialError("x"), ValueError("incompatible distribution")]
)
def test_what_is_no_outage_passes_through_at_once(error: Exception) -> None:
    flaky = Flaky(1, error)
    with pytest.raises(type(error)):
        RetryingStorage(flaky, URL).get_all_studies()  # type: ignore[arg-type]
    assert flaky.calls == 1


def test_bad_data_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "RETRY_SECONDS", (1e9,))
    with pytest.raises(StoreUnavailable, match="DataError"):
        RetryingStorage(Flaky(1, internal(sqlite3.DataError("too long"))), URL).get_all_studies()  # type: ignore[arg-type]


def test_sqlite_has_a_write_ahead_log_and_patience(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    storage: Any = connect(file_url)
    with engine_of(database_of(storage.behind)).connect() as connection:
        ask = connection.exec_driver_sql
        assert ask("PRAGMA journal_mode").scalar() == "wal"
        assert ask("PRAGMA synchronous").scalar() == 2
        assert ask("PRAGMA busy_timeout").scalar() == 60_000


def test_a_locked_sqlite_is_waited_for(file_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The busy timeout is shorter than the lock is held; the retry comes after."""
    monkeypatch.setattr(backend, "BUSY_SECONDS", 0.01)
    storage = connect(file_url)
    other = sqlite3.connect(file_url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    instead_of_sleep(monkeypatch, lambda seconds: other.execute("COMMIT") if other.in_transaction else None)
    assert storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s") > 0
    other.close()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        connect(f"sqlite:///{tmp_path}/file/deeper/store.db")


def test_optuna_says_nothing(file_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    connect(file_url).create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("impatient")
def test_two_that_make_a_store_at_the_same_moment_both_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna makes its tables and stamps their version in two transactions; who comes second is refused the stamp."""
    really, calls = backend._open, []

    def second(parts: Any) -> Any:
        calls.append(parts)
        if len(calls) == 1:
            raise internal(sqlite3.IntegrityError("UNIQUE constraint failed: alembic_version.version_num"))
        return really(parts)

    monkeypatch.setattr(backend, "_open", second)
    assert connect(f"sqlite:///{tmp_path}/store.db").get_all_studies() == []
    assert len(calls) == 2


def test_many_open_a_new_store_at_once(tmp_path):
    """Each makes the tables that it does not see; all but one are refused, and try again."""
    for number in range(6):
        url, barrier = f"sqlite:///{tmp_path / f'{number}.db'}", threading.Barrier(8)

        def begin(url=url, barrier=barrier):
            barrier.wait()
            return connect(url).get_all_studies()

        with ThreadPoolExecutor(8) as pool:
            assert [each.result() for each in [pool.submit(begin) for _ in range(8)]] == [[]] * 8


@pytest.mark.db
def test_who_looks_again_and_again_holds_no_connection(postgresql_url: str) -> None:
    """A server has a hundred, and Python collects garbage when it likes."""
    import gc

    import psycopg2

    import rankray
    from rankray.cli.store import list_

    drive(open_study(postgresql_url, make_config(study={"trials": 1})))
    gc.collect()
    control = psycopg2.connect(postgresql_url)
    control.autocommit = True
    cursor = control.cursor()

    def connections() -> int:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        return int(cursor.fetchone()[0])

    before = connections()
    gc.disable()
    try:
        for _ in range(5):
            assert rankray.best("s", store=postgresql_url) is not None
            list_(store=postgresql_url)
            [held] = rankray.TrialStore(postgresql_url)
            assert rankray.TrialStore(postgresql_url)[held].status["budget"]["finished"] == 1
            with pytest.raises(StoreError, match="there is none of this name"):
                rankray.best("t", store=postgresql_url)
        wait_for(lambda: connections() <= before)
    finally:
        gc.enable()
        control.close()


@pytest.mark.parametrize(("revision", "said"), [("v2.6.0.a", "older.* optuna storage upgrade"), ("v9.9.9.a", "newer")])
@pytest.mark.parametrize("create", [False, True])
def test_tables_of_another_optuna_are_one_line(sqlite_url: str, revision: str, said: str, create: bool) -> None:
    open_study(sqlite_url, make_config()).storage.disconnect()
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    database.close()
    with pytest.raises(StoreError, match=f"^store: .*its tables were made by an? {said}"):
        connect(sqlite_url, create=create)
