"""`rankray rehearse`: what a budget buys, in virtual time, before anything is spent."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.common import check_output, console, load, print_json, say, store_url
from rankray.cli.options import NONE, File, Json, Name, Sets, Store, Verbose

if TYPE_CHECKING:
    from rankray.config import Config
    from rankray.rehearse.worlds import World
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)

SYNTHETIC_WORLDS = 3
REHEARSAL = "rehearsal-"
"""How the name of a study starts that a rehearsal makes in a store; twelve hexadecimal digits follow."""


def rehearse(
    file: File,
    sets: Sets = NONE,
    name: Name = "",
    table: Annotated[
        Path | None,
        typer.Option(
            help="Recorded runs, csv or parquet: one row per setting, seed and step. Else curves are made up."
        ),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Searches per strategy and world.")] = 5,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials per search; else the file's.")] = None,
    strategies: Annotated[
        str,
        typer.Option(help="Samplers, or sampler+pruner, with commas; `file` is the file's own."),
    ] = "file,random",
    reports: Annotated[int | None, typer.Option(min=1, help="Reports per made-up trial; else the file's.")] = None,
    step_seconds: Annotated[
        float | None,
        typer.Option("--seconds-per-step", min=0, help="Of one optimizer step: says what the search costs in hours."),
    ] = None,
    report_seconds: Annotated[
        float, typer.Option("--seconds-per-report", min=0, help="Of one evaluation, for the same.")
    ] = 0.0,
    plot: Annotated[Path | None, typer.Option(help="Write a plot of who has found the target by when (.svg).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of made-up curves.")] = 0,
    made_up: Annotated[
        int, typer.Option("--worlds", min=1, help="Made-up worlds searched, where there is no table.")
    ] = SYNTHETIC_WORLDS,
    recorded: Annotated[str, typer.Option("--from", metavar="STUDY", help="Take this study's runs as the table.")] = "",
    store: Store = "",
    on: Annotated[
        str, typer.Option(metavar="URL", help="Rehearse in this store, in studies that are deleted afterwards.")
    ] = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run whole searches in virtual time, on recorded or made-up curves, to see what a budget buys."""
    from rankray import logs
    from rankray.errors import UserError
    from rankray.rehearse.cost import gpus_of_trial, hours, run_hours
    from rankray.rehearse.summary import compare, finite, random_median
    from rankray.report.rehearsals import reached_plot, rehearsal_view
    from rankray.report.write import write
    from rankray.store.warm import rehearsed

    logs.configure(verbose)
    check_output(plot, "rehearse: --plot", ".svg")
    if plot is not None and plot.suffix.lower() not in (".svg", ""):
        raise UserError(f"rehearse: --plot {plot}: the plot is SVG; allowed: a name that ends with .svg; correct it")
    for option, other, in_vain in (
        ("--seconds-per-report", "beside --seconds-per-step", bool(report_seconds) and step_seconds is None),
        ("--reports", "without --table and --from", reports is not None and bool(table or recorded)),
    ):
        if in_vain:
            raise UserError(f"rehearse: {option} changes nothing here; allowed: {other}; leave it out, or follow that")
    names = [each for each in (part.strip() for part in strategies.split(",")) if each]
    if not names:
        raise UserError(
            f"rehearse: --strategies: got {strategies!r}, which names none; allowed: samplers, sampler+pruner or file, "
            "with commas; leave it out for file,random"
        )
    config, left_out = rehearsed(load(file, sets, store, name).config)
    worlds, notes = _worlds(config, table, recorded, store, seed, reports, made_up)
    for note in (*left_out, *notes):
        say(note, as_json)
    with _place(on) as opened:
        done = compare(
            config,
            worlds,
            names,
            slots=slots,
            seeds=seeds,
            trials=trials or config.study.trials,
            progress=lambda line: say(line, to_stderr=True),
            opened=opened,
        )
    if plot is not None:
        drawn = reached_plot(done, [world.share for world in worlds], is_synthetic=_is_made_up(worlds))
        write(drawn.encode(), plot, "rehearse: --plot")
        say(f"plot: {plot}", as_json)
    cost: dict[str, dict[str, Any]] = {}
    if step_seconds is not None:
        run = run_hours(config, step_seconds, report_seconds)
        cost = {s.name: hours(config, s.quantile("spent", 0.5), s.quantile("wall", 0.5), run) for s in done}
    if not as_json:
        console().print(rehearsal_view(done, worlds, slots, random_median(worlds)))
        for each, found in cost.items():
            gpus = f", {found['gpu']:.3g} GPU-hours" if gpus_of_trial(config) else ""
            say(f"{each}: a full run takes {found['run']:.2g} h, the search {found['wall']:.3g} h{gpus}")
        return
    targets = {world.name: world.target for world in worlds}
    shown: dict[str, Any] = {
        "slots": slots,
        "target": _figure(sum(targets.values()) / len(targets)),
        "targets": {key: _figure(value) for key, value in targets.items()},
        "shares": {world.name: round(world.share, 6) for world in worlds},
        "synthetic": _is_made_up(worlds),
        "random_median": finite(random_median(worlds)),
        "strategies": [
            each.to_json()
            | {"busy_share": round(each.busy_share(slots), 4)}
            | ({"hours": cost[each.name]} if cost else {})
            for each in done
        ],
    }
    print_json(shown)


