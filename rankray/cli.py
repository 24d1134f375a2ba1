"""The command line. Every verb imports what it needs when it runs, so that the light ones answer at once.

Exit codes: 0 done; 1 the search ran and failed; 2 bad input; 130 interrupted (run the same command again to resume).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankray import __version__, cluster_cli
from rankray.errors import RankrayError, UserError
from rankray.store_cli import app as store_app

if TYPE_CHECKING:
    from rankray.config import LoadedConfig

app = typer.Typer(
    name="rankray",
    help="Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(store_app, name="store")
app.command()(cluster_cli.submit)
app.command()(cluster_cli.doctor)

File = Annotated[Path, typer.Argument(help="The YAML configuration.", show_default=False)]
Study = Annotated[str, typer.Argument(help="The study's name.", show_default=False)]
Sets = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Override a field; repeatable.")]
Store = Annotated[str, typer.Option("--store", metavar="URL", help="Store URL; replaces the file's and RANKRAY_STORE.")]
Name = Annotated[str, typer.Option("--name", help="Study name; replaces the file's.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Let Ray and the libraries talk.")]
NONE: list[str] = []
DEFAULT_STORE = "sqlite:///rankray.db"
ARGUMENTS = "RANKRAY_ARGUMENTS_PIPE"


@app.command()
def search(file: File, sets: Sets = NONE, store: Store = "", name: Name = "", verbose: Verbose = False) -> None:
    """Search the file's space until the study holds its number of finished trials. Run again to resume or extend."""
    _search(_load(file, sets, store, name), verbose)


@app.command()
def quickstart(
    directory: Annotated[Path, typer.Option(help="Where the world, its study and its checkpoints are kept.")] = Path(
        "rankray-quickstart"
    ),
    sets: Sets = NONE,
    verbose: Verbose = False,
) -> None:
    """Make a small world offline (once), and search it: the whole product in a few minutes on two cores."""
    from rankray.quickstart import build_world

    file = build_world(directory, progress=lambda line: _say(line))
    _say(f"searching {file} (the same as: rankray search {file})")
    _search(_load(file, sets, "", ""), verbose)


@app.command()
def train(
    file: File,
    sets: Sets = NONE,
    name: Name = "",
    resume: Annotated[str, typer.Option(metavar="CHECKPOINT", help="Go on from a checkpoint of this command.")] = "",
    as_json: Json = False,
) -> None:
    """Train one trial with the file's fixed values, in this process, without Ray."""
    loaded = _load(file, sets, "", name)
    _preflight(loaded)
    from rankray import storage
    from rankray.contracts import TrialSpec
    from rankray.report.training import LineReporter
    from rankray.search import carrier
    from rankray.search.shelf import Shelf

    config = loaded.config
    storage.probe(config.storage)
    tree = config.model_dump(mode="json") | {"space": {}}
    with Shelf(config.storage, f"{config.name}/train") as shelf:
        reporter = LineReporter(
            say=lambda line: _say(line, as_json),
            max_steps=config.train.max_steps * config.study.seeds,
            committed=lambda path: shelf.committed(0, path),
        )
        spec = TrialSpec(config=tree, directory=shelf.directory(0), checkpoint=resume or None)
        outcome = carrier.train(spec, reporter)
    if as_json:
        print(json.dumps({"metrics": outcome.metrics, "checkpoint": outcome.checkpoint, "steps": outcome.steps}))
    else:
        for metric, value in outcome.metrics.items():
            _say(f"{metric}: {value:.6g}")
        _say(f"checkpoint: {outcome.checkpoint}")


@app.command()
def check(file: File, sets: Sets = NONE, store: Store = "", name: Name = "", as_json: Json = False) -> None:
    """Check a file, its data and its space, without starting anything."""
    try:
        loaded = _load(file, sets, store, name)
        _preflight(loaded)
    except UserError as error:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "errors": str(error).splitlines()}))
        raise typer.Exit(error.exit_code) from None
    from rankray.report.explain import check_lines

    if as_json:
        from rankray.store.urls import masked

        config = loaded.config.model_dump(mode="json") | {"store": masked(loaded.config.store)}
        print(json.dumps({"ok": True, "config": config}))
        return
    for line in check_lines(loaded):
        _say(line)


@app.command()
def explain(
    key: Annotated[str, typer.Argument(help="A dotted path such as loss.temperature, or a section.")] = "",
) -> None:
    """Explain a configuration field: what it means, what is allowed, its default."""
    from rankray.report.explain import explain_lines

    for line in explain_lines(key):
        _say(line)


@app.command()
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

    config = _load(file, sets, store, name).config
    curve = synthetic_curve(config, seed)
    if recorded:
        from rankray.store import attach, views

        held = attach(_store_url(store or config.store), recorded)
        curve = recorded_curve(config, [views.trial(held, row["number"]) for row in views.trials(held)])
    _console().print(rehearsal_view(compare(config, curve, slots=slots), config.study.metric))


@app.command()
def status(study: Study, store: Store = "", as_json: Json = False) -> None:
    """Show how far a study is and what it holds."""
    from rankray.store import attach, views

    held = attach(_store_url(store), study)
    shown = views.status(held)
    if as_json:
        print(json.dumps(shown))
        return
    from rankray.report.tables import status_view

    _console().print(status_view(shown, views.trials(held), held.config.study.metric))


