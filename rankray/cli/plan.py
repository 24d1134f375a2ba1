"""What can be asked before anything runs: `rankray check`, `explain` and `rehearse`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import console, load, preflight, resolved_lines, say, store_url
from rankray.cli.options import NONE, File, Json, Name, Sets, Store, Verbose


def check(
    file: File,
    sets: Sets = NONE,
    store: Store = "",
    name: Name = "",
    offline: Annotated[
        bool, typer.Option("--offline", help="Look nothing up on the hub, and import no library of training.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check a file, its data, its model and its space as a search would, without starting anything."""
    from rankray import logs
    from rankray.errors import UserError

    logs.configure(verbose)
    try:
        loaded = load(file, sets, store, name)
        findings = preflight(loaded, offline)
    except UserError as error:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "errors": str(error).splitlines(), "warnings": [], "data": {}}))
        raise typer.Exit(error.exit_code) from None
    from rankray.report.explain import check_lines

    if as_json:
        from rankray.store.urls import masked

        config = loaded.config.model_dump(mode="json") | {"store": masked(loaded.config.store)}
        found = {
            "ok": True,
            "errors": [],
            "warnings": findings.warnings,
            "data": {split: summary.as_json() for split, summary in findings.data.items()},
            "not_looked_at": findings.unseen,
            "config": config,
        }
        print(json.dumps(found))
        return
    for line in [*check_lines(loaded), *resolved_lines(loaded.config), *findings.lines()]:
        say(line)


def explain(
    key: Annotated[str, typer.Argument(help="A dotted path such as loss.temperature, or a section.")] = "",
) -> None:
    """Explain a configuration field: what it means, what is allowed, its default."""
    from rankray.report.explain import explain_lines

    for line in explain_lines(key):
        say(line)
    if key in ("study.sampler", "study.pruner"):
        from rankray.store.strategies import PRUNERS, SAMPLERS

        say(f"  allowed: {', '.join(SAMPLERS if key == 'study.sampler' else PRUNERS)}")


def rehearse(
    file: File,
    sets: Sets = NONE,
    name: Name = "",
    slots: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic curves.")] = 0,
    recorded: Annotated[str, typer.Option("--from", metavar="STUDY", help="Use this study's recorded curves.")] = "",
    store: Store = "",
) -> None:
    """Run the whole search in virtual time, on synthetic or recorded curves, to see what a budget buys."""
    from rankray.rehearse import compare, recorded_curve, synthetic_curve
    from rankray.report.tables import rehearsal_view

    config = load(file, sets, store, name).config
    curve = synthetic_curve(config, seed)
    if recorded:
        from rankray.store import attach, views

        held = attach(store_url(store or config.store), recorded)
        curve = recorded_curve(config, [views.trial(held, row["number"]) for row in views.trials(held)])
    console().print(rehearsal_view(compare(config, curve, slots=slots), config.study.metric))
