"""What goes wrong with a store, from the errors of its drivers: is it worth another try, and what is to be said.

An error is judged by what its server says in numbers, which no translation changes: SQLSTATE (PostgreSQL), the error
number (MySQL), the extended result code (SQLite), the status code (gRPC); and by the state of the connection. Only
where PostgreSQL refuses a connection, of which its driver gives a text alone, that text is read.
"""

from __future__ import annotations

import errno
import json
import re
from typing import Any

import optuna

_DRIVER_MODULES = ("sqlalchemy", "sqlite3", "psycopg2", "psycopg", "pymysql", "MySQLdb", "grpc")
AWAY, LOCKED, LOGIN, RIGHTS, MISSING, UNENCRYPTED, READ_ONLY, FULL, DAMAGED, REFUSED = (
    "away", "locked", "login", "rights", "missing", "unencrypted", "read-only", "full", "damaged", "refused",
)  # fmt: skip
TRANSIENT = (AWAY, LOCKED)
"""The kinds of failure that may pass by themselves."""
WORDS = {
    AWAY: (
        "does not answer",
        "what was committed is safe; check that it is up and reachable, then run the same command again",
    ),
    LOCKED: (
        "is locked by another process",
        "what was committed is safe; wait for that process, or end it, then run the same command again",
    ),
    LOGIN: ("refuses the login", "allowed: a user and a password that it knows; correct the URL or the password file"),
    RIGHTS: (
        "does not let this user in",
        "allowed: a database that exists and that this user may use; create it, have the right granted, or give "
        "another user or database",
    ),
    UNENCRYPTED: (
        "cannot agree with this client on encryption",
        "allowed: sslmode as the server has it, and certificates that it knows; correct the options of the URL",
    ),
    MISSING: ("has no such database", "allowed: a database that exists; create it, or correct the URL"),
    READ_ONLY: (
        "may not be written here",
        "allowed: a store that you may write, and its directory, even to look at it (SQLite keeps files beside it); "
        "change the rights, or copy it to a directory of your own",
    ),
    FULL: ("has no room left", "what was committed is safe; free some space, then run the same command again"),
    DAMAGED: (
        "is damaged or no store",
        "what it holds cannot be relied on; restore a backup, or correct the URL; for a journal that a crash has "
        "cut, try rankray store repair",
    ),
    REFUSED: ("refuses what it was asked", "run with RANKRAY_LOG=debug to see what was asked"),
}
"""What is said of each kind: what is the matter, and what is allowed or to be done."""
_SQLSTATE = {
    "28": LOGIN, "3D000": MISSING, "3F000": MISSING, "25006": READ_ONLY, "42501": READ_ONLY, "53100": FULL,
    "XX001": DAMAGED, "XX002": DAMAGED, "55P03": LOCKED,
    **dict.fromkeys(("08", "40", "53", "57", "58", "25P02", "25P03", "55"), AWAY),
}  # fmt: skip
"""SQLSTATE, or its class, to kind; of two that fit, the whole code."""
_POSTGRESQL_SAYS = (
    (LOGIN, r"password|authentication|role \".*\" does not exist|pg_hba\.conf|not permitted to log in"),
    (MISSING, r"database \".*\" does not exist"),
    (RIGHTS, r"permission denied for database"),
    (UNENCRYPTED, r"SSL was required|certificate (verify failed|file)|does not match host name|invalid \w+ value"),
)
_MYSQL = {
    **dict.fromkeys((1045, 1698, 1251, 1524), LOGIN), 1044: RIGHTS, 1227: RIGHTS, 1049: MISSING,
    2026: UNENCRYPTED, 1290: READ_ONLY, 1836: READ_ONLY,
    1021: FULL, 1114: FULL, 1205: LOCKED, 1213: LOCKED,
    **dict.fromkeys((1040, 1053, 1077, 1079, 1080, 1158, 1159, 1160, 1161, 1203, 1317, 1927, 3024), AWAY),
    **dict.fromkeys((2000, 2002, 2003, 2005, 2006, 2013, 2014, 2027, 2055, 0), AWAY),
}  # fmt: skip
_SQLITE = {
    "BUSY": LOCKED, "LOCKED": LOCKED, "PROTOCOL": LOCKED, "READONLY": READ_ONLY, "CANTOPEN": READ_ONLY,
    "PERM": READ_ONLY, "AUTH": READ_ONLY, "FULL": FULL, "CORRUPT": DAMAGED, "NOTADB": DAMAGED, "FORMAT": DAMAGED,
    "IOERR": AWAY,
}  # fmt: skip
_GRPC = {
    **dict.fromkeys(("UNAUTHENTICATED", "PERMISSION_DENIED"), LOGIN),
    **dict.fromkeys(("UNIMPLEMENTED", "INVALID_ARGUMENT", "OUT_OF_RANGE"), REFUSED),
    "DATA_LOSS": DAMAGED,
}  # fmt: skip
_OS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), FULL),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), READ_ONLY),
}  # fmt: skip
_CONNECTION_NAMES = ("OperationalError", "InterfaceError", "InternalError", "TimeoutError", "DisconnectionError")
_BROKEN_NAMES = ("PendingRollbackError", "ResourceClosedError", "InvalidatePoolError")
"""Errors of SQLAlchemy about a transaction that a lost connection has ended: rolled back, it can be tried again."""


def driver_error(error: BaseException) -> BaseException | None:
    """Return the error of the database, the network or the disk, or None if the error is not one of theirs."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    module = type(error).__module__.split(".")[0]
    if module in _DRIVER_MODULES or isinstance(error, (OSError, json.JSONDecodeError)):
        return error
    return error if isinstance(error, optuna.exceptions.StorageInternalError) else None


def kind_of(cause: BaseException) -> str:
    """Return what kind of failure a driver's error is: one of the keys of `WORDS`."""
    names = {kind.__name__ for kind in type(cause).__mro__}
    if getattr(cause, "connection_invalidated", False) or names & set(_BROKEN_NAMES):
        return AWAY
    original = getattr(cause, "orig", None) or cause
    found = _by_number(original)
    if found:
        return found
    if isinstance(original, json.JSONDecodeError):
        return DAMAGED
    if isinstance(original, OSError):
        return _OS.get(original.errno or 0, AWAY)
    names |= {kind.__name__ for kind in type(original).__mro__}
    return AWAY if names & set(_CONNECTION_NAMES) else REFUSED


def _by_number(original: Any) -> str:
    state = getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)
    if state:
        return _SQLSTATE.get(state) or _SQLSTATE.get(state[:2]) or REFUSED
    module = type(original).__module__.split(".")[0]
    if module.startswith("psycopg"):
        return next((kind for kind, said in _POSTGRESQL_SAYS if re.search(said, str(original))), "")
    if name := getattr(original, "sqlite_errorname", ""):
        return _SQLITE.get(name.split("_")[1], REFUSED)
    if module in ("pymysql", "MySQLdb") and original.args and isinstance(original.args[0], int):
        return _MYSQL.get(original.args[0], REFUSED)
    code = getattr(original, "code", None)
    if module == "grpc" and callable(code):
        return _GRPC.get(getattr(code(), "name", ""), AWAY)
    return ""
