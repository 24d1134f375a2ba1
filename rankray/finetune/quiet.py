"""Keep the libraries' output off the terminal: progress bars, notices, and warnings that need no action."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers

LOGGERS = ("trl", "accelerate", "peft", "datasets", "torch.distributed")


@contextmanager
def quiet() -> Iterator[None]:
    """Print only errors within the context; restore the settings afterwards."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    verbosity, bars = transformers.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    model_bars = transformers.logging.is_progress_bar_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers.logging.set_verbosity(logging.ERROR)
        transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            for logger, level in loggers.items():
                logger.setLevel(level)
            transformers.logging.set_verbosity(verbosity)
            if model_bars:
                transformers.logging.enable_progress_bar()  # type: ignore[no-untyped-call]
            if not bars:
                datasets.enable_progress_bars()
