"""`rankray train`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rankray.cli.common import load, preflight, say
from rankray.cli.options import NONE, File, Json, Name, Sets, Verbose
from rankray.cli.tracking import check_trackers, tracking_train


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
    from rankray.finetune.epochs import with_steps

    loaded = load(file, sets, name=name)
    check_trackers(loaded)
    loaded = with_steps(loaded, download=True)
    for line in preflight(loaded).lines():
        say(line, as_json)
    from rankray.checkpoints import manifest, places, staging
    from rankray.checkpoints.retention import CheckpointRetention
    from rankray.contracts import TrialSpec
    from rankray.finetune import run
    from rankray.finetune.checkpoint import check_resumable, read_progress
    from rankray.report.training import LineReporter

    config = loaded.config
    if resume:
        resume = places.absolute(resume)
        if not places.is_remote(resume):
            check_resumable(read_progress(resume), config, resume)
    places.probe(config.storage)
    tree = config.model_dump(mode="json") | {"space": {}}
    with CheckpointRetention(config.storage, f"{config.name}/train") as retention:
        spec = TrialSpec(config=tree, directory=retention.directory(0), checkpoint=resume or None, untrained=True)
        with tracking_train(config, spec.directory, spec.checkpoint, lambda line: say(line, as_json)) as reported:
            reporter = LineReporter(
                say=lambda line: say(line, as_json),
                max_steps=config.full_steps,
                committed=lambda path: retention.committed(0, path),
                reported=reported,
            )
            outcome = staging.train(manifest.checked(run), spec, reporter)
        retention.ended(0, complete=True)
    if as_json:
        print(json.dumps({"metrics": outcome.metrics, "checkpoint": outcome.checkpoint, "steps": outcome.steps}))
    else:
        for metric, value in outcome.metrics.items():
            say(f"{metric}: {value:.6g}")
        say(f"checkpoint: {outcome.checkpoint}")
