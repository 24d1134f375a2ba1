"""Standard output and standard error, as every verb may rely on them.

They may be closed, as where a service starts a command; their encoding may lack characters that a study holds; whoever
reads them may go away, and the disk below them may be full. So a stream that is closed leads nowhere, a character that
cannot be written is written as its number, and a stream that can be written no more is given up and said to be: by a
command that only shows something with an error, by one that trains in one line, for its work is in the store.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys

from rankray.errors import UserError

logger = logging.getLogger(__name__)


class Output(io.TextIOWrapper):
    """Standard output, or standard error.

    Attributes:
        survivor: what continues without it once it cannot be written; empty where that is an error.
        silent: nothing is said of it, as of standard error: there is nowhere to say it.
    """

    survivor = ""
    silent = False

    def write(self, text: str) -> int:
        """Write a text."""
        try:
            return super().write(text)
        except OSError as error:
            self.give_up(error)
            return len(text)

    def flush(self) -> None:
        """Write what is pending."""
        try:
            super().flush()
        except OSError as error:
            self.give_up(error)

    def give_up(self, error: OSError) -> None:
        """Write to nowhere from now on.

        Raises:
            BrokenPipeError: whoever read it has ended, and so should this command.
            UserError: it cannot be written for another reason, and this command only shows something.
        """
        logger.debug("%s cannot be written", self.name, exc_info=True)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if self.silent:
            return
        why = f"standard output: cannot be written ({error.strerror or error})"
        if self.survivor:
            print(f"{why}; {self.survivor} continues without it", file=sys.stderr, flush=True)
        elif error.errno == errno.EPIPE:
            raise error
        else:
            raise UserError(f"{why}; allowed: a file or a program that takes it; free some space, or choose another")


def prepare() -> None:
    """Make standard output and standard error fit for every verb; a stream that something else put there stays."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            logger.debug("descriptor %d is closed, and leads nowhere now", descriptor)
            os.open(os.devnull, os.O_RDWR)  # takes the lowest one that is free, which is this one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            made = Output(open(descriptor, "wb", closefd=False), encoding="utf-8")  # noqa: SIM115
        elif type(stream) is io.TextIOWrapper:
            made = Output(
                stream.buffer,
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
        else:
            continue
        made.silent = name == "stderr"
        setattr(sys, name, made)


def continues(what: str) -> None:
    """Say that a command has work to do beside its output, and which: it continues where that cannot be written."""
    if isinstance(sys.stdout, Output):
        sys.stdout.survivor = what


def put(data: bytes) -> None:
    """Write bytes to standard output as they are, whatever its encoding."""
    sys.stdout.flush()
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        if not isinstance(sys.stdout, Output):
            raise
        sys.stdout.give_up(error)
