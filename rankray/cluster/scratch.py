"""A directory of this process's own: for the Ray that it starts, its token, and what Ray Tune writes.

It lies in the system's temporary directory and may be entered by its owner alone. It is deleted when the process ends.
What a killed process left is deleted by the next one that makes its own: the directory says whose it is.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import secrets
import shutil
import tempfile
from pathlib import Path

from rankray.store.leases import known_dead, this_process

logger = logging.getLogger(__name__)

PREFIX = "rankray-own-"
OWNER = "owner.json"
TOKEN = "token"
LONGEST = 32
"""Characters of the temporary directory's path up to which Ray's sockets below it have names short enough."""


@functools.cache
def own_directory() -> Path:
    """Return this process's directory, made with rights 0700 at the first call."""
    place = tempfile.gettempdir()
    if len(place) > LONGEST and os.access("/tmp", os.W_OK | os.X_OK):
        place = "/tmp"
    remove_leftovers(Path(place))
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
    claim(directory)
    atexit.register(_remove, directory, os.getpid())
    return directory


def own_token() -> Path:
    """Return a file with a token that no other process has; only its owner may read it."""
    file = own_directory() / TOKEN
    if not file.exists():
        with open(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as out:
            out.write(secrets.token_hex(32))
    return file


def claim(directory: Path) -> None:
    """Write into a directory that it is this process's, for `remove_leftovers`."""
    (directory / OWNER).write_text(json.dumps(this_process()), encoding="utf-8")


def remove_leftovers(place: Path, prefix: str = PREFIX) -> list[Path]:
    """Delete the directories of this prefix below `place` that dead processes of this user have claimed; return them.

    A process on another machine may be alive, as it cannot be seen from here.
    """
    removed = []
    for directory in place.glob(f"{prefix}*"):
        try:
            found = directory.lstat()
            if directory.is_symlink() or not directory.is_dir() or found.st_uid != os.getuid():
                continue
            owner = json.loads((directory / OWNER).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            logger.debug("%s does not say whose it is, and is left", directory)
            continue
        if isinstance(owner, dict) and known_dead(owner):
            shutil.rmtree(directory, ignore_errors=True)
            removed.append(directory)
    return removed


def _remove(directory: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        shutil.rmtree(directory, ignore_errors=True)
