"""Durations that environment variables set."""

from __future__ import annotations

import math
import os

from rankray.errors import ConfigError


def seconds_of(variable: str, default: float, *, zero: bool = False, endless: bool = False) -> float:
    """Return the seconds that an environment variable gives.

    Args:
        variable: its name.
        default: what counts where it is not set.
        zero: whether 0 is allowed.
        endless: whether infinity is allowed.

    Raises:
        ConfigError: it is set, and is no such number.
    """
    given = os.environ.get(variable)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (seconds > 0 or (zero and seconds == 0)) or (math.isinf(seconds) and not endless):
        allowed = "0 or more" if zero else "above 0"
        raise ConfigError(f"{variable}: got {given!r}; allowed: a number of seconds {allowed}; fix or unset it")
    return seconds
