"""Reading what may be anything: values that a store holds, checked before they are used.

A row may have been written by another version, by another program, or by an enemy. What is not as rankray writes it is
left out, with a `debug` line, and everything else is still shown and used.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from rankray.errors import RankrayError, StoreError, printable

logger = logging.getLogger(__name__)


def mapping(value: Any) -> dict[str, Any]:
    """Return a stored mapping; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def mappings(value: Any) -> list[dict[str, Any]]:
    """Return the mappings of a stored list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def text(value: Any, default: str = "") -> str:
    """Return a stored text; the default in place of anything else."""
    return value if isinstance(value, str) else default


def number(value: Any) -> float | None:
    """Return a stored number, finite or not; None in place of anything else."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def figures(value: Any) -> dict[str, float]:
    """Return a stored mapping of names to numbers, without what is none."""
    found = {name: number(each) for name, each in mapping(value).items()}
    return {name: each for name, each in found.items() if each is not None}


def pair(value: Any) -> list[float | None] | None:
    """Return a stored list of two numbers; None in place of anything else, and of a number that is none."""
    return [number(each) for each in value] if isinstance(value, list) and len(value) == 2 else None


def whole(value: Any) -> int | None:
    """Return a stored whole number, also where it is written as text; None in place of anything else."""
    try:
        return int(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else None
    except ValueError:
        return None


def now() -> str:
    """Return the present as it is stored: local time, with its distance from UTC."""
    return datetime.now().astimezone().isoformat()


def moment(value: Any) -> datetime | None:
    """Return a stored time, or one that Optuna gives, in this machine's time zone; None where there is none.

    Optuna gives this machine's local time without its distance from UTC, of which two are not as far apart as they look
    where summer time begins or ends between them. Earlier versions stored the writer's, which is taken for this
    machine's.
    """
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) and value else value
        return found.astimezone() if isinstance(found, datetime) else None
    except (ValueError, OverflowError, OSError):
        logger.debug("a stored time is malformed: %r", value)
        return None


def has_zone(value: Any) -> bool:
    """Return whether a stored time says its distance from UTC; those of earlier versions do not."""
    with suppress(ValueError):
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    return False


def clean(value: Any) -> Any:
    """Return JSON types with every text fit to be shown (`printable`), and numbers that are not finite as None."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): clean(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while a study is read into one line: nothing else is wrong with the command.

    Raises:
        StoreError: what is stored of the study is malformed.
    """
    try:
        yield
    except RankrayError:
        raise
    except Exception as error:
        logger.debug("study %s: cannot be read", name, exc_info=True)
        first = (str(error).strip().splitlines() or ["no message"])[0][:200]
        raise StoreError(
            f"study {printable(name)}: what is stored of it is malformed ({type(error).__name__}: {printable(first)}); "
            "allowed: what rankray writes; restore a backup of the store, or delete the study with optuna"
        ) from error
