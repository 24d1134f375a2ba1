"""From a store URL to an Optuna storage that retries, and whose errors hold no password."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_chain,
    wait_fixed,
)
from typing_extensions import override

from rankray.errors import StoreError, StoreUnavailable, StudyGone
from rankray.store import optuna_private
from rankray.store.deadlines import CALL_SECONDS, LOCK_SECONDS, STATEMENT_SECONDS, pool_events, watch_calls
from rankray.store.delegating import DelegatingStorage
from rankray.store.failures import REFUSED, TRANSIENT, WORDS, driver_error, kind_of
from rankray.store.journal import is_foreign, journal_lock
from rankray.store.lines import CheckedJournal
from rankray.store.postgresql import create_running
from rankray.store.urls import StoreURL, masked, parse_url, scrub

logger = logging.getLogger(__name__)

RETRY_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses between tries of an operation that failed because there was no connection, or another one held a lock."""
GIVE_UP_SECONDS = 20.0
"""From when on no further try is made of an operation that takes long to fail."""
BUSY_SECONDS = 60
"""How long one try waits for another process that writes to an SQLite file."""
SYNCHRONOUS = "FULL"
"""SQLite's setting: what is committed survives a power cut. Tests lower it: killing processes does not need it."""
CONNECT_SECONDS = 5
"""How long one try to reach a server may take."""
_DRIVER_OPTIONS: dict[str, dict[str, Any]] = {
    "psycopg2": {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    },
    "pymysql": {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": STATEMENT_SECONDS,
        "write_timeout": STATEMENT_SECONDS,
        "init_command": f"SET SESSION innodb_lock_wait_timeout = {LOCK_SECONDS}",
    },
}
_DRIVER_OPTIONS["mysqldb"] = _DRIVER_OPTIONS["pymysql"]
_DRIVER_OPTIONS["psycopg"] = _DRIVER_OPTIONS["psycopg2"]
"""Timeouts, so that a server that vanished is an error and not an endless wait."""
_RACE_NAMES = ("IntegrityError", "ProgrammingError", "OperationalError")
"""What else is transient while a store is opened: two processes that open a new one make its tables at once, and one of
them is refused."""
_LOOKUPS = ("get_study_id_from_name", "get_trial_id_from_study_id_trial_number", "get_trial_param")
"""Methods that look something up by name, where finding nothing is an answer."""
P = ParamSpec("P")
T = TypeVar("T")

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def connect(url: str, *, create: bool = True) -> RetryingStorage:
    """Open the storage behind a URL.

    The returned storage retries what fails because there was no connection, then raises `StoreUnavailable`. It is safe
    to share among threads.

    Args:
        url: a store URL.
        create: make the file (and its directory) of a file store that does not exist; otherwise refuse.

    Raises:
        StoreError: the URL is wrong, names a file that does not exist and may not be made, or a database whose tables
            another version of Optuna has made.
        StoreUnavailable: the store does not answer; the message holds no password.
    """
    parts = replace(parse_url(url), lenient=not create)
    if parts.scheme in ("sqlite", "journal"):
        if not create and not parts.path.is_file():
            raise StoreError(f"store: {masked(url)}: there is no such file; start a search with it, or correct --store")
        try:
            parts.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store: {masked(url)}: its directory cannot be made ({error.strerror}); "
                "allowed: a file in a directory that you may write; correct --store"
            ) from None
        _make_private(parts.path)
        refuse_foreign(parts)
    try:
        opened = with_retries(lambda: _open(parts), url, also_transient=_RACE_NAMES)
    except TypeError as error:  # what a database driver says of an option that it does not know
        if parts.scheme not in ("mysql", "postgresql"):
            raise
        logger.debug("store: %s: an option is refused", masked(url), exc_info=True)
        raise StoreError(f"store: {masked(url)}: {scrub(str(error), url)}; correct the options of the URL") from None
    except RuntimeError as error:  # what Optuna says of tables that another version of it has made
        if "table schema" not in str(error):
            raise
        logger.debug("store: %s has other tables", masked(url), exc_info=True)
        older = "storage upgrade" in str(error)
        fix = "back it up, then run: optuna storage upgrade --storage URL" if older else "upgrade rankray and optuna"
        raise StoreError(
            f"store: {masked(url)}: its tables were made by {'an older' if older else 'a newer'} version of Optuna; "
            f"allowed: those of Optuna {optuna.__version__}, which is installed; {fix}, or give another store"
        ) from None
    return RetryingStorage(opened, url)


