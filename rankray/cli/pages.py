"""Looking at a study in a browser: `rankray report` and `rankray dashboard`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rankray.cli.common import attached, check_output, say, store_url
from rankray.cli.options import Store, Study
from rankray.cli.output import put

WATCH_SECONDS = 15


def report(
    study: Study,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The file to write; report.html, - prints.")
    ] = None,
    kind: Annotated[str, typer.Option("--format", metavar="NAME", help="html, md, json, csv or png.")] = "",
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again while the search runs; the page reloads.")
    ] = False,
    store: Store = "",
) -> None:
    """Write one file that says what a study found: what is best, what mattered, what it cost, how to get it."""
    from rankray.errors import UserError
    from rankray.report.write import format_of, render, write
    from rankray.store.overview import overview

    printed = str(output) == "-"
    kind = format_of(kind, None if printed else output)
    if printed and (watch or kind == "png"):
        raise UserError("report: -o - prints once, as text; allowed with --watch or png: a file; give one with -o FILE")
    path = output or Path(f"report.{kind}")
    if not printed:
        check_page(path, "report: -o")
    while True:
        found = overview(attached(store, study))
        goes_on = watch and found["status"]["state"] == "running"
        data = render(found, kind, WATCH_SECONDS if goes_on else None)
        if printed:
            put(data)
            return
        write(data, path)
        finished, budget = found["status"]["budget"]["finished"], found["status"]["budget"]["trials"]
        say(f"wrote {path}: {finished} of {budget} trials finished, {len(data) / 1e6:.2g} MB")
        if not goes_on:
            if watch:
                say(f"the search is {found['status']['state']}: no longer watching")
            return
        time.sleep(WATCH_SECONDS)


def check_page(path: Path, where: str) -> None:
    """Refuse a path at which a report would write over something else, or cannot be written; see `check_output`."""
    from rankray.report.write import FORMATS

    check_output(path, where, *(f".{each}" for each in (*FORMATS, "htm", "markdown", "txt")))


def dashboard(
    study: Study,
    store: Store = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 8080,
) -> None:
    """Serve optuna-dashboard on this machine, to look at a study; it can change nothing. Ctrl-C ends it."""
    from rankray.store.dashboard import serve_dashboard

    with serve_dashboard(store_url(store), study, port) as (server, address):
        say(f"{address}\nCtrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped serving")
