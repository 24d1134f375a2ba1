"""`rankray submit` and `rankray doctor`: a search given to a cluster, and what is wrong with one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

NONE: list[str] = []


def submit(
    file: Annotated[Path, typer.Argument(help="The YAML configuration.", show_default=False)],
    address: Annotated[
        str, typer.Option(metavar="URL", help="The head's dashboard; the default is RAY_API_SERVER_ADDRESS.")
    ] = "",
    sets: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Override a field; repeatable.")
    ] = NONE,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="Store URL without a password.")] = "",
    name: Annotated[str, typer.Option("--name", help="Study name; replaces the file's.")] = "",
    working_dir: Annotated[Path, typer.Option(help="What is shipped; the file must lie in it.")] = Path(),
    pip: Annotated[
        list[str], typer.Option(help="Install this on every node for the job, under constraints.txt; repeatable.")
    ] = NONE,
    detach: Annotated[bool, typer.Option("--detach", help="Do not follow the job's output.")] = False,
) -> None:
    """Give a search to a cluster as a Ray job, and follow it. Submit again to resume or extend."""
    import json

    from rankray.config import load_config
    from rankray.search import jobs

    overrides = [*sets, *([f"store={json.dumps(store)}"] if store else [])]
    loaded = load_config(file, overrides, name or None)
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
        print(f"\nthe job goes on; stop it with: ray job stop {again}", file=sys.stderr)
        code = 130
    raise typer.Exit(code)


def doctor(
    file: Annotated[Path | None, typer.Argument(help="A configuration, for its store and storage.")] = None,
    sets: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUE", help="Override a field; repeatable.")
    ] = NONE,
    store: Annotated[str, typer.Option("--store", metavar="URL", help="Store URL; the default is RANKRAY_STORE.")] = "",
) -> None:
    """Look at this machine, the cluster that RAY_ADDRESS names, store and storage; say what to mend."""
    import json

    from rankray.cli import DEFAULT_STORE
    from rankray.config import load_config
    from rankray.search.cluster import prepare_environment, ray_session

    place, url = None, store or os.environ.get("RANKRAY_STORE", DEFAULT_STORE)
    if file is not None:
        config = load_config(file, [*sets, *([f"store={json.dumps(store)}"] if store else [])]).config
        place, url = config.storage, config.store
    prepare_environment()
    wrong = 0
    with ray_session(verbose=False):
        from rankray.search.doctor import examine

        for finding in examine(url, place):
            wrong += bool(finding.fix)
            sign = "FIX" if finding.fix else "ok "
            print(f"{sign}  {finding.what}: {finding.text}" + (f"; {finding.fix}" if finding.fix else ""), flush=True)
    print(f"{wrong} to mend" if wrong else "nothing to mend")
    raise typer.Exit(1 if wrong else 0)
