"""Places where checkpoints are kept: a directory that all nodes see, or a prefix of an object store.

A place is a string everywhere: a path, or `s3://bucket/prefix`, `gs://bucket/prefix`, `abfss://container@account/prefix`
with the options of pyarrow's `FileSystem.from_uri` as its query (`?region=...&endpoint_override=...`). It holds no
credentials: those come from the node's environment or its role, and a URL that contains some is refused.

An object store has no rename. A checkpoint there is valid once the trial store has committed its place, which happens
only after everything is uploaded. `LAST`, the file that says where the trial stood, is uploaded last, so that people
can tell too.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_exponential

from rankray import paths
from rankray.environment import seconds_of
from rankray.errors import StorageError, first_line

logger = logging.getLogger(__name__)

LAST = "rankray.json"
CHUNK_BYTES = 64 << 20
PATIENCE_SECONDS = 600.0
"""How long an object store may fail before a search that writes to it ends, where the environment does not say."""
LONGEST_PAUSE_SECONDS = 60.0
"""How long to wait at most before an object store is tried again."""
Notice = Callable[[str], None]


def is_remote(place: str) -> bool:
    """Return whether a place is in an object store."""
    return "://" in place


def absolute(place: str) -> str:
    """Return the place in a form that is valid in every process: paths absolute, URLs unchanged."""
    return place if is_remote(place) else paths.resolved(place)


def join(place: str, *names: str) -> str:
    """Return a place below another one."""
    if not is_remote(place):
        return str(Path(place, *names))
    url = urlsplit(place)
    path = "/".join([url.path.rstrip("/"), *names])
    return urlunsplit((url.scheme, url.netloc, path, url.query, url.fragment))


def is_parent(outer: str, inner: str) -> bool:
    """Return whether `inner` lies below `outer`, with links and `..` resolved."""
    if is_remote(outer) != is_remote(inner):
        return False
    if not is_remote(outer):
        return Path(os.path.realpath(outer)) in Path(os.path.realpath(inner)).parents
    one, other = urlsplit(outer), urlsplit(inner)
    names = other.path.split("/")
    return one[:2] == other[:2] and other.path.startswith(one.path.rstrip("/") + "/") and ".." not in names


def below(root: str, place: str) -> str | None:
    """Return a place that somebody else names, in the form in which it may be used; None unless it lies below `root`.

    What a trial store says may be wrong, or from an enemy. So a path must be below `root` as it is written, without
    `..`, and no directory on the way there may be a link. In an object store the options, such as the endpoint to which
    credentials are sent, are those of `root`.

    Args:
        root: a place of this study.
        place: what was read.
    """
    if is_remote(root) != is_remote(place) or "\0" in place:
        return None
    if is_remote(root):
        one, other = urlsplit(root), urlsplit(place)
        prefix = one.path.rstrip("/") + "/"
        parts = other.path.removeprefix(prefix).split("/")
        fits = one[:2] == other[:2] and other.path.startswith(prefix) and not {"", ".", ".."} & set(parts)
        return join(root, *parts) if fits else None
    real = os.path.realpath(root)
    for base in (root, os.path.abspath(root), real):
        prefix = base.rstrip(os.sep) + os.sep
        parts = place.removeprefix(prefix).split(os.sep)
        if place.startswith(prefix) and not {"", ".", ".."} & set(parts):
            exact = os.path.join(real, *parts)
            return os.path.join(root, *parts) if os.path.realpath(exact) == exact else None
    return None


def obstacle(path: str) -> str:
    """Return why no directory can be made and written to at a path, or an empty string. Nothing is left there.

    A file is really made: the permissions alone say nothing to root, nor of a full disk or of what takes no files.
    """
    there = next((each for each in (Path(path), *Path(path).parents) if os.path.lexists(each)), Path("/"))
    if not there.is_dir():
        return f"{there} {'is a link to nothing' if there.is_symlink() else 'is no directory'}"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} may not be written to"
    try:
        with suppress(FileNotFoundError):
            os.stat(path)  # a name may be too long
        with tempfile.TemporaryFile(dir=there):
            return ""
    except OSError as error:
        logger.debug("%s cannot be made", path, exc_info=True)
        return f"nothing can be made in {there} ({error.strerror})"


def names(place: str) -> list[str]:
    """Return the names directly below a place; none where it does not exist."""
    if not is_remote(place):
        return sorted(os.listdir(place)) if os.path.isdir(place) else []
    from pyarrow.fs import FileSelector

    with wrap_errors(place):
        system, path = _system(place)
        return sorted(info.base_name for info in system.get_file_info(FileSelector(path, allow_not_found=True)))


def exists(place: str) -> bool:
    """Return whether there is a directory at a place, or objects below it."""
    return bool(names(place)) if is_remote(place) else os.path.isdir(place)


def delete(place: str) -> None:
    """Delete a place and everything below it; what does not exist or cannot be deleted is left."""
    if not is_remote(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    try:
        system, path = _system(place)
        system.delete_dir(path)
    except OSError:
        logger.debug("%s cannot be deleted; it is left", place, exc_info=True)


def upload(directory: Path, place: str, notice: Notice = logger.debug) -> None:
    """Copy the files of a directory to a place, with retries while the object store fails.

    Args:
        directory: on this node.
        place: where to.
        notice: is called with a line before each retry.

    Raises:
        StorageError: it kept failing.
    """
    files = [file for file in directory.rglob("*") if file.is_file()]

    def copy(file: Path) -> None:
        system, path = _system(join(place, *file.relative_to(directory).parts))
        _copy(None, str(file), system, path)

    with wrap_errors(place):
        for file in sorted(files, key=lambda file: (file.name == LAST, file)):
            with_retries(functools.partial(copy, file), place, notice)


def download(place: str, directory: Path, notice: Notice = logger.debug) -> None:
    """Copy a place into a directory, which appears complete or not at all.

    Args:
        place: where from.
        directory: on this node.
        notice: is called with a line before each retry.

    Raises:
        StorageError: the place is empty (caused by a FileNotFoundError), or cannot be read.
    """
    partial = directory.with_name(f".{directory.name}-{uuid.uuid4().hex[:8]}")

    def copy() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        system, path = _system(place)
        _copy(system, path, None, str(partial))

    with wrap_errors(place):
        with_retries(copy, place, notice)
        os.replace(partial, directory)


def probe(place: str) -> None:
    """Write a small file at a place, read it back and delete it.

    Raises:
        StorageError: one of the three failed.
    """
    name, content = f".rankray-probe-{uuid.uuid4().hex[:8]}", uuid.uuid4().bytes
    if not is_remote(place):
        with wrap_errors(place):
            Path(place).mkdir(parents=True, exist_ok=True)
            file = Path(place, name)
            try:
                file.write_bytes(content)
                found = file.read_bytes()
            finally:
                file.unlink(missing_ok=True)
    else:
        with wrap_errors(place):
            system, path = _system(join(place, name))
            with system.open_output_stream(path) as out:
                out.write(content)
            with system.open_input_stream(path) as into:
                found = into.read()
            system.delete_file(path)
    if found != content:
        raise StorageError(f"storage: {place}: what was read back is not what was written; use another storage")


@contextmanager
def wrap_errors(place: str) -> Iterator[None]:
    """Turn errors of reading and writing into a `StorageError` that names the place and what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        what = (
            "check the bucket's name, its region and this node's credentials (environment, profile or role)"
            if is_remote(place)
            else "give a directory that this node may write"
        )
        raise StorageError(f"storage: {place} cannot be written or read here: {first_line(error)}; {what}") from error


