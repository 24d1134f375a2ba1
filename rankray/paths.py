"""One rule for paths: `~` is the home directory, and a relative path is relative to where it was written.

What stands in a file is relative to that file; what comes from the command line, from the environment or by default is
relative to the current directory. `config.load` makes the paths of a configuration absolute by this rule, so that they
mean the same in every process; `store.urls` applies it to a store's URL. Also where rankray keeps what belongs to a
machine and not to a study, and temporary directories, of which nothing stays.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

logger = logging.getLogger(__name__)

FILE_STORES = ("sqlite", "journal")
"""Schemes of the stores that are a file: `sqlite:///relative`, `sqlite:////absolute`, `sqlite:///~/in-my-home`."""


def resolved(path: str, base: str | Path = "") -> str:
    """Return a path as an absolute one: `~` expanded, relative ones below `base` (the current directory if empty).

    Raises:
        ValueError: it begins with `~name`, and there is no such user; or it holds a null character.
    """
    if "\0" in path:
        raise ValueError(f"got {path!r}; a path cannot hold a null character; correct the path")
    home = os.path.expanduser(path)
    if home.startswith("~"):
        raise ValueError(f"got {path!r}; there is no user {path.split('/')[0][1:]!r} here; write the path in full")
    whole = home if os.path.isabs(home) else os.path.join(os.path.abspath(base), home)
    # Behind a link, `link/..` is not the directory that holds the link.
    return os.path.realpath(whole) if ".." in Path(home).parts else os.path.normpath(whole)


def same_path(one: str, other: str) -> bool:
    """Return whether two spellings lead to the same place; links are followed."""
    try:
        return os.path.realpath(resolved(one)) == os.path.realpath(resolved(other))
    except ValueError:
        return one == other


def file_in_url(url: str) -> str | None:
    """Return the path in the URL of a file store as it was written, `%20` decoded; None if it has none."""
    scheme, _, rest = url.partition("://")
    if scheme not in FILE_STORES or not rest.startswith("/"):
        return None
    written = rest[1:].partition("?")[0]
    decoded = unquote(written)
    # Earlier versions did not decode the path of an SQLite file: one that they made keeps its name.
    earlier = decoded != written and scheme == "sqlite" and os.path.isfile(os.path.expanduser(written))
    return written if earlier and not os.path.exists(os.path.expanduser(decoded)) else decoded


def resolved_url(url: str, base: str | Path = "") -> str:
    """Return the URL of a file store with its path made absolute by `resolved`; any other URL as it is.

    Raises:
        ValueError: see `resolved`.
    """
    file = file_in_url(url)
    if not file or file == ":memory:" or file.endswith("/") or url.partition("?")[2]:  # refused where it is opened
        return url
    path = resolved(file, base)
    for sign, code in (("%", "%25"), ("?", "%3F"), ("#", "%23")):
        path = path.replace(sign, code)
    return f"{url.partition('://')[0]}:///{path}"


def cache_home() -> Path:
    """Return this node's cache: `RANKRAY_CACHE`, or `$XDG_CACHE_HOME/rankray`, or `~/.cache/rankray`."""
    given = os.environ.get("RANKRAY_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(resolved(given)) if given else Path(home) / "rankray"


@contextmanager
def temporary_directory(prefix: str, place: str | Path | None = None) -> Iterator[Path]:
    """Make a directory that is deleted at the end of the block, and delete those that killed processes left.

    Whoever makes it holds the kernel's lock on it, which ends with the process: so neither a date nor the number of a
    process says whether it is left over. A file system without such locks keeps what is left.

    Args:
        prefix: what its name begins with; only directories of this beginning are looked at.
        place: where; the system's temporary directory if None.
    """
    inside = Path(place or tempfile.gettempdir())
    delete_left_over(inside, prefix)
    draft = Path(tempfile.mkdtemp(prefix=".new-", dir=inside))
    directory = inside / f"{prefix}{draft.name.removeprefix('.new-')}"
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            logger.debug("%s cannot be locked, and stays where this process is killed: %s", directory, error)
        draft.rename(directory)
        yield directory
    finally:
        for each in (draft, directory):
            shutil.rmtree(each, ignore_errors=True)
        os.close(descriptor)


def delete_left_over(place: Path, prefix: str) -> list[Path]:
    """Delete the directories of `temporary_directory` below `place` that nobody holds; return them."""
    removed = []
    for directory in place.glob(f"{glob.escape(prefix)}*"):
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            logger.debug("%s is left as it is: %s", directory, error)
            continue
        try:
            if os.fstat(descriptor).st_uid == os.getuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
                removed.append(directory)
        except OSError as error:
            logger.debug("%s is in use: %s", directory, error)
        finally:
            os.close(descriptor)
    return removed
