"""Looking at a study, from another terminal or afterwards: `rankray status`, `show` and `best`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import attached, console, print_summary
from rankray.cli.options import Json, Store, Study

SHOWN = 20
"""Trials that `status` lists."""


def status(study: Study, store: Store = "", as_json: Json = False) -> None:
    """Show how far a study is and what it holds."""
    from rankray.store import views

    held = attached(store, study)
    shown = views.status(held)
    if as_json:
        print(json.dumps(shown))
        return
    from rankray.report.tables import status_view

    rows, total = views.trials(held, SHOWN), sum(shown["trials"].values())
    console().print(status_view(shown, rows, held.config.study.metric, total=total))


def show(
    study: Study,
    number: Annotated[int, typer.Argument(help="The trial's number.", show_default=False)],
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Show one trial: its settings, every report, how it ended and why."""
    from rankray.store import views

    trial = views.trial(attached(store, study), number)
    if as_json:
        print(json.dumps(trial))
        return
    from rankray.report.tables import trial_view

    console().print(trial_view(trial))


def best(
    study: Study,
    store: Store = "",
    as_json: Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the best settings as a file for `train`.")] = False,
    code: Annotated[bool, typer.Option("--code", help="With --yaml: pass on model.trust_remote_code.")] = False,
) -> None:
    """Show the best settings found, and the command that trains them again."""
    from rankray.errors import printable
    from rankray.store import views

    held = attached(store, study)
    found = views.best(held)
    if as_json:
        print(json.dumps(found))
        return
    if found is not None and as_yaml:
        _refuse_code(held.config.model.trust_remote_code and not code)
        from rankray.report.explain import best_yaml

        print(best_yaml(held.config, found["params"]), end="")
        return
    print_summary(held, printable(str(held.provenance.get("file", "FILE"))))


def _refuse_code(asked: bool) -> None:
    if asked:
        from rankray.errors import StoreError

        raise StoreError(
            "best: model.trust_remote_code is true in the store: training from this file would run the code that comes "
            "with the model; allowed: to pass it on knowingly; read that code, then add --code"
        )
