"""What can be asked before anything runs: `rankray check` and `explain`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import fitted, load, preflight, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Store, Verbose
from rankray.cli.pins import resolved_lines


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
    from rankray.cli.tracking import check_trackers
    from rankray.errors import UserError

    logs.configure(verbose)
    try:
        loaded = load(file, sets, store, name)
        check_trackers(loaded)
        if not offline:
            from rankray.finetune.epochs import with_steps

            loaded = with_steps(loaded, download=True)
        findings = preflight(loaded, offline, starts=False)
        fitted(loaded, findings)
    except UserError as error:
        if not as_json:
            raise
        from rankray.store.urls import safe_text

        errors = [safe_text(line) for line in str(error).splitlines()]
        print(json.dumps({"ok": False, "errors": errors, "warnings": [], "data": {}}))
        raise typer.Exit(error.exit_code) from None
    from rankray.finetune.base_model import base_model_lines
    from rankray.finetune.preflight import leak_warnings
    from rankray.report.explain import check_lines

    warnings = leak_warnings(loaded)
    if as_json:
        from rankray.store.urls import masked

        config = loaded.config.model_dump(mode="json") | {"store": masked(loaded.config.store)}
        found = {
            "ok": True,
            "errors": [],
            "warnings": [*findings.all_warnings, *warnings],
            "notes": findings.notes,
            "data": findings.sizes(),
            "not_looked_at": findings.unseen,
            "memory": findings.memory,
            "config": config,
        }
        print(json.dumps(found))
        return
    shown = [*check_lines(loaded), *base_model_lines(loaded.config), *resolved_lines(loaded.config), *findings.lines()]
    for line in [*shown, *(f"warning: {line}" for line in warnings)]:
        say(line)


def explain(
    key: Annotated[
        str, typer.Argument(help="A dotted path such as loss.temperature, its end, a word of it, or a section.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Explain a configuration field: what it means, what is allowed, its default."""
    from rankray.report.explain import chosen_fields, explain_json, explain_lines

    if as_json:
        print(json.dumps(explain_json(key)))
        return
    for line in explain_lines(key):
        say(line)
    for path in ("study.sampler", "study.pruner"):
        if chosen_fields(key) == ([path], False):
            from rankray.store.strategies import PRUNERS, SAMPLERS

            say(f"  allowed: {', '.join(SAMPLERS if path == 'study.sampler' else PRUNERS)}")
