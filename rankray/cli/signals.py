"""Ctrl-C while Python waits in C, as for a store that is frozen, and where something loses it.

Python runs its handler of a signal in the main thread, once the C code there returns; the client library of a database
may not return for half a minute. And the handler's KeyboardInterrupt is an exception as any other: a library that
catches all of them, or one of its callbacks whose exceptions Python ignores, loses it, as happens while torch and TRL
are imported. But the interpreter writes the signal's number to a pipe at once (`signal.set_wakeup_fd`), and a thread
reads it. A search answers signals in its own way (`search.control`).
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
LOST_SECONDS = 15.0
"""How long it may then take to leave: longer, and something has lost the interruption."""


@contextmanager
def interruptible_in_c() -> Iterator[None]:
    """End the process with code 130 where Ctrl-C is not noticed within `DEAF_SECONDS`; for the main thread.

    Where it is noticed, and the block has not ended `LOST_SECONDS` later, the main thread is interrupted again.
    """
    noticed, left, main = threading.Event(), threading.Event(), threading.main_thread()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] != signal.SIGINT:
                continue
            if not noticed.wait(DEAF_SECONDS):
                print("interrupted while something did not answer; what was committed is safe", file=sys.stderr)
                sys.stderr.flush()
                os._exit(130)
            if not left.wait(LOST_SECONDS):
                noticed.clear()
                signal.pthread_kill(main.ident or 0, signal.SIGINT)  # which comes here again

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
        left.set()
        signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, before)
        os.close(writer)
        thread.join()
        os.close(reader)
