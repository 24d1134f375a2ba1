"""The `rankray` command: its verbs put together, its exit codes, and passwords kept out of the process list.

Exit codes: 0 done; 1 the search ran and failed; 2 bad input; 130 interrupted (run the same command again to resume).
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer

from rankray import __version__, logs
from rankray.cli import (
    cluster,
    confirm,
    export,
    judge,
    look,
    output,
    pages,
    plan,
    rehearse,
    search,
    setup,
    store,
    train,
)
from rankray.cli.signals import interruptible_in_c
from rankray.errors import RankrayError, UserError

logger = logging.getLogger(__name__)

FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What the user can change: a disk that is full or takes nothing, files that others own."""
NAMES = ("--name", "--store", "--label", "--metric", "--table", "--from", "--output", "-o")
"""Options that name something, and say nothing where they are empty."""
app = typer.Typer(
    name="rankray",
    help="Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    search.search,
    search.quickstart,
    train.train,
    plan.check,
    setup.preview,
    plan.explain,
    rehearse.rehearse,
    look.status,
    look.show,
    look.best,
    judge.evaluate,
    judge.diagnose,
    confirm.confirm,
    pages.report,
    pages.dashboard,
    export.export,
    cluster.submit,
    cluster.doctor,
):
    app.command()(verb)
app.command()(setup.init)
app.command("import")(setup.import_file)
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command line and exit with its code."""
    output.prepare()
    logs.configure()
    try:
        refuse_passwords(sys.argv[1:])
        refuse_empty(sys.argv[1:])
        refuse_loose_overrides(sys.argv[1:])
        with interruptible_in_c(), user_errors():
            try:
                app(prog_name="rankray")  # under `python -m`, too: shell completion is of that name
            finally:
                sys.stdout.flush()  # what cannot be written is an error of this command
    except RankrayError as error:
        from rankray.store.urls import safe_text

        print(f"error: {safe_text(str(error))}", file=sys.stderr)
        from rankray.report.help import explained_by

        if more := explained_by(error):
            print(f"more: {more}", file=sys.stderr)
        sys.exit(error.exit_code)
    except SystemExit as end:  # all is done: an interruption now changes no exit code
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(code))
        raise
    except KeyboardInterrupt:
        print("stopped at once; what was committed is safe: run the same command again to resume", file=sys.stderr)
        sys.exit(130)


@contextmanager
def user_errors() -> Iterator[None]:
    """Say in one line what a disk or its permissions forbid, wherever in the work it turns up.

    Raises:
        UserError: something cannot be written, or may not be read; or the current directory was deleted.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename is None and not _has_directory():
            raise UserError(
                "the current directory was deleted; allowed: one that is there, or paths in full; change to another"
            ) from error
        if error.errno not in FORBIDDEN:
            raise
        logger.debug("the machine forbids it", exc_info=True)
        raise UserError(
            f"{error.filename or 'a file'}: cannot be read or written ({error.strerror}); allowed: a place with room "
            "that you may use; free some space, change its permissions, or choose another"
        ) from error


def _has_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        logger.debug("the current directory was deleted")
        return False
    return True


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse names that are empty: a variable of the shell is not set, and the default would be taken instead.

    Raises:
        ConfigError: an option that names something is empty.
    """
    from rankray.errors import ConfigError

    for option, value in zip(words, [*words[1:], None], strict=False):
        name, equals, given = option.partition("=")
        if name in NAMES and (given if equals else value) == "":
            raise ConfigError(
                f"{name}: is empty; allowed: a value; set the variable that it comes from, or leave it out"
            )


def refuse_loose_overrides(words: Sequence[str]) -> None:
    """Refuse `--set PATH VALUE`, and `PATH=VALUE` without `--set`, which would be unexpected arguments.

    Raises:
        ConfigError: says how the override is written.
    """
    from rankray.errors import ConfigError, shown

    for before, word, after in zip(["", *words], words, [*words[1:], "-"], strict=False):
        if before == "--set" and "=" not in word and not after.startswith("-") and not os.path.exists(after):
            value = after.removeprefix("=") or "VALUE"
            raise ConfigError(
                f"--set: got {shown(word)} and {shown(after)}; allowed: PATH=VALUE in one word; write "
                f"--set {shlex.quote(f'{word}={value}')}"
            )
        if re.match(r"[a-z_]+(\.\w+)+=", word) and not before.startswith("-") and not os.path.exists(word):
            raise ConfigError(
                f"{shown(word)}: an override without --set; allowed: --set before each; write --set {shlex.quote(word)}"
            )


def refuse_passwords(words: Sequence[str]) -> None:
    """Refuse secrets among the arguments, which every user of the machine can list while the command runs, and before.

    Raises:
        StoreError: an argument holds a password.
        ConfigError: an override of another field than the store holds one.
    """
    from rankray.config.secrets import ADVICE
    from rankray.errors import ConfigError, StoreError
    from rankray.store.urls import secrets

    for before, word in zip(["", *words], words, strict=False):
        option, _, value = word.rpartition("=") if word.startswith("--store=") else ("", "", word)
        path, _, value = value.partition("=") if re.match(r"[a-z_.]+=", value) and "://" in value else ("", "", value)
        url = value if "://" in value else ""
        plain = re.search(r"(?i)\b(password|passwd|pwd)\s*=\s*[^\s{]", word)
        if re.match(r"(sqlite|journal):///[^?]*$", url):  # a path, whatever is in it
            continue
        if (url and secrets(url)) or plain:
            where = option or path or (before if before.startswith("--") else "the command line")
            if path not in ("", "store"):
                raise ConfigError(f"{where}: holds a secret; {ADVICE}")
            raise StoreError(
                f"{where}: holds a password, which every user of this machine could read in the list of processes; "
                "allowed: a URL without one; set RANKRAY_STORE, or another variable and give --store env:VARIABLE, or "
                "use the database's own password file (~/.pgpass)"
            )


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rankray {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened."""
