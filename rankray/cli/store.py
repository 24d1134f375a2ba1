"""`rankray store`: studies listed, copied, exported, deleted, repaired, shared. `rankray.store` does the work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rankray.cli.common import check_output, print_json, say, store_url
from rankray.cli.options import Json, Study

app = typer.Typer(
    help="Look after a store: list, copy, export, delete, repair and share studies.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Store = Annotated[str, typer.Option("--store", metavar="URL", help="Store URL; the default is RANKRAY_STORE.")]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Write this file.")]
Name = Annotated[str, typer.Option("--name", help="The study to copy.", show_default=False)]


@app.command("list")
def list_(store: Store = "", as_json: Json = False) -> None:
    """List the studies in a store and how far they are."""
    from rankray.errors import RankrayError
    from rankray.store import list_studies, looking, views
    from rankray.store.urls import safe_text

    names = list_studies(store_url(store))
    found: list[dict[str, Any]] = []
    for name in names:
        try:
            with looking(store_url(store), name) as study:
                shown = views.status(study)
        except RankrayError as error:  # one study that cannot be read must not hide the others
            text = safe_text(str(error))
            found.append({"study": name, "error": text})
            if not as_json:
                print(f"{name}: {text}")
            continue
        found.append({key: shown[key] for key in ("study", "state", "trials", "budget", "best")})
        if as_json:
            continue
        best = "nothing complete yet" if shown["best"] is None else f"best {shown['best']['value']:.6g}"
        budget = shown["budget"]
        print(f"{name}: {shown['state']}, {budget['finished']} of {budget['trials']} trials, {best}")
    if as_json:
        print_json({"studies": found})
    elif not names:
        print("no studies yet")


@app.command()
def copy(
    source: Annotated[
        str, typer.Argument(metavar="FROM", help="Store URL to read, or env:VARIABLE.", show_default=False)
    ],
    target: Annotated[
        str, typer.Argument(metavar="TO", help="Store URL to write, or env:VARIABLE.", show_default=False)
    ],
    name: Name,
) -> None:
    """Copy a study to another store, with its history, verdicts and the places of its checkpoints."""
    from rankray.report.commands import resume_command
    from rankray.store import looking
    from rankray.store.move import copy_study
    from rankray.store.origin import origin
    from rankray.store.urls import masked

    given, target = target, store_url(target)
    trials = copy_study(store_url(source), target, name, notice=lambda line: say(line, to_stderr=True))
    shown = masked(target)
    print(f"copied {name}, {trials} trials, to {shown}; its checkpoints stay with the original, which may delete them")
    with looking(target, name) as copied:
        made = origin(copied)
    resume = resume_command({**made, "store": given if given.startswith("env:") else made["store"]})
    print(f"the original was not changed; to continue there: {resume}")


@app.command()
def export(
    study: Study,
    store: Store = "",
    csv: Output = None,
    parquet: Output = None,
    steps: Annotated[bool, typer.Option("--steps", help="One row per report instead of one per trial.")] = False,
) -> None:
    """Write a study as a table: one row per trial, or one per report."""
    from rankray.errors import StoreError
    from rankray.store import attach
    from rankray.store.export import step_rows, trial_rows, write_csv, write_parquet

    if csv is None and parquet is None:
        raise StoreError("export: no file was given; allowed: --csv FILE, --parquet FILE, or both; give one")
    check_output(csv, "store export: --csv", ".csv", ".txt", ".tsv")
    check_output(parquet, "store export: --parquet", ".parquet", ".pq")
    held = attach(store_url(store), study)
    rows = step_rows(held) if steps else trial_rows(held)
    for path, write in ((csv, write_csv), (parquet, write_parquet)):
        if path is not None:
            write(rows, path)
            print(f"wrote {len(rows)} rows to {path}")


@app.command()
def delete(
    study: Study,
    store: Store = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this nothing is deleted.")] = False,
) -> None:
    """Delete a study. Its checkpoints stay where they are."""
    from rankray.checkpoints.retention import directory_of
    from rankray.errors import StoreError
    from rankray.store import list_studies, looking
    from rankray.store.move import delete_study, is_whole
    from rankray.store.urls import masked

    url, where = store_url(store), None
    if is_whole(url, study):  # what an interrupted copy or deletion left cannot be looked at
        with looking(url, study) as held:
            where = directory_of(held.config.storage, study, held.copied or held.identity)
    if not yes:
        raise StoreError(f"delete: {study} in {masked(url)} cannot be brought back; add --yes to delete it")
    delete_study(url, study, notice=lambda line: say(line, to_stderr=True))
    kept = f"its checkpoints stay where they are, under {where}" if where else "it had no checkpoints of its own"
    print(f"deleted {study}; {kept}")
    if left := [name for name in list_studies(url) if f"{name}-".startswith(f"{study}.confirm-")]:
        print(f"its confirmations stay, and say nothing of another study of this name: {', '.join(left)}")


@app.command()
def repair(store: Store = "") -> None:
    """Fix what killed processes and full disks left in a store, and say what was done."""
    from rankray.store.repair import repair as repair_store

    done = repair_store(store_url(store), notice=lambda line: say(line, to_stderr=True))
    for line in done or ["nothing to repair"]:
        print(line)


@app.command()
def share(
    store: Store = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 13000,
) -> None:
    """Serve a store to other machines as grpc://HOST:PORT, until it is interrupted."""
    import signal

    from rankray.store.share import serve
    from rankray.store.urls import masked

    with serve(store_url(store), host, port) as url:
        shown_port = url.rpartition(":")[2]
        print(f"serving {masked(store_url(store))} as {url} until Ctrl-C", flush=True)
        print(
            "warning: the channel is neither encrypted nor guarded by a password: whoever reaches it reads and "
            "writes every study.\nFrom another machine, tunnel it through ssh and leave the address at 127.0.0.1:\n"
            f"  ssh -N -L {shown_port}:127.0.0.1:{shown_port} THIS-HOST    then    --store "
            f"grpc://localhost:{shown_port}",
            flush=True,
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopped serving", flush=True)
