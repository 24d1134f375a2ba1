"""Deadlines for database servers: a server that is frozen, or a network that loses everything, is an error.

The kernel of a frozen server still accepts what is sent to it, so timeouts of TCP do not help, and the C library of
PostgreSQL waits for an answer without a limit, deaf to signals. So each call of a driver is watched here by a thread:
one that takes longer than `CALL_SECONDS` ends, because its socket is shut down, in the driver's own error of a lost
connection. The server has shorter limits of its own, so that what is only slow, or waits for a lock of a driver that is
frozen, ends there first and leaves nothing behind.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

logger = logging.getLogger(__name__)

STATEMENT_SECONDS = 20
"""How long a server may take for one statement."""
LOCK_SECONDS = 15
"""How long a statement may wait for another driver's lock."""
IDLE_SECONDS = 60
"""How long a driver may leave a transaction open without a statement: a frozen one must not keep its locks."""
CALL_SECONDS = 25.0
"""How long a driver waits for the answer to one statement."""
TRUSTED_SECONDS = 1.0
"""How long after an answer a connection is taken without asking whether it still answers; what fails is retried."""


class Watchdog:
    """Shuts the socket of each connection that waits too long for its server; one thread for the whole process."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[Any, float]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def begin(self, connection: Any) -> None:
        """A call that waits for the server begins; `connection` is the driver's own, with `fileno()`."""
        with self._lock:
            self._waiting[id(connection)] = connection, time.monotonic()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="rankray-deadlines", daemon=True)
                self._thread.start()

    def end(self, connection: Any) -> None:
        """The call has returned."""
        with self._lock:
            self._waiting.pop(id(connection), None)

    def _run(self) -> None:
        while True:
            time.sleep(min(1.0, CALL_SECONDS / 4))
            with self._lock:
                now = time.monotonic()
                late = [each for each, since in self._waiting.values() if now - since > CALL_SECONDS]
                for connection in late:
                    self._waiting.pop(id(connection))
                    _shut(connection)


def _shut(connection: Any) -> None:
    """Shut a connection's socket; the call that waits on it fails at once. The file descriptor stays the driver's."""
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)
    except Exception:
        logger.debug("deadline: the socket of a connection cannot be shut", exc_info=True)
    else:
        logger.debug("deadline: no answer for %.0f s; the connection is given up", CALL_SECONDS)


WATCHDOG = Watchdog()


def pool_events(dialect: str, limited: bool) -> list[tuple[Any, str]]:
    """Return listeners of SQLAlchemy's pool that watch everything from taking a connection to giving it back.

    They also look whether a connection still answers when it is taken after some rest, as SQLAlchemy's `pool_pre_ping`
    does each time, and which nobody could watch.

    Args:
        dialect: `postgresql` or another one.
        limited: whether the URL has limits of its own for statements, which then stay.
    """

    def connected(connection: Any, record: Any) -> None:
        record.info["fresh"] = True
        if dialect != "postgresql" or limited:
            return
        limits = {
            "statement_timeout": STATEMENT_SECONDS,
            "lock_timeout": LOCK_SECONDS,
            "idle_in_transaction_session_timeout": IDLE_SECONDS,
        }
        _ask(connection, "; ".join(f"SET {name} = {seconds * 1000}" for name, seconds in limits.items()))

    def taken(connection: Any, record: Any, _fairy: Any) -> None:
        from sqlalchemy.exc import InvalidatePoolError

        rested = time.monotonic() - record.info.get("answered", -TRUSTED_SECONDS)
        if not record.info.pop("fresh", False) and rested >= TRUSTED_SECONDS:
            try:
                _ask(connection, "SELECT 1")
            except Exception as error:
                logger.debug("a connection of the pool does not answer any more", exc_info=True)
                raise InvalidatePoolError from error
        WATCHDOG.begin(connection)

    def given_back(connection: Any, record: Any) -> None:
        if connection is not None:
            record.info["answered"] = time.monotonic()
            WATCHDOG.end(connection)

    return [(connected, "connect"), (taken, "checkout"), (given_back, "checkin")]


def watch_calls(engine: Any) -> None:
    """Watch each call of an engine by itself: between two calls a connection may be idle as long as it likes."""
    from sqlalchemy import event

    def begin(connection: Any, *_: Any) -> None:
        WATCHDOG.begin(connection.connection.dbapi_connection)

    def end(connection: Any, *_: Any) -> None:
        WATCHDOG.end(connection.connection.dbapi_connection)

    for name in ("before_cursor_execute", "commit", "rollback"):
        event.listen(engine, name, begin)
    event.listen(engine, "after_cursor_execute", end)
    event.listen(engine.pool, "checkout", lambda connection, *_: WATCHDOG.end(connection))


def _ask(connection: Any, statement: str) -> None:
    """Run a statement on a driver's connection, watched, and end its transaction."""
    WATCHDOG.begin(connection)
    try:
        cursor = connection.cursor()
        cursor.execute(statement)
        cursor.close()
        connection.commit()
    finally:
        WATCHDOG.end(connection)