def patience_seconds() -> float:
    """Return how long an object store may fail: RANKRAY_STORAGE_PATIENCE_SECONDS, or ten minutes.

    Raises:
        ConfigError: the variable is no number of 0 or more.
    """
    return seconds_of("RANKRAY_STORAGE_PATIENCE_SECONDS", PATIENCE_SECONDS, zero=True)


def with_retries(act: Callable[[], None], place: str, notice: Notice = logger.debug) -> None:
    """Call `act` again, at growing intervals for `patience_seconds` in all, while an object store fails.

    Args:
        act: what to do.
        place: where, for `notice`.
        notice: is called with a line before each retry.
    """
    patience = patience_seconds()

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        notice(
            f"storage: {place} fails ({first_line(error)}); tried again for up to "
            f"{max(0.0, patience - (state.seconds_since_start or 0.0)):.0f} s"
        )

    Retrying(
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and not isinstance(error, FileNotFoundError)),
        wait=wait_exponential(multiplier=2, max=LONGEST_PAUSE_SECONDS),
        stop=stop_before_delay(patience),
        before_sleep=say,
        reraise=True,
    )(act)


def _copy(source: Any, origin: str, target: Any, destination: str) -> None:
    """Copy a file or a directory; None is the local disk.

    Uploads with several of pyarrow's threads can deadlock (its issue 32372); downloads do not.
    """
    from pyarrow import fs

    local = fs.LocalFileSystem()
    fs.copy_files(
        origin,
        destination,
        source_filesystem=source or local,
        destination_filesystem=target or local,
        chunk_size=CHUNK_BYTES,
        use_threads=target is None,
    )


def _system(place: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a place, and the place's path in it."""
    url = urlsplit(place)
    system, root = _bucket(url.scheme, url.netloc, url.query)
    return system, root + url.path.rstrip("/")


@functools.lru_cache(maxsize=8)
def _bucket(scheme: str, bucket: str, query: str) -> tuple[Any, str]:
    from pyarrow.fs import FileSystem

    options = dict(parse_qsl(query))
    if scheme == "gs":
        options.setdefault("retry_limit_seconds", "60")  # otherwise pyarrow tries an unreachable bucket for 15 minutes
    found: tuple[Any, str] = FileSystem.from_uri(urlunsplit((scheme, bucket, "", urlencode(options), "")))
    return found
