"""Looking at a study, from another terminal or afterwards: `rankray status`, `show` and `best`."""

from __future__ import annotations

from time import sleep
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.checkpoints import trial_number
from rankray.cli.common import attached, console, print_json, print_summary, refuse_both
from rankray.cli.options import Json, Store, Study
from rankray.cli.output import put

if TYPE_CHECKING:
    from rankray.store import StudyStore

SHOWN = 20
"""Trials that `status` lists."""
WATCH_SECONDS, PIPED_SECONDS = 2.0, 60.0
"""How often `status --watch` looks: in a terminal, and where its lines go to a pipe or a file."""


def status(
    study: Study,
    store: Store = "",
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again and again until the search ends.")] = False,
) -> None:
    """Show how far a study is and what it holds."""
    from rankray.store import views

    refuse_both("status", {"--json": as_json, "--watch": watch})
    held = attached(store, study)
    shown = views.status(held)
    if as_json:
        print_json(shown)
        return
    from rankray.report.status import StatusView

    screen = console()
    if not (watch and screen.is_terminal and not screen.is_dumb_terminal):
        while True:
            screen.print(StatusView(shown, views.trials(held, SHOWN), SHOWN))
            if not watch or shown["state"] != "running":
                return
            sleep(PIPED_SECONDS)
            shown = views.status(held)
    from rich.live import Live

    with Live(console=screen, auto_refresh=False) as live:
        while True:
            limit = max(3, screen.height - 8)
            live.update(StatusView(shown, views.trials(held, limit), limit), refresh=True)
            if shown["state"] != "running":
                return
            sleep(WATCH_SECONDS)
            shown = views.status(held)


def show(
    study: Study,
    number: Annotated[str, typer.Argument(metavar="NUMBER", help="The trial's number.", show_default=False)],
    store: Store = "",
    as_json: Json = False,
    all_steps: Annotated[bool, typer.Option("--all-steps", help="Show every report, not only what fits.")] = False,
) -> None:
    """Show one trial: its settings, every report, how it ended and why."""
    from rankray.store import views

    wanted = trial_number(study, number)
    held = attached(store, study)
    trial = views.trial(held, wanted)
    if as_json:
        print_json(trial | {"settings": _given(held)})
        return
    from rankray.report.commands import retrain_command
    from rankray.report.trial import TrialView
    from rankray.store.origin import origin

    settings = [(path, each["value"], each["from"]) for path, each in _given(held).items()]
    again = retrain_command(origin(held), trial["params"])
    ways = {name: held.config.direction_of(name) for name in held.config.study.metrics}
    console().print(TrialView(trial, settings, all_steps=all_steps, again=again, directions=ways), crop=False)


def _given(study: StudyStore) -> dict[str, dict[str, Any]]:
    """Return what the study's file and command line gave, by path: the value, and where it was written."""
    from rankray.config import all_fields
    from rankray.config.params import get_path, plain

    known, places = all_fields(), study.provenance.get("places", {})
    return {p: {"value": plain(get_path(study.config, p)), "from": place} for p, place in places.items() if p in known}


def best(
    study: Study,
    store: Store = "",
    as_json: Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the settings to use as a file for `train`.")] = False,
    code: Annotated[bool, typer.Option("--code", help="With --yaml: pass on what can run code.")] = False,
) -> None:
    """Show the best settings found, what `confirm` said of them, and the command that trains them again."""
    from rankray.store import views

    refuse_both("best", {"--json": as_json, "--yaml": as_yaml})
    if code and not as_yaml:
        from rankray.errors import UserError

        raise UserError("best: --code without --yaml changes nothing; allowed: beside it; add --yaml, or leave it out")
    held = attached(store, study)
    found = views.best(held)
    if as_json:
        print_json(found and {**found, "confirmed": views.confirmed(held)})
        return
    if as_yaml:
        if found is None:
            from rankray.errors import StoreError

            raise StoreError(f"best: study {held.name} has no complete trial yet, so no settings to use; wait for one")
        from rankray.config.params import get_path
        from rankray.report.commands import RUNS_CODE
        from rankray.report.explain import best_yaml

        if not code:
            _refuse_code([path for path in RUNS_CODE if get_path(held.config, path)])

        put(best_yaml(held.config, (views.recommended(held) or found)["params"]).encode())
        return
    print_summary(held)


def _refuse_code(asked: list[str]) -> None:
    if asked:
        from rankray.errors import StoreError

        raise StoreError(
            f"best: {', '.join(asked)} in the store: training from this file would run code that the store names; "
            "allowed: to pass it on knowingly; read that code, then add --code"
        )
