"""Store URLs: what is allowed, checked without connecting and without importing optuna.

    sqlite:///relative.db   sqlite:////absolute.db      one machine, any number of processes
    journal:///relative.log journal:////absolute.log    one machine or a shared file system, a plain append-only file
    postgresql://user:password@host:5432/database       any number of machines
    mysql://user:password@host:3306/database            any number of machines
    grpc://host:13000                                   Optuna's gRPC proxy in front of one of the above

A path after three slashes is relative to the working directory, or begins with `~`; after four it is absolute. In
files of both kinds `%20` is a space. (A URL in a configuration is relative to its file: see `rankray.paths`.)
A password never leaves this package: what is shown, logged, raised or stored goes through `masked` or `scrub`.

The URL of a server is parsed by SQLAlchemy, which opens it later; it is imported only then, because that takes 150 ms.
`masked` parses nothing: it must hide the password of URLs that do not parse, too.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from rankray import paths
from rankray.errors import StoreError, nearest

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
    """

    scheme: str
    raw: str
    driver: str = ""
    path: Path = Path()
    host: str = ""
    port: int = 0

    def __repr__(self) -> str:
        return f"StoreURL({masked(self.raw)!r})"


def masked(url: str) -> str:
    """Return the URL with `***` in place of a password, also if the URL is malformed."""
    head, separator, rest = url.partition("://")
    if not separator:
        return re.sub(r":[^:/@]*@", ":***@", url)
    rest = re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&#]*", r"\1***", rest)
    credentials, at, tail = rest.rpartition("@")
    if not at:
        return f"{head}://{rest}"
    user, colon, _ = credentials.partition(":")
    return f"{head}://{user}{':***' if colon else ''}@{tail}"


def secrets(url: str) -> list[str]:
    """Return what must not be shown of a URL: its passwords, quoted and unquoted, the longest first."""
    found = re.findall(r"[?&](?:password|passwd|sslpassword)=([^&#]*)", url)
    credentials = url.partition("://")[2].rpartition("@")[0]
    found.append(credentials.partition(":")[2])
    words = {word for raw in found for word in (raw, unquote(raw)) if word}
    return sorted(words, key=len, reverse=True)


def scrub(text: str, url: str) -> str:
    """Return `text` without the URL's password, which a driver may have written there."""
    text = text.replace(url, masked(url))
    for secret in secrets(url):
        text = text.replace(secret, "***")
    return text


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
            "set store: in the file, --store or RANKRAY_STORE to one of these"
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
    if name == "grpc":
        if not host or port is None:
            raise _malformed(name, url, "host and port are needed")
        return StoreURL(name, url, _driver(name, ""), host=host, port=port)
    if not parts.database:
        raise _malformed(name, url, "the database's name is missing")
    return StoreURL(name, url, _driver(name, driver))


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


def _malformed(name: str, url: str, why: str) -> StoreError:
    return StoreError(f"store: got {masked(url)!r}: {why}; allowed: {FORMS[name]}; correct the URL")
