"""`rankray train`."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from rankray.cli.common import fitted, load, preflight, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Verbose
from rankray.cli.pins import pin_run
from rankray.cli.tracking import check_trackers, tracking_train

if TYPE_CHECKING:
    from rankray.config import Config
    from rankray.contracts import Outcome, TrialSpec
    from rankray.report.training import LineReporter


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
    from rankray.checkpoints import places
    from rankray.finetune.epochs import with_steps

    resume = places.absolute(resume) if resume else ""
    loaded = pin_run(load(file, sets, name=name), resume)
    check_trackers(loaded)
    loaded = with_steps(loaded, download=True)
    findings = preflight(loaded, alone=True)
    loaded = fitted(loaded, findings, alone=True)
    for line in findings.lines():
        say(line, as_json)
    from rankray.checkpoints.retention import CheckpointRetention
    from rankray.contracts import TrialSpec
    from rankray.finetune.checkpoint import check_resumable, read_progress
    from rankray.report.training import LineReporter

    config = loaded.config
    if resume and not places.is_remote(resume):
        check_resumable(read_progress(resume), config, resume)
    places.probe(config.storage)
    tree = config.model_dump(mode="json") | {"space": {}}
    with CheckpointRetention(config.storage, f"{config.name}/train") as retention:
        spec = TrialSpec(config=tree, directory=retention.directory(0), checkpoint=resume or None, untrained=True)
        reporter = LineReporter(
            say=lambda line: say(line, as_json),
            max_steps=config.full_steps,
            committed=lambda path: retention.committed(0, path),
        )
        if resume:
            reporter.checkpoint = resume
        try:
            outcome = _train(config, spec, reporter, as_json)
        except KeyboardInterrupt:
            last = reporter.checkpoint
            resuming = f"run the same command again with --resume {shlex.quote(last)}" if last else "nothing was saved"
            say(f"interrupted; {resuming}", to_stderr=True)
            raise typer.Exit(130) from None
        retention.ended(0, complete=True)
    if as_json:
        print(json.dumps({"metrics": outcome.metrics, "checkpoint": outcome.checkpoint, "steps": outcome.steps}))
    else:
        for metric, value in outcome.metrics.items():
            say(f"{metric}: {value:.6g}")
        say(f"checkpoint: {outcome.checkpoint}")


def _train(config: Config, spec: TrialSpec, reporter: LineReporter, as_json: bool) -> Outcome:
    """Train, and log it; an interruption saves a checkpoint after the present step, a second one stops at once.

    Raises:
        KeyboardInterrupt: it was interrupted.
    """
    from rankray.checkpoints import manifest, staging
    from rankray.finetune import run
    from rankray.search.control import interruptible

    def interrupt(number: int) -> None:
        reporter.interrupted = "interrupted"
        say("stopping: saving a checkpoint after the present step; Ctrl-C again stops at once", to_stderr=True)

    with (
        tracking_train(config, spec.directory, spec.checkpoint, lambda line: say(line, as_json)) as reported,
        interruptible(interrupt),
    ):
        reporter.reported = reported
        outcome = staging.train(manifest.checked(run), spec, reporter)
        if outcome.preempted:
            raise KeyboardInterrupt
        return outcome