def _figure(value: float) -> float:
    """Return a metric without the digits that are its arithmetic's: its scale may be any."""
    return float(f"{value:.9g}")


def _worlds(
    config: Config, table: Path | None, recorded: str, store: str, seed: int, reports: int | None, made_up: int
) -> tuple[list[World], list[str]]:
    """Return the worlds to search in, and what must be said of them."""
    from rankray.errors import UserError
    from rankray.rehearse.table import read_table, table_of_trials
    from rankray.rehearse.worlds import synthetic_world, worlds_of

    if table is not None and recorded:
        raise UserError("rehearse: got --table and --from; allowed: one of the two; leave one out")
    if table is None and not recorded:
        made = [synthetic_world(config, seed + index, reports) for index in range(made_up)]
        bowls = f"{made_up} bowl{'s' if made_up > 1 else ''}"
        notes = [f"synthetic: the curves are made up ({bowls}); give --table for recorded ones"]
        if not set(config.study.metrics) <= set(made[0].metrics):
            notes.append(f"synthetic: of study.metrics, {config.study.metric} alone is made up and searched")
        return made, notes
    if table is not None:
        found = read_table(table, config)
    else:
        from rankray.store import attach, views

        held = attach(store_url(store or config.store), recorded)
        found = table_of_trials([views.trial(held, row["number"]) for row in views.trials(held)], config, held.config)
    notes = [f"{table or recorded}: {len(found.settings)} settings, steps {', '.join(map(str, found.steps))}"]
    if found.left_out:
        notes.append(f"left out: {found.left_out} runs that lack steps, or that the space cannot propose")
    if (metric := config.study.prune_on) not in found.metrics:
        notes.append(f"{metric} (study.prune_on) is not in the table: pruners compare {config.study.metric} instead")
    if not found.pairs():
        notes.append("there is one seed per setting: runs have no noise, and the target is half a percent of the space")
    return worlds_of(found, config), notes


@contextmanager
def _place(url: str) -> Iterator[Callable[[Config], StudyStore] | None]:
    """Yield how to open a study of a rehearsal: None for in memory; in a store, it is deleted at the end."""
    if not url:
        yield None
        return
    from rankray.store import open_study, validate_url
    from rankray.store.move import delete_study

    validate_url(url)
    _delete_abandoned(url)
    made: list[str] = []

    def delete() -> None:
        while made:
            delete_study(url, made.pop())

    def opened(config: Config) -> StudyStore:
        delete()  # the one before has ended
        made.append(f"{REHEARSAL}{uuid.uuid4().hex[:12]}")
        return open_study(url, config.model_copy(update={"name": made[-1], "store": url}))

    try:
        yield opened
    finally:
        delete()


def _delete_abandoned(url: str) -> None:
    """Delete what killed rehearsals left in a store: studies with trials that nobody works on."""
    from rankray.errors import StoreError
    from rankray.store import list_studies, looking, views
    from rankray.store.move import delete_study

    try:
        names = [name for name in list_studies(url) if re.fullmatch(rf"{REHEARSAL}[0-9a-f]{{12}}", name)]
    except StoreError as error:
        logger.debug("there is no such store yet: %s", error)
        return
    for name in names:
        with looking(url, name) as study:
            status = views.status(study)
        if not status["drivers"] and sum(status["trials"].values()):
            logger.debug("%s: its rehearsal was killed, and it is deleted", name)
            delete_study(url, name)


def _is_made_up(worlds: list[World]) -> bool:
    return any(world.name.startswith("synthetic") for world in worlds)
