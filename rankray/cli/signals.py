"""Ctrl-C while Python waits in C, as for a store that is frozen.

Python runs its handler of a signal in the main thread, once the C code there returns; the client library of a database
may not return for half a minute. But the interpreter writes the signal's number to a pipe at once
(`signal.set_wakeup_fd`), and a thread reads it. A search answers signals in its own way (`search.control`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

DEAF_SECONDS = 5.0
"""How long after Ctrl-C the main thread may take to notice it."""


@contextmanager
def interruptible_in_c() -> Iterator[None]:
    """End the process with code 130 where Ctrl-C is not noticed within `DEAF_SECONDS`; for the main thread."""
    noticed = threading.Event()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGINT and not noticed.wait(DEAF_SECONDS):
                print("interrupted while something did not answer; what was committed is safe", file=sys.stderr)
                sys.stderr.flush()
                os._exit(130)

    def handle(number: int, frame: FrameType | None) -> None:
        noticed.set()
        signal.default_int_handler(number, frame)

    thread = threading.Thread(target=watch, name="rankray-ctrl-c", daemon=True)
    thread.start()
    before, outer = signal.signal(signal.SIGINT, handle), signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        noticed.set()
        signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, before)
        os.close(writer)
        thread.join()
        os.close(reader)
