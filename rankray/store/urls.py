"""Store URLs: what is allowed, checked without connecting and without importing optuna.

    sqlite:///relative.db   sqlite:////absolute.db      one machine, any number of processes
    journal:///relative.log journal:////absolute.log    one machine or a shared file system, a plain append-only file
    postgresql://user:password@host:5432/database       any number of machines
    mysql://user:password@host:3306/database            any number of machines
    grpc://host:13000                                   Optuna's gRPC proxy in front of one of the above

A path after three slashes is relative to the working directory, or begins with `~`; after four it is absolute. In
files of both kinds `%20` is a space; they have no options. (A URL in a configuration is relative to its file: see
`rankray.paths`.)
A password never leaves this package: what is shown, logged, raised or stored goes through `masked` or `scrub`.

The URL of a server is parsed by SQLAlchemy, which opens it later; it is imported only then, because that takes 150 ms.
`masked` parses nothing: it must hide the password of URLs that do not parse, too. The options of a PostgreSQL URL are
judged by the rules of its own client library, and what that does not know is refused.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

from rankray import paths
from rankray.config.secrets import STORE_VARIABLE, note_store, noted_stores, without_secrets
from rankray.errors import StoreError, nearest, printable

logger = logging.getLogger(__name__)

FORMS = {
    "sqlite": "sqlite:///file.db",
    "postgresql": "postgresql://user:password@host/database",
    "mysql": "mysql://user:password@host/database",
    "journal": "journal:///file.log",
    "grpc": "grpc://host:port",
}
_DRIVERS = {
    "postgresql": (("psycopg2", "psycopg2"), ("psycopg", "psycopg")),
    "mysql": (("pymysql", "pymysql"), ("MySQLdb", "mysqldb")),
    "grpc": (("grpc", "grpc"),),
}
"""Scheme to (module, name in the URL) of the drivers that can serve it, the preferred one first."""
_SECRET_OPTION = re.compile(r"pass|pwd|secret|token|key|cred|auth|^options$", re.IGNORECASE)
"""Options of a URL that may hold a secret. PostgreSQL's `options` takes anything."""
_QUOTE = "host and port cannot be found in it; write special characters of a password as %XX"
_PACKAGES = {"postgresql": "psycopg2-binary", "mysql": "PyMySQL", "grpc": "'rankray[grpc]'"}
_NETWORK = re.compile(
    r"^(nfs\d?|cifs|smb\d?|smbfs|9p|afs|ceph|lustre|gpfs|beegfs|glusterfs|wekafs|panfs|pvfs2|orangefs|gfs2|ocfs2"
    r"|fuse\..*(ssh|s3|gcs|gluster|nfs|ceph|juice|blob|rclone|weka|alluxio|dav).*)$"
)


@dataclass(frozen=True)
class StoreURL:
    """A parsed store URL; `repr` shows no password.

    Attributes:
        scheme: one of `FORMS`.
        raw: the URL as given, password included: for the driver only.
        driver: name of the database driver, as in `postgresql+psycopg2`; empty for files.
        path: the file of sqlite and journal stores.
        host: host of a grpc store.
        port: port of a grpc store.
        lenient: whether somebody only looks, so that malformed lines of a journal are left out and not refused.
    """

    scheme: str
    raw: str
    driver: str = ""
    path: Path = Path()
    host: str = ""
    port: int = 0
    lenient: bool = False

    def __repr__(self) -> str:
        return f"StoreURL({masked(self.raw)!r})"


def masked(url: str) -> str:
    """Return the URL without its secrets, `***` in their place, also if the URL is malformed or none.

    Nothing is parsed by what a well-formed URL looks like: what stands where a secret may be is hidden.
    """
    return _split(url)[0]


def secrets(url: str) -> list[str]:
    """Return what must not be shown of a URL: its passwords, quoted and unquoted, the longest first."""
    words = {word for raw in _split(url)[1] for word in (raw, unquote(raw), unquote_plus(raw)) if word}
    return sorted(words, key=len, reverse=True)


