"""Where rankray keeps what belongs to a machine and not to a study."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """Return this node's cache: `RANKRAY_CACHE`, or `$XDG_CACHE_HOME/rankray`, or `~/.cache/rankray`."""
    given = os.environ.get("RANKRAY_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given) if given else Path(home) / "rankray"
