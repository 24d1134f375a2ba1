"""Looking at a study, from another terminal or afterwards: `rankray status`, `show` and `best`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import console, print_summary, store_url
from rankray.cli.options import Json, Store, Study


def status(study: Study, store: Store = "", as_json: Json = False) -> None:
    """Show how far a study is and what it holds."""
    from rankray.store import attach, views

    held = attach(store_url(store), study)
    shown = views.status(held)
    if as_json:
        print(json.dumps(shown))
        return
    from rankray.report.tables import status_view

    console().print(status_view(shown, views.trials(held), held.config.study.metric))


def show(
    study: Study,
    number: Annotated[int, typer.Argument(help="The trial's number.", show_default=False)],
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Show one trial: its settings, every report, how it ended and why."""
    from rankray.store import attach, views

    trial = views.trial(attach(store_url(store), study), number)
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
) -> None:
    """Show the best settings found, and the command that trains them again."""
    from rankray.store import attach, views

    held = attach(store_url(store), study)
    found = views.best(held)
    if as_json:
        print(json.dumps(found))
        return
    if found is not None and as_yaml:
        from rankray.report.explain import best_yaml

        print(best_yaml(held.config, found["params"]), end="")
        return
    print_summary(held, str(held.provenance.get("file", "FILE")))
