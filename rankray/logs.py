"""One logger, `rankray`: quiet by default, on standard error with `--verbose`.

Modules log under their own names (`rankray.store.backend`), as Python's logging has it. What is swallowed, retried or
fallen back from leaves a `debug` line, and nothing else does: what a user has to know is an error, or in the view.
`RANKRAY_LOG=debug` shows it for any command, and reaches the processes that train.
"""

from __future__ import annotations

import logging
import os
import sys

VARIABLE = "RANKRAY_LOG"
FORMAT = "%(asctime)s %(levelname)s %(name)s [%(process)d]: %(message)s"


def configure(verbose: bool = False) -> None:
    """Show what the logger says if `verbose`, or if RANKRAY_LOG names a level; processes started later do the same.

    Args:
        verbose: show everything, whatever RANKRAY_LOG says.
    """
    if verbose:
        os.environ[VARIABLE] = "debug"
    level = logging.getLevelNamesMapping().get(os.environ.get(VARIABLE, "").upper())
    logger = logging.getLogger("rankray")
    if level is None or logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(FORMAT))
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
