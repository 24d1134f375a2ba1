"""`rankray confirm`: whether the winner of a search is really better than plain SFT, on seeds it has not seen."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray.cli.common import attached, board_of, console, print_json, say, store_url
from rankray.cli.options import NONE, Json, Sets, Store, Study, Verbose
from rankray.cli.output import continues
from rankray.cli.tracking import check_trackers, tracking

if TYPE_CHECKING:
    from rankray.config import Config
    from rankray.contracts import Observer
    from rankray.search.confirmation import Options, Plan
    from rankray.store import StudyStore

logger = logging.getLogger(__name__)


def confirm(
    study: Study,
    finalists: Annotated[
        int | None, typer.Option(help="Settings of the search to try again, and of plain SFT.", show_default="5")
    ] = None,
    choose_seeds: Annotated[
        int | None, typer.Option(help="New seeds of each of them, to choose one.", show_default="2")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Further seeds of the chosen one and of plain SFT, to decide.", show_default="8")
    ] = None,
    looks: Annotated[str, typer.Option(help="Numbers of seeds after which to decide, as 4,8,12,16.")] = "",
    spending: Annotated[
        str,
        typer.Option(help="How looks share the level: obrien_fleming or pocock.", show_default="obrien_fleming"),
    ] = "",
    plan: Annotated[bool, typer.Option("--plan", help="Print what it would run and can tell; run nothing.")] = False,
    metric: Annotated[str, typer.Option(help="Which of the study's metrics decides; its first.")] = "",
    label: Annotated[str, typer.Option(help="Name of a further confirmation of the same search.")] = "",
    sets: Sets = NONE,
    store: Store = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare a search's winner with plain SFT at its own best rate, on new seeds. Run again to resume.

    Options that are left out are those that it was begun with.
    """
    from rankray import logs
    from rankray.config.load import parsed_overrides
    from rankray.report.board import alike_line
    from rankray.report.commands import store_option
    from rankray.report.confirmation import plan_view, verdict_view
    from rankray.search.confirmation import Options
    from rankray.store import views

    logs.configure(verbose)
    words = [("finalists", finalists), ("choose_seeds", choose_seeds), ("seeds", seeds), ("looks", _numbers(looks))]
    given = chosen([*words, ("spending", spending)])
    Options.of(given, None)  # what is wrong is said before the store is asked
    list(parsed_overrides(sets))
    url = store_url(store)
    search = attached(store, study)
    asked = Asked(search, url, given, sets, label, metric, lambda line: say(line, to_stderr=True))
    if line := alike_line(search.config.study.metric, views.alike(search)):
        say(f"warning: {line}", to_stderr=True)
    if plan:
        found = figures(asked)
        print_json(found) if as_json else console().print(plan_view(found))
        return
    continues("the confirmation")
    verdict = compared(asked, functools.partial(_watching, quiet=as_json), verbose=verbose)
    if verdict is None:
        say("interrupted; nothing is lost: run the same command again to resume", to_stderr=True)
        raise typer.Exit(130)
    if as_json:
        print_json(verdict)
        return
    console().print(verdict_view(verdict))
    say(f"what to use, and how to train it again: rankray best {study} {store_option(views.status(search)['store'])}")


@dataclass(frozen=True)
class Asked:
    """A confirmation that is asked for.

    Attributes:
        search: the search's study, attached.
        url: its store, with its password.
        options: those that are given, by name (`chosen`).
        overrides: as `path=value`, or dotted path to value.
        label: of the confirmation.
        metric: which decides; empty for the study's first.
        notice: gets a line where a driver that may be dead has to be watched for a while.
    """

    search: StudyStore
    url: str
    options: Mapping[str, Any]
    overrides: Sequence[str] | Mapping[str, Any]
    label: str = ""
    metric: str = ""
    notice: Callable[[str], None] = logger.debug

    @property
    def places(self) -> dict[str, str]:
        """Where each override was written, by its dotted path."""
        from rankray.config.load import parsed_overrides

        return {path: place for path, _, place in parsed_overrides(self.overrides)}


