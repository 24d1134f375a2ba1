"""`rankray train`, and what it shares with `rankray.train`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from rankray.cli.common import fitted, load, preflight, print_json, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Verbose
from rankray.cli.output import continues
from rankray.cli.pins import pin_run
from rankray.cli.tracking import check_trackers, tracking_train

if TYPE_CHECKING:
    from rankray.config import Config, LoadedConfig
    from rankray.contracts import Outcome, TrialSpec
    from rankray.report.training import LineReporter

Tell = Callable[[str], None]


def train(
    file: File,
    sets: Sets = NONE,
    name: Name = "",
    resume: Annotated[str, typer.Option(metavar="CHECKPOINT", help="Resume from a checkpoint of this command.")] = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train one trial with the file's fixed values, in this process, without Ray."""
    from rankray import logs

    logs.configure(verbose)
    continues("training")

    def tell(line: str) -> None:
        say(line, as_json)

    def interrupted() -> None:
        say("stopping: saving a checkpoint after the present step; Ctrl-C again stops at once", to_stderr=True)

    def left(checkpoint: str | None) -> str:
        if checkpoint is None:
            return "nothing was saved"
        return f"run the same command again with --resume {shlex.quote(checkpoint)}"

    try:
        outcome = trained(load(file, sets, name=name), resume, tell, interrupted, left)
    except KeyboardInterrupt as interruption:
        if not str(interruption):  # before the training
            raise
        say(f"interrupted; {interruption}", to_stderr=True)
        raise typer.Exit(130) from None
    if as_json:
        print_json({"metrics": outcome.metrics, "checkpoint": outcome.checkpoint, "steps": outcome.steps})
    else:
        for metric, value in outcome.metrics.items():
            say(f"{metric}: {value:.6g}")
        say(f"checkpoint: {outcome.checkpoint}")


def trained(
    loaded: LoadedConfig,
    resume: str,
    tell: Tell,
    interrupted: Callable[[], None],
    left: Callable[[str | None], str],
) -> Outcome:
    """Check everything, and train one trial in this process.

    Args:
        loaded: the configuration; its space is passed over.
        resume: a checkpoint of an earlier run, or an empty string.
        tell: gets lines: what the checks found, then one for each report.
        interrupted: called at the first Ctrl-C; the present step ends, and a checkpoint is saved.
        left: given the last checkpoint, or None, returns what an interruption says.

    Raises:
        UserError: something cannot work; nothing was started.
        StorageError: a checkpoint cannot be written; the text says from which one to resume.
        KeyboardInterrupt: it was interrupted; the text is that of `left`.
    """
    from rankray.checkpoints import places
    from rankray.checkpoints.retention import CheckpointRetention
    from rankray.contracts import TrialSpec
    from rankray.errors import CheckpointDamaged, StorageError
    from rankray.finetune.checkpoint import check_resumable, read_progress
    from rankray.finetune.epochs import with_steps
    from rankray.report.training import LineReporter

    resume = places.absolute(resume) if resume else ""
    loaded = pin_run(loaded, resume)
    check_trackers(loaded)
    loaded = with_steps(loaded, download=True)
    findings = preflight(loaded, alone=True)
    loaded = fitted(loaded, findings, alone=True)
    for line in findings.lines():
        tell(line)
    config = loaded.config
    if resume and not places.is_remote(resume):
        check_resumable(read_progress(resume), config, resume)
    places.probe(config.storage)
    tree = config.model_dump(mode="json") | {"space": {}}
    with CheckpointRetention(config.storage, f"{config.name}/train") as retention:
        spec = TrialSpec(config=tree, directory=retention.directory(0), checkpoint=resume or None, untrained=True)
        reporter = LineReporter(
            say=tell, max_steps=config.full_steps, committed=lambda path: retention.committed(0, path)
        )
        reporter.checkpoint = resume or None
        try:
            outcome = _train(config, spec, reporter, tell, interrupted)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(left(reporter.checkpoint)) from None
        except StorageError as error:
            if isinstance(error, CheckpointDamaged) or reporter.checkpoint is None:
                raise
            raise type(error)(f"{error}; then resume from {reporter.checkpoint}") from error
        retention.ended(0, complete=True)
        return outcome


def _train(
    config: Config, spec: TrialSpec, reporter: LineReporter, tell: Tell, interrupted: Callable[[], None]
) -> Outcome:
    """Train, and log it; an interruption saves a checkpoint after the present step, a second one stops at once.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    from rankray.checkpoints import manifest, staging
    from rankray.finetune import run
    from rankray.search.control import interruptible

    def interrupt(number: int) -> None:
        reporter.interrupted = "interrupted"
        interrupted()

    with (
        tracking_train(config, spec.directory, spec.checkpoint, tell) as reported,
        interruptible(interrupt),
    ):
        reporter.reported = reported
        outcome = staging.train(manifest.checked(run), spec, reporter)
        if outcome.preempted:
            raise KeyboardInterrupt
        return outcome
