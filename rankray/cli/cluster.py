"""`rankray submit` and `rankray doctor`: a search given to a cluster, and what is wrong with one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from rankray.cli.common import load, print_json, store_url
from rankray.cli.options import NONE, File, Json, Name, Sets, Verbose


def submit(
    file: File,
    address: Annotated[
        str, typer.Option(metavar="URL", help="The head's dashboard; the default is RAY_API_SERVER_ADDRESS.")
    ] = "",
    sets: Sets = NONE,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="Store URL without a password.")] = "",
    name: Name = "",
    working_dir: Annotated[Path, typer.Option(help="What is shipped; the file must lie in it.")] = Path(),
    pip: Annotated[
        list[str], typer.Option(help="Install this on every node for the job, under constraints.txt; repeatable.")
    ] = NONE,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job's output.")] = False,
) -> None:
    """Give a search to a cluster as a Ray job, and follow it. Submit again to resume or extend."""
    from rankray.cluster import jobs

    loaded = load(file, sets, store, name)
    job = jobs.describe(loaded, working_dir, sets=sets, store=store, name=name, packages=pip)
    where = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265").rstrip("/")
    jobs.require_token()
    jobs.refuse_open_cluster(where)
    client, job_id = jobs.submit(job, where)
    print(f"submitted {job_id} to {where}", flush=True)
    again = f"--address {where} {job_id}"
    if detach:
        print(f"follow it with: ray job logs --follow {again}\nstop it with: ray job stop {again}")
        return
    try:
        code = jobs.follow(client, job_id, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        print(f"\nthe job keeps running; stop it with: ray job stop {again}", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


def doctor(
    file: Annotated[Path | None, typer.Argument(help="A configuration, for its store and storage.")] = None,
    sets: Sets = NONE,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="Store URL; the default is RANKRAY_STORE.")] = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Look at this machine, the cluster that RAY_ADDRESS names, store and storage; say what to fix."""
    from rankray import logs
    from rankray.cluster.environment import prepare_environment
    from rankray.cluster.session import ray_session

    logs.configure(verbose)
    place, url = None, store_url(store)
    if file is not None:
        config = load(file, sets, store).config
        place, url = config.storage, config.store
    prepare_environment()
    wrong = 0
    found = []
    with ray_session(verbose=verbose):
        from rankray.cluster.doctor import examine

        for finding in examine(url, place):
            wrong += bool(finding.fix)
            found.append({"what": finding.what, "text": finding.text, "fix": finding.fix})
            if as_json:
                continue
            sign = "FIX" if finding.fix else "ok "
            print(f"{sign}  {finding.what}: {finding.text}" + (f"; {finding.fix}" if finding.fix else ""), flush=True)
    if as_json:
        print_json({"ok": not wrong, "findings": found})
    else:
        print(f"{wrong} to fix" if wrong else "nothing to fix")
    raise typer.Exit(1 if wrong else 0)