def refuse_foreign(parts: StoreURL) -> None:
    """Refuse a file that is no journal where a journal is named: it would be written to, and cut.

    Raises:
        StoreError: it is another file.
    """
    try:
        foreign = parts.scheme == "journal" and parts.path.is_file() and is_foreign(parts.path)
    except OSError as error:  # it cannot be read, which is said where it is opened
        logger.debug("store: %s is not looked at: %s", parts.path, error)
        return
    if foreign:
        raise StoreError(
            f"store: {masked(parts.raw)}: the file is no journal; allowed: one that rankray or Optuna made; correct "
            "--store (sqlite:///FILE for an SQLite store)"
        )


def _make_private(path: Path) -> None:
    """Make the file of a store that is not there yet so that only its owner may read it, whatever the umask says."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:  # it is there, or cannot be made, which is said where it is opened
        logger.debug("store: %s is not made: %s", path, error)


class RetryingStorage(DelegatingStorage):
    """A storage that retries what is transient, and turns the rest into `StoreUnavailable` without secrets.

    A retried write may have been committed although its answer was lost. All writes of this package allow for that:
    they set the same value again, or (creating a trial or a claim) leave one more record that nobody takes for theirs.
    """

    def __init__(self, behind: BaseStorage, url: str) -> None:
        super().__init__(behind)
        self._url = url

    def __repr__(self) -> str:
        return f"RetryingStorage({masked(self._url)!r})"

    @property
    def left_out(self) -> str:
        """What was left out because it is malformed, in one line; an empty string where nothing was."""
        lines = sorted(optuna_private.journal_lines_left_out(self._behind))
        if not lines:
            return ""
        shown = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
        return (
            f"store: {masked(self._url)}: {len(lines)} malformed lines are left out ({shown}); trials and figures may "
            "be missing; restore a backup to work on it"
        )

    @property
    def behind(self) -> BaseStorage:
        """The storage whose calls are retried."""
        return self._behind

    def changed_trials(self, study_id: int, unfinished: set[int], last: int) -> list[FrozenTrial] | None:
        """Return the trials of these ids and those of ids above `last`; None where only all of them can be read.

        Ids of one study are given in order, because each is taken under the lock of the study's row.
        """
        database = optuna_private.database_of(self._behind)
        if database is None:
            return None
        return self._call(optuna_private.changed_trials, database, study_id, unfinished, last)

    @property
    def database(self) -> RDBStorage | None:
        """The database storage behind it; None where it is none."""
        return optuna_private.database_of(self._behind)

    def disconnect(self) -> None:
        """Close the connections that nobody uses; the next call opens a new one.

        A storage that was dropped keeps its connection until Python collects garbage, and a server has a hundred.
        """
        database = self.database
        if database is not None:
            optuna_private.engine_of(database).dispose()

    def ask(self, statement: Any) -> list[Any]:
        """Return the rows of a question in SQL; only a database can be asked."""
        database = self.database
        assert database is not None, "only a database can be asked"

        def execute() -> list[Any]:
            with optuna_private.engine_of(database).connect() as connection:
                return list(connection.execute(statement).all())

        return self._call(execute)

    def may_have_newer(self, study_id: int, last: int) -> bool:
        """Return whether a study has a trial of an id above `last`; always True where that cannot be asked cheaply."""
        database = optuna_private.database_of(self._behind)
        return database is None or self._call(optuna_private.has_newer_trial, database, study_id, last)

    def write_step(
        self, trial: int, key: str, record: Any, step: int | None = None, value: float | None = None
    ) -> bool:
        """Write a trial's attribute and one intermediate value at once; return whether that was possible.

        It is not where the database has no such statement, the trial has ended or is not there: what is then to be
        done, the methods for one of the two do, or say.

        Args:
            trial: the trial's id.
            key: the attribute.
            record: what it is set to, plain JSON types.
            step: of the intermediate value; None writes none.
            value: the intermediate value, finite.
        """
        database = self.database
        return database is not None and bool(
            self._call(optuna_private.write_step, database, trial, key, record, step, value)
        )

    @override
    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if self.database is None or template_trial is None or template_trial.state != TrialState.RUNNING:
            return super().create_new_trial(study_id, template_trial)
        created = self._call(create_running, self.database, study_id, template_trial)
        return super().create_new_trial(study_id, template_trial) if created is None else created

    @override
    def _call(self, method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return with_retries(lambda: method(*args, **kwargs), self._url)
        except KeyError as error:
            if getattr(method, "__name__", "") in _LOOKUPS or not optuna_private.says_not_found(error):
                raise
            raise StudyGone(
                f"store: {masked(self._url)}: the study was deleted while it was worked on; nothing more is written; "
                "run the same command again to start it anew"
            ) from error


def with_retries(operation: Callable[[], T], url: str, also_transient: tuple[str, ...] = ()) -> T:
    """Call `operation`, and again after each of `RETRY_SECONDS` while what fails is transient.

    Args:
        operation: what to do.
        url: the store's URL, for messages.
        also_transient: names of errors of database drivers that are worth another try though they are refusals.

    Raises:
        StoreUnavailable: the database, the network or the disk failed for good. Other errors are passed on.
    """

    def is_transient(error: BaseException) -> bool:
        cause = driver_error(error)
        if cause is None:
            return False
        kind = kind_of(cause)
        return kind in TRANSIENT or (kind == REFUSED and type(cause).__name__ in also_transient)

    def log(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        cause = error and driver_error(error)
        logger.debug(
            "store: %s: try %d failed (%s: %s); trying again in %.2f s",
            masked(url), state.attempt_number, type(cause).__name__, _first_line(cause, url), state.upcoming_sleep,
        )  # fmt: skip

    tries = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_chain(*map(wait_fixed, RETRY_SECONDS)),
        stop=stop_after_attempt(len(RETRY_SECONDS) + 1) | stop_after_delay(GIVE_UP_SECONDS),
        before_sleep=log,
        reraise=True,
    )
    try:
        return tries(operation)
    except Exception as error:
        cause = driver_error(error)
        if cause is None:
            raise
        raise StoreUnavailable(_unavailable(cause, url)) from None


def _first_line(cause: BaseException | None, url: str) -> str:
    """Return the first line of a driver's message, without the URL's password."""
    details = getattr(cause, "details", None)  # an error of grpc has its message there
    text = str((details() if callable(details) else None) or getattr(cause, "orig", None) or cause).strip()
    return scrub(text.splitlines()[0], url) if text else ""


def _unavailable(cause: BaseException, url: str) -> str:
    what, advice = WORDS[kind_of(cause)]
    return f"store: {masked(url)} {what} ({type(cause).__name__}: {_first_line(cause, url)}); {advice}"


def _open(parts: StoreURL) -> BaseStorage:
    if parts.scheme == "grpc":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna_private.proxy_with_deadlines(parts.host, parts.port, CALL_SECONDS, CONNECT_SECONDS)
    if parts.scheme == "journal":
        return JournalStorage(CheckedJournal(str(parts.path), journal_lock(parts.path), lenient=parts.lenient))
    if parts.scheme == "sqlite":
        options: dict[str, Any] = {"creator": lambda: _sqlite(str(parts.path))}
        url = parts.raw
    else:
        from sqlalchemy.engine import make_url  # slow to import, and nothing a file store needs

        given = make_url(parts.raw)
        timeouts = {key: value for key, value in _DRIVER_OPTIONS[parts.driver].items() if key not in given.query}
        options = {"pool_pre_ping": parts.scheme == "mysql", "pool_recycle": 1800, "connect_args": timeouts}
        if parts.scheme == "postgresql":
            options["pool_events"] = pool_events(parts.scheme, "statement_timeout" in str(given.query))
        url = given.set(drivername=f"{parts.scheme}+{parts.driver}").render_as_string(hide_password=False)
    # optuna passes the URL through str.format, so braces (in a password) are doubled.
    engine_url = url.replace("{", "{{").replace("}", "}}")
    database = optuna_private.database_to_look_at(engine_url, options) if parts.lenient else None
    database = database or RDBStorage(engine_url, engine_kwargs=options)
    if "pool_events" in options:
        watch_calls(optuna_private.engine_of(database))
    return optuna.storages.get_storage(database)


def _sqlite(path: str) -> sqlite3.Connection:
    """Connect with a write-ahead log (readers never wait), a sync at each commit, and a long wait for other writers."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
    return connection
