"""`rankray search` and `rankray quickstart`."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankray.cli.common import (
    board_of,
    check_directory,
    check_training,
    console,
    fitted,
    load,
    preflight,
    print_summary,
    require_result,
    say,
)
from rankray.cli.lineage import lineage
from rankray.cli.options import NONE, File, Name, Sets, Store, Verbose
from rankray.cli.output import continues
from rankray.cli.pins import pin, resolved_lines
from rankray.cli.tracking import check_trackers, tracking

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)


def search(file: File, sets: Sets = NONE, store: Store = "", name: Name = "", verbose: Verbose = False) -> None:
    """Search the file's space until the study holds its number of finished trials. Run again to resume or extend."""
    _search(load(file, sets, store, name), verbose)


def quickstart(
    directory: Annotated[Path, typer.Option(help="Where the world, its study and its checkpoints are kept.")] = Path(
        "rankray-quickstart"
    ),
    sets: Sets = NONE,
    verbose: Verbose = False,
) -> None:
    """Make a small world offline (once), and search it: the whole product in a few minutes on two cores."""
    from rankray.quickstart.build import build_world

    check_directory(directory, "quickstart: --directory")
    file = build_world(directory, progress=say)
    given = [word for each in sets for word in ("--set", each)]
    say(f"searching {file} (the same as: {shlex.join(['rankray', 'search', str(file), *given])})")
    _search(load(file, sets), verbose)


def _search(loaded: LoadedConfig, verbose: bool) -> None:
    from rankray import logs
    from rankray.report.live import watching
    from rankray.search import run_search
    from rankray.search.news import News

    logs.configure(verbose)
    continues("the search")
    loaded, study = begun(loaded, say)
    done = False
    try:
        with watching(board_of(study), console()) as view, tracking(study, loaded.config) as trackers:
            done = run_search(study, News(view, *trackers), verbose=verbose)
        _conclude(study, loaded, done)
    except KeyboardInterrupt:
        if not (done or study.done):
            raise
        logger.debug("interrupted after the last trial: the search is complete")


def begun(loaded: LoadedConfig, tell: Callable[[str], None]) -> tuple[LoadedConfig, StudyStore]:
    """Check everything, and open the study; a new one is made when nothing is left that could be wrong.

    Args:
        loaded: the configuration.
        tell: gets lines: where its paths lead, and what the checks found.

    Returns:
        The configuration as it is searched: pinned, its steps counted, with a micro batch that fits; and the study.

    Raises:
        UserError: something in it cannot work; nothing was started.
    """
    from rankray.finetune.epochs import with_steps
    from rankray.store import open_study

    check_trackers(loaded)
    loaded, asked = pin(loaded)
    loaded = with_steps(loaded, download=True)
    for line in resolved_lines(loaded.config):
        tell(line)
    findings = preflight(loaded, offline=True)
    provenance = findings.fingerprints | asked | (lineage(loaded) if loaded.is_from_file else {})
    study = None
    if _exists(loaded.config):
        loaded = fitted(loaded, findings)
        study = open_study(loaded.config.store, loaded.config, provenance=provenance)
    if study is None or not study.finished:  # finished trials show that the configuration can be trained
        check_training(loaded, findings, again=False)
    if study is None:
        loaded = fitted(loaded, findings)
    for line in findings.lines(with_unseen=False):
        tell(line)
    return loaded, study or open_study(loaded.config.store, loaded.config, provenance=provenance)


def _conclude(study: StudyStore, loaded: LoadedConfig, done: bool) -> None:
    """Say what a search has found, or how to resume it."""
    if not done:
        say(
            f"interrupted at {study.finished} of {study.budget} finished trials; nothing is lost: run the same command "
            "again, and the running ones resume from their last checkpoints"
        )
        raise typer.Exit(130)
    require_result(study)
    if (end := study.ended) is not None and end.by == "space":
        say(f"{end.reason}: {study.finished} of {study.budget} trials")
    elif end is not None and end.by != "trials":
        say(f"ended by study.budget.{end.by}: {end.reason}; raise it and run the same command again to continue")
    print_summary(study, loaded.file)


def _exists(config: Config) -> bool:
    """Return whether the store has a study of this name, so that nothing is made before everything is checked."""
    from rankray.errors import StoreError
    from rankray.store import list_studies

    try:
        return config.name in list_studies(config.store)
    except StoreError as error:
        logger.debug("there is no such store yet: %s", error)
        return False
