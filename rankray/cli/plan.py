"""What can be asked before anything runs: `rankray check` and `explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.common import fitted, load, preflight, print_json, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Store, Verbose
from rankray.cli.pins import resolved_lines

if TYPE_CHECKING:
    from rankray.config import LoadedConfig
    from rankray.errors import UserError
    from rankray.finetune.preflight import Findings


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
        loaded, findings = looked_at(load(file, sets, store, name), offline)
    except UserError as error:
        if not as_json:
            raise
        print_json(refused(error))
        raise typer.Exit(error.exit_code) from None
    if as_json:
        print_json(accepted(loaded, findings))
        return
    from rankray.finetune.base_model import base_model_lines
    from rankray.finetune.preflight import leak_warnings
    from rankray.report.explain import check_lines

    shown = [*check_lines(loaded), *base_model_lines(loaded.config), *resolved_lines(loaded.config), *findings.lines()]
    for line in [*shown, *(f"warning: {line}" for line in leak_warnings(loaded))]:
        say(line)


def looked_at(loaded: LoadedConfig, offline: bool = False) -> tuple[LoadedConfig, Findings]:
    """Check all that a search would check, without starting anything.

    Args:
        loaded: the configuration.
        offline: look nothing up on the hub, and import no library of training.

    Returns:
        The configuration with the steps of its epochs, and what was found.

    Raises:
        UserError: something in it cannot work.
    """
    from rankray.cli.tracking import check_trackers

    check_trackers(loaded)
    if not offline:
        from rankray.finetune.epochs import with_steps

        loaded = with_steps(loaded, download=True)
    findings = preflight(loaded, offline, starts=False)
    fitted(loaded, findings)
    return loaded, findings


def accepted(loaded: LoadedConfig, findings: Findings) -> dict[str, Any]:
    """Return what `check --json` says of a configuration that can work."""
    from rankray.finetune.preflight import leak_warnings
    from rankray.store.urls import masked

    return {
        "ok": True,
        "errors": [],
        "warnings": [*findings.all_warnings, *leak_warnings(loaded)],
        "notes": findings.notes,
        "data": findings.sizes(),
        "not_looked_at": findings.unseen,
        "memory": findings.memory,
        "config": loaded.config.model_dump(mode="json") | {"store": masked(loaded.config.store)},
    }


def refused(error: UserError) -> dict[str, Any]:
    """Return what `check --json` says of a configuration that cannot work."""
    from rankray.store.urls import safe_text

    return {"ok": False, "errors": [safe_text(line) for line in str(error).splitlines()], "warnings": [], "data": {}}


def explain(
    key: Annotated[
        str, typer.Argument(help="A dotted path such as loss.temperature, its end, a word of it, or a section.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Explain a configuration field: what it means, what is allowed, its default."""
    from rankray.report.explain import chosen_fields, explain_json, explain_lines

    if as_json:
        print_json(explain_json(key))
        return
    for line in explain_lines(key):
        say(line)
    for path in ("study.sampler", "study.pruner"):
        if chosen_fields(key) == ([path], False):
            from rankray.store.strategies import PRUNERS, SAMPLERS

            say(f"  allowed: {', '.join(SAMPLERS if path == 'study.sampler' else PRUNERS)}")