def chosen(options: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return the options that are given; the others are as the confirmation was begun with."""
    return {name: value for name, value in options if value not in (None, "", ())}


def figures(asked: Asked) -> dict[str, Any]:
    """Return what a confirmation would run, and what it can tell; nothing is run.

    Raises:
        UserError: an option or an override cannot be, or the search has nothing to confirm.
    """
    from rankray.search.confirm import plan_figures

    _, confirmation, _, plan = _planned(asked)
    return plan_figures(asked.search, confirmation, plan)


def compared(
    asked: Asked, watching: Callable[[StudyStore, Config], AbstractContextManager[Observer]], *, verbose: bool = False
) -> dict[str, Any] | None:
    """Check data and model, run what is missing of a confirmation, and return its verdict; None if interrupted.

    Args:
        asked: what is asked for.
        watching: gives an observer for the study that is run, and its configuration.
        verbose: show Ray's own messages.

    Raises:
        UserError: something cannot work; nothing was started.
        SearchFailed: see `run_confirmation`.
    """
    from rankray.config import LoadedConfig
    from rankray.search.confirm import run_confirmation

    config, confirmation, options, _ = _planned(asked)
    places: dict[Any, str] = {tuple(path.split(".")): place for path, place in asked.places.items()}
    check_trackers(LoadedConfig(config, f"study {asked.search.name}", places))
    confirmation, provenance = _preflight(asked.search, config, confirmation, places)
    provenance["places"] = {**provenance.get("places", {}), **asked.places}
    return run_confirmation(
        asked.search,
        asked.url,
        config,
        confirmation,
        options,
        lambda running: watching(running, confirmation),
        provenance=provenance,
        verbose=verbose,
    )


def _planned(asked: Asked) -> tuple[Config, Config, Options, Plan]:
    from rankray.config.lenient import unfit
    from rankray.errors import ConfigError
    from rankray.search.confirm import as_begun, planned

    if line := unfit(asked.search.name, asked.search.refused):
        raise ConfigError(
            f"confirm: {line}; allowed: a search of which all is known, to train as it did; use the version that made "
            "it, or search again under another name"
        )
    config, confirmation, options = as_begun(
        asked.search, asked.url, asked.overrides, dict(asked.options), asked.label, asked.metric
    )
    if asked.options.get("spending") and not options.looks:
        raise ConfigError(
            "confirm: --spending without --looks changes nothing; allowed: beside it; add --looks, or leave it out"
        )
    plan = planned(asked.search, asked.url, config, confirmation, options, asked.notice)
    wanted, there = asked.options.get("finalists", 0), len(plan.finalists)
    if wanted > there:
        asked.notice(
            f"confirm: {asked.search.name}: {wanted} finalists are asked for; settings with a complete trial, other "
            f"than plain SFT: {there}; so many are tried"
        )
    return config, confirmation, options, plan


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers in a text such as `4,8,12,16`."""
    from rankray.errors import ConfigError

    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise ConfigError(f"confirm: --looks {text}; allowed: numbers of seeds, as in 4,8,12,16; correct it") from None


def _preflight(
    search: StudyStore, config: Config, confirmation: Config, places: dict[Any, str]
) -> tuple[Config, dict[str, Any]]:
    """Check data and model as a search does, and that they are those of the search.

    The commits are those of the search; `places` say where overrides were written. What it had not pinned, such as a
    test set of the hub that is given now, is pinned for all runs of the confirmation.

    Returns:
        The confirmation's configuration with its commits, and what to keep with its study.

    Raises:
        StudyMismatch: data or model have changed since.
        UserError: something cannot be trained on.
    """
    from rankray.cli.common import fitted, preflight
    from rankray.cli.pins import pin
    from rankray.config import LoadedConfig
    from rankray.errors import StudyMismatch
    from rankray.store.identity import FINGERPRINTS

    file = str(search.provenance.get("file", f"study {search.name}"))
    before, now = search.provenance, preflight(LoadedConfig(config, file, places), offline=True).fingerprints
    for key in FINGERPRINTS:
        old, new = before.get(key), now.get(key)
        pairs = [(old, new)]
        if isinstance(old, dict) and isinstance(new, dict):
            pairs = [(old[each], new[each]) for each in old if each in new]
        if any(one is not None and two is not None and one != two for one, two in pairs):
            raise StudyMismatch(
                f"confirm: {search.name}: {key}: not what the search trained with ({old}, now {new}); allowed: "
                "the same; restore it, or search again under another name"
            )
    loaded, asked = pin(LoadedConfig(confirmation, file, places))
    findings = preflight(loaded, again=False)
    loaded = fitted(loaded, findings)
    origin = {key: search.provenance[key] for key in ("file", "places") if key in search.provenance}
    return loaded.config, findings.fingerprints | asked | origin


@contextmanager
def _watching(running: StudyStore, config: Config, quiet: bool) -> Iterator[Observer]:
    """Show a confirmation's runs as a search's are shown, and log them; with --json, lines are on standard error."""
    from rich.console import Console

    from rankray.report.live import watching
    from rankray.search.news import News

    shown = Console(stderr=True, emoji=False) if quiet else console()
    with (
        watching(board_of(running), shown) as observer,
        tracking(running, config, lambda line: say(line, quiet)) as trackers,
    ):
        yield News(observer, *trackers)
