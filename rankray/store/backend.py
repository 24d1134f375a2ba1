"""From a store URL to an optuna storage that retries, and that raises nothing with a password in it."""

from __future__ import annotations

import json
import sqlite3
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from rankray.errors import RankrayError, StoreError, StoreUnavailable
from rankray.store.journal import journal_lock
from rankray.store.urls import StoreURL, masked, parse_url, scrub

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between tries of an operation that failed for want of a connection or a lock."""
BUSY_SECONDS = 60
SYNCHRONOUS = "FULL"
"""SQLite's: what is committed outlives a power cut. Tests lower it, since killing processes does not need it."""
CONNECT_SECONDS = 5
"""How long one try to reach a server may take."""
_PATIENCE: dict[str, dict[str, Any]] = {
    "psycopg2": {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    },
    "pymysql": {"connect_timeout": CONNECT_SECONDS, "read_timeout": 60, "write_timeout": 60},
    "mysqldb": {"connect_timeout": CONNECT_SECONDS, "read_timeout": 60, "write_timeout": 60},
}
_PATIENCE["psycopg"] = _PATIENCE["psycopg2"]
"""Driver options, so that a server that vanished without a word is an error and no endless wait."""
_DRIVER_MODULES = ("sqlalchemy", "sqlite3", "psycopg2", "psycopg", "pymysql", "MySQLdb", "grpc")
_TRANSIENT_NAMES = ("OperationalError", "InterfaceError", "InternalError", "TimeoutError", "RpcError")
_RACE_NAMES = ("IntegrityError", "ProgrammingError")
"""What else passes while a store is opened: two that open a new one make its tables at the same moment."""
T = TypeVar("T")

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def connect(url: str, *, create: bool = True) -> BaseStorage:
    """Open the storage behind a URL.

    The returned storage retries what fails for want of a connection, then raises `StoreUnavailable`. It is safe to
    share among threads.

    Args:
        url: a store URL.
        create: make the file (and its directory) of a file store that does not exist; otherwise refuse.

    Raises:
        StoreError: the URL is wrong, or names a file that does not exist and may not be made.
        StoreUnavailable: the store does not answer; the message holds no password.
    """
    parts = parse_url(url)
    if parts.scheme in ("sqlite", "journal"):
        if not create and not parts.path.is_file():
            raise StoreError(f"store: {masked(url)}: there is no such file; start a search with it, or correct --store")
        try:
            parts.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"store: {masked(url)}: its directory cannot be made ({error.strerror})") from None
    storage = _retrying(lambda: _open(parts), url, passing=_RACE_NAMES)
    return cast(BaseStorage, Guard(storage, url))


class Guard:
    """A storage whose methods retry what is transient and turn the rest into `StoreUnavailable` without secrets.

    A retried write may have been committed although its answer was lost. All writes of this package bear that: they
    set the same value again, or (creating a trial or a claim) leave one more record that nobody takes for theirs.
    """

    def __init__(self, storage: BaseStorage, url: str) -> None:
        self._guarded = storage
        self._url = url

    def __repr__(self) -> str:
        return f"Guard({masked(self._url)!r})"

    def changed_trials(self, study_id: int, unfinished: set[int], last: int) -> list[FrozenTrial] | None:
        """Return the trials of these ids and those of ids above `last`; None where only all can be read.

        It is what optuna's own cache asks of a database; that cache also copies and sorts all trials at each reading.
        Ids of one study are given in order, as each is taken under the lock of the study's row.
        """
        backend = getattr(self._guarded, "_backend", None)
        if not isinstance(backend, RDBStorage):
            return None
        return _retrying(lambda: backend._get_trials(study_id, None, unfinished, last), self._url)

    def may_have_newer(self, study_id: int, last: int) -> bool:
        """Return whether a study has a trial of an id above `last`: one small question to a database, else True."""
        backend = getattr(self._guarded, "_backend", None)
        if not isinstance(backend, RDBStorage):
            return True
        from optuna.storages._rdb.models import TrialModel
        from sqlalchemy import select

        newer = select(TrialModel.trial_id).where(TrialModel.study_id == study_id, TrialModel.trial_id > last).limit(1)

        def ask() -> bool:
            with backend.engine.connect() as connection:
                return connection.execute(newer).first() is not None

        return _retrying(ask, self._url)

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._guarded, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any, **kwargs: Any) -> Any:
            return _retrying(lambda: attribute(*args, **kwargs), self._url)

        self.__dict__[name] = call
        return call


def _retrying(operation: Callable[[], T], url: str, passing: tuple[str, ...] = ()) -> T:
    for pause in (*RETRY_SECONDS, None):
        try:
            return operation()
        except (RankrayError, KeyError, optuna.exceptions.UpdateFinishedTrialError):
            raise
        except optuna.exceptions.DuplicatedStudyError:
            raise
        except Exception as error:
            cause = _driver_error(error)
            if cause is None:
                raise
            if pause is None or not (_transient(cause) or type(cause).__name__ in passing):
                raise StoreUnavailable(_unavailable(cause, url)) from None
        time.sleep(pause)
    raise AssertionError("unreachable")


def _driver_error(error: BaseException) -> BaseException | None:
    """Return what the database, the network or the disk said, or None if the error is not theirs."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    module = type(error).__module__.split(".")[0]
    if module in _DRIVER_MODULES or isinstance(error, (OSError, json.JSONDecodeError)):
        return error
    return error if isinstance(error, optuna.exceptions.StorageInternalError) else None


def _transient(cause: BaseException) -> bool:
    return isinstance(cause, OSError) or any(kind.__name__ in _TRANSIENT_NAMES for kind in type(cause).__mro__)


def _unavailable(cause: BaseException, url: str) -> str:
    details = getattr(cause, "details", None)  # what grpc has to say
    said = str((details() if callable(details) else None) or getattr(cause, "orig", None) or cause).strip().splitlines()
    first = scrub(said[0], url) if said else ""
    does = "does not answer" if _transient(cause) else "refuses what it was asked"
    return (
        f"store: {masked(url)} {does} ({type(cause).__name__}: {first}); what was committed is safe; "
        "check that it is up and reachable, then run the same command again"
    )


def _open(parts: StoreURL) -> BaseStorage:
    if parts.scheme == "grpc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            proxy = optuna.storages.GrpcStorageProxy(host=parts.host, port=parts.port)
        proxy.wait_server_ready(timeout=CONNECT_SECONDS)
        return proxy
    if parts.scheme == "journal":
        return JournalStorage(JournalFileBackend(str(parts.path), lock_obj=journal_lock(parts.path)))
    if parts.scheme == "sqlite":
        options: dict[str, Any] = {"creator": lambda: _sqlite(str(parts.path))}
        url = parts.raw
    else:
        given = {key for key, _ in parse_qsl(urlsplit(parts.raw).query)}
        patience = {key: value for key, value in _PATIENCE[parts.driver].items() if key not in given}
        options = {"pool_pre_ping": True, "pool_recycle": 1800, "connect_args": patience}
        url = f"{parts.scheme}+{parts.driver}://{parts.raw.partition('://')[2]}"
    # optuna passes the URL through str.format, so braces (in a password) are doubled.
    engine_url = url.replace("{", "{{").replace("}", "}}")
    return optuna.storages.get_storage(RDBStorage(engine_url, engine_kwargs=options))


def _sqlite(path: str) -> sqlite3.Connection:
    """Connect: a write-ahead log, so that readers never wait; a sync at each commit; patience with other writers."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    return connection