def scrub(text: str, url: str) -> str:
    """Return `text` without the URL's password, which a driver may have written there."""
    text = text.replace(url, masked(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return text


def safe_text(text: str) -> str:
    """Return a text for people: URLs in it without their secrets, control characters visible.

    The passwords of RANKRAY_STORE and of the stores that this process has named are taken out wherever they stand.
    """
    text = re.sub(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+", lambda found: masked(found[0]), text)
    for secret in [each for url in (os.environ.get(STORE_VARIABLE, ""), *noted_stores()) for each in secrets(url)]:
        text = text.replace(secret, "***") if len(secret) > 2 else text
    return printable(without_secrets(text))


def _split(url: str) -> tuple[str, list[str]]:
    """Return what may be shown of a URL, and what may not."""
    head, separator, rest = url.partition("://")
    if not separator:
        return _split_text(url)
    hidden: list[str] = []
    if head.partition("+")[0] in ("sqlite", "journal") and rest.startswith("/"):
        shown = ""
    elif login := re.match(r"([^:?#;]*):(.*)@", rest, re.DOTALL):  # greedy: a password may contain @, / and ?
        user, rest = _user(login[1], hidden), rest[login.end() :]
        hidden.append(login[2])
        shown = f"{user.removesuffix(':***')}:***@"
    elif login := re.match(r"([^/?#;@]*)@", rest):
        shown, rest = f"{_user(login[1], hidden)}@", rest[login.end() :]
    else:
        shown = ""
    place, mark, tail = re.match(r"([^?#;]*)([?#;]?)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    for part in re.findall(r"[^/]*=[^/]*", place):
        hidden.append(part.partition("=")[2])
        place = place.replace(part, f"{part.partition('=')[0]}=***")
    return f"{head}://{shown}{place}{mark}{_options(tail, mark, hidden)}", [each for each in hidden if each]


def _user(user: str, hidden: list[str]) -> str:
    """Return what may be shown of a user's name: it may hold `%3A` and then a password."""
    plain = user
    while (again := unquote(plain)) != plain:
        plain = again
    name, colon, password = plain.partition(":")
    if not colon:
        return user
    hidden += [password, user]
    return f"{name}:***"


def _options(tail: str, mark: str, hidden: list[str]) -> str:
    """Return what may be shown of what follows the database: the values of options that hold no secret."""
    shown = []
    for index, part in enumerate(re.split(r"([&;#])", tail)):
        key, equals, value = part.partition("=")
        if (
            index % 2
            or (not equals and (not part or mark == "?"))
            or (mark == "?" and not _SECRET_OPTION.search(unquote(key)) and not re.search(r"[=@\s]|%|:.*@", value))
        ):
            shown.append(part)
        else:
            hidden.append(value if equals else part)
            shown.append(f"{key}=***" if equals else "***")
    return "".join(shown)


def _split_text(text: str) -> tuple[str, list[str]]:
    """The same of a text that is no URL, perhaps PostgreSQL's `host=... password=...`."""
    if "=" in text:
        if "'" in text or "\\" in text:
            return "***", [text]
        pairs = [(key, value) for key, value in re.findall(r"(\w+)\s*=\s*(\S*)", text)]
        hidden = [value for key, value in pairs if key not in ("host", "port", "dbname", "user", "sslmode") and value]
        shown = re.sub(
            r"(\w+)\s*=\s*(\S*)",
            lambda found: f"{found[1]}={'***' if found[2] in hidden else found[2]}",
            text,
        )
        return shown, hidden
    login = re.match(r"([^:]*):(.*)@", text, re.DOTALL)
    return (f"{login[1]}:***@{text[login.end() :]}", [login[2]]) if login else (text, [])


def validate_url(url: str) -> None:
    """Check a store URL without connecting to it.

    Raises:
        StoreError: the scheme is unknown, a part is missing, its driver is not installed, or the file of an SQLite
            store is on a network file system.
    """
    parse_url(url)


def parse_url(url: str) -> StoreURL:
    """Return the parts of a store URL, checked as `validate_url` does.

    Raises:
        StoreError: see `validate_url`; the message never holds the password.
    """
    scheme, separator, _ = url.partition("://")
    name, _, driver = scheme.partition("+")
    if not separator or name not in FORMS:
        raise StoreError(
            f"store: got {masked(url)!r}{nearest(name, FORMS)}; allowed: {', '.join(FORMS.values())}; "
            "give one of these, by --store, as store: in the file or in RANKRAY_STORE"
        )
    if name in ("sqlite", "journal"):
        return _file_url(name, url)
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parts = make_url(url)
    except (ArgumentError, ValueError):
        raise _malformed(name, url, _QUOTE) from None
    host, port = parts.host or "", parts.port
    if "@" in host:
        raise _malformed(name, url, _QUOTE)
    note_store(masked(url), url)
    if name == "grpc":
        if not host or port is None:
            raise _malformed(name, url, "host and port are needed")
        if parts.username or parts.password or parts.query:
            raise _malformed(name, url, "the proxy asks for no login and has no options")
        return StoreURL(name, url, _driver(name, ""), host=host, port=port)
    if not parts.database:
        raise _malformed(name, url, "the database's name is missing")
    if re.search(r"[;#=]", parts.database) or ":" in unquote(parts.username or ""):
        raise _malformed(name, url, "';', '#', '=' or ':' stands where no password may be; write it after the user")
    found = StoreURL(name, url, _driver(name, driver))
    if name == "postgresql" and parts.query:
        _check_options(found, parts.query)
    return found


def network_file_system(path: Path) -> str:
    """Return the type of the network file system that holds `path`, or an empty string for a local one."""
    real = os.path.realpath(path)
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        logger.debug("mounts cannot be read, and %s is taken to be on a local disk: %s", path, error)
        return ""
    best, kind = "", ""
    for line in mounts:
        fields = line.split()
        if len(fields) < 3:
            continue
        point = re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), fields[1])
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind if _NETWORK.match(kind) else ""


def _file_url(name: str, url: str) -> StoreURL:
    if url.partition("://")[0] != name:
        raise _malformed(name, url, "a file has no driver")
    file = paths.file_in_url(url)
    if file is None:
        raise _malformed(name, url, f"a file needs three slashes, as in {FORMS[name]}")
    if url.partition("?")[2]:
        raise _malformed(name, url, "a file has no options, and a ? of its name is written %3F")
    if not file or file == ":memory:" or file.endswith("/"):
        raise _malformed(name, url, "it names no file, and a store in memory cannot be resumed")
    try:
        path = Path(paths.resolved(file))
    except ValueError as error:
        raise _malformed(name, url, str(error)) from None
    if os.path.isdir(path):
        raise _malformed(name, url, "it names a directory")
    network = network_file_system(path) if name == "sqlite" else ""
    if network:
        raise StoreError(
            f"store: {masked(url)} is on a network file system ({network}), where SQLite loses data; allowed: a local "
            f"disk for sqlite; use a PostgreSQL store ({FORMS['postgresql']}), or a journal ({FORMS['journal']})"
        )
    return StoreURL(name, url, path=path)


def _driver(name: str, wanted: str) -> str:
    known = _DRIVERS[name]
    if wanted and wanted not in [driver for _, driver in known]:
        raise StoreError(
            f"store: unknown driver {name}+{wanted}{nearest(wanted, [driver for _, driver in known])}; allowed: "
            f"{', '.join(driver for _, driver in known)}; write {name}:// to take the one that is installed"
        )
    for module, driver in known:
        if wanted in ("", driver) and importlib.util.find_spec(module) is not None:
            return driver
    raise StoreError(f"store: no driver for {name}:// is installed; pip install {_PACKAGES[name]}")


def _check_options(url: StoreURL, options: Mapping[str, Any]) -> None:
    """Refuse what PostgreSQL's client library does not know; it names the option, never its value."""
    if url.driver == "psycopg2":
        import psycopg2
        from psycopg2.extensions import make_dsn as parse
    else:
        import psycopg as psycopg2
        from psycopg.conninfo import make_conninfo as parse
    for key, value in options.items():
        try:
            parse(**{key: value if isinstance(value, str) else ",".join(value)})
        except psycopg2.Error:
            logger.debug("store: an option of the URL is not known to PostgreSQL's client library")
            allowed = "a connection parameter of PostgreSQL's client library, in lower case, such as sslmode"
            raise StoreError(f"store: got the option {key[:40]!r}; allowed: {allowed}; correct the URL") from None


def _malformed(name: str, url: str, why: str) -> StoreError:
    return StoreError(f"store: got {masked(url)!r}: {why}; allowed: {FORMS[name]}; correct the URL")
