"""What can be asked before anything runs: `rankray check` and `explain`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import load, preflight, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Store, Verbose


def check(
    file: File, sets: Sets = NONE, store: Store = "", name: Name = "", as_json: Json = False, verbose: Verbose = False
) -> None:
    """Check a file, its data and its space, without starting anything."""
    from rankray import logs
    from rankray.errors import UserError

    logs.configure(verbose)
    try:
        loaded = load(file, sets, store, name)
        preflight(loaded)
    except UserError as error:
        if not as_json:
            raise
        from rankray.store.urls import safe_text

        print(json.dumps({"ok": False, "errors": [safe_text(line) for line in str(error).splitlines()]}))
        raise typer.Exit(error.exit_code) from None
    from rankray.finetune.base_model import base_model_lines
    from rankray.finetune.preflight import leak_warnings
    from rankray.report.explain import check_lines

    warnings = leak_warnings(loaded)
    if as_json:
        from rankray.store.urls import masked

        config = loaded.config.model_dump(mode="json") | {"store": masked(loaded.config.store)}
        print(json.dumps({"ok": True, "errors": [], "warnings": warnings, "config": config}))
        return
    shown = [*check_lines(loaded), *base_model_lines(loaded.config)]
    for line in [*shown, *(f"warning: {line}" for line in warnings)]:
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