@app.command()
def show(
    study: Study,
    number: Annotated[int, typer.Argument(help="The trial's number.", show_default=False)],
    store: Store = "",
    as_json: Json = False,
) -> None:
    """Show one trial: its settings, every report, how it ended and why."""
    from rankray.store import attach, views

    trial = views.trial(attach(_store_url(store), study), number)
    if as_json:
        print(json.dumps(trial))
        return
    from rankray.report.tables import trial_view

    _console().print(trial_view(trial))


@app.command()
def best(
    study: Study,
    store: Store = "",
    as_json: Json = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the best settings as a file for `train`.")] = False,
) -> None:
    """Show the best settings found, and the command that trains them again."""
    from rankray.store import attach, views

    held = attach(_store_url(store), study)
    found = views.best(held)
    if as_json:
        print(json.dumps(found))
        return
    if found is not None and as_yaml:
        from rankray.report.explain import best_yaml

        print(best_yaml(held.config, found["params"]), end="")
        return
    _summary(held, str(held.provenance.get("file", "FILE")))


def main() -> None:
    """Run the command line and exit with its code."""
    _hide_passwords()
    try:
        app()
    except RankrayError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(130)


def _hide_passwords() -> None:
    """Start again without the passwords of URLs in the arguments, which every user of the machine can list.

    The same process goes on; the arguments as given reach it through a pipe, so that they stand nowhere.
    """
    from rankray.store.urls import masked

    pipe = os.environ.pop(ARGUMENTS, "")
    if pipe:
        with open(int(pipe), encoding="utf-8") as file:
            sys.argv[1:] = json.load(file)
        return
    shown = [masked(word) if "://" in word else word for word in sys.argv[1:]]
    if shown == sys.argv[1:]:
        return
    reader, writer = os.pipe()
    with open(writer, "w", encoding="utf-8") as file:
        json.dump(sys.argv[1:], file)
    os.set_inheritable(reader, True)
    os.environ[ARGUMENTS] = str(reader)
    os.execv(sys.executable, [sys.executable, "-m", "rankray", *shown])


def _version(wanted: bool) -> None:
    if wanted:
        print(f"rankray {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Search the settings of RRI-weighted fine-tuning, and resume as if nothing had happened."""


def _search(loaded: LoadedConfig, verbose: bool) -> None:
    provenance = _preflight(loaded) | {"file": str(Path(loaded.file).absolute())}
    config, console = loaded.config, _console()
    from rankray.search import forked_workers

    with forked_workers(config, verbose) as python:
        from rankray.report.board import Board
        from rankray.report.live import watching
        from rankray.search import run_search
        from rankray.store import open_study, views

        study = open_study(config.store, config, provenance=provenance)
        board = Board(
            config.name,
            config.study.metric,
            maximize=config.direction == "maximize",
            budget=config.study.trials,
            max_steps=config.train.max_steps * config.study.seeds,
            finished=study.finished,
        )
        counts = study.counts()
        board.counts = {"complete": counts.complete, "pruned": counts.pruned, "failed": counts.failed}
        if found := views.best(study):
            board.best = (found["number"], found["value"], found["params"])
        with watching(board, console) as observer:
            done = run_search(study, config, observer, verbose=verbose, python=python)
    if not done:
        _say(f"interrupted at {study.finished} of {config.study.trials}; run the same command again to go on")
        raise typer.Exit(130)
    _summary(study, loaded.file)


def _summary(study: Any, file: str) -> None:
    from rankray.report.tables import summary
    from rankray.store import views

    summary(
        _console(),
        file=file,
        metric=study.config.study.metric,
        best=views.best(study),
        objectives=views.objectives(study),
        status=views.status(study),
    )


def _load(file: Path, sets: list[str], store: str, name: str) -> LoadedConfig:
    from rankray.config import load_config

    overrides = [*sets, *([f"store={json.dumps(store)}"] if store else [])]
    return load_config(file, overrides, name or None)


def _preflight(loaded: LoadedConfig) -> dict[str, Any]:
    """Find what is wrong with store, resources and data before anything expensive starts; return fingerprints."""
    from rankray.errors import StoreError
    from rankray.finetune.preflight import preflight
    from rankray.store.urls import validate_url

    try:
        validate_url(loaded.config.store)
    except StoreError as error:
        raise StoreError(f"{loaded.where('store')}: {error}") from None
    _check_workers(loaded)
    return preflight(loaded)


def _check_workers(loaded: LoadedConfig) -> None:
    """Refuse numbers of workers over which a batch does not divide."""
    from rankray.errors import ConfigError

    resources, train = loaded.config.resources, loaded.config.train
    least, most = resources.worker_range
    if most > 1 and train.parallelism == "fsdp" and not resources.gpus_per_worker:
        raise ConfigError(
            f"{loaded.where('train.parallelism')}: train.parallelism: fsdp without GPUs; allowed without is ddp; set "
            "it, or resources.gpus_per_worker"
        )
    batch = train.batch_size
    uneven = [workers for workers in range(least, most + 1) if batch % workers]
    if uneven and "train.batch_size" not in loaded.config.space:
        raise ConfigError(
            f"{loaded.where('resources.workers')}: resources.workers: {batch} examples of train.batch_size do not "
            f"divide over {uneven[0]} workers; allowed are numbers that divide it, all from the least to the most; "
            "change one of the two"
        )


def _store_url(store: str) -> str:
    return store or os.environ.get("RANKRAY_STORE", DEFAULT_STORE)


def _console() -> Any:
    from rich.console import Console

    return Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120)


def _say(line: str, to_stderr: bool = False) -> None:
    print(line, file=sys.stderr if to_stderr else sys.stdout, flush=True)
