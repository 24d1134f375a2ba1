"""The `rankray` command: its verbs put together, its exit codes, and passwords kept out of the process list.

Exit codes: 0 done; 1 the search ran and failed; 2 bad input; 130 interrupted (run the same command again to resume).
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

import typer

from rankray import __version__, logs
from rankray.cli import cluster, confirm, look, plan, rehearse, search, setup, store, train
from rankray.errors import RankrayError

ARGUMENTS = "RANKRAY_ARGUMENTS_PIPE"

app = typer.Typer(
    name="rankray",
    help="Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened.",
    no_args_is_help=True,
    add_completion=False,
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
    confirm.confirm,
    cluster.submit,
    cluster.doctor,
):
    app.command()(verb)
app.command()(setup.init)
app.command("import")(setup.import_file)
app.add_typer(store.app, name="store")


def main() -> None:
    """Run the command line and exit with its code."""
    hide_passwords()
    logs.configure()
    try:
        app()
    except RankrayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        sys.exit(130)


def hide_passwords() -> None:
    """Start again without the passwords of URLs in the arguments, which every user of the machine can list.

    The same process continues; the arguments as given reach it through a pipe, so that they appear nowhere.
    """
    from rankray.store.urls import masked

    pipe = os.environ.pop(ARGUMENTS, "")
    if pipe:
        with open(int(pipe), encoding="utf-8") as file:
            sys.argv[1:] = json.load(file)
        return
    shown = [masked(word) if "://" in word else word for word in sys.argv[1:]]
    if shown == sys.argv[1:]:
        return
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as file:
        json.dump(sys.argv[1:], file)
    os.set_inheritable(reader, True)
    os.environ[ARGUMENTS] = str(reader)
    os.execv(sys.executable, [sys.executable, "-m", "rankray", *shown])


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rankray {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened."""
