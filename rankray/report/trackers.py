"""The trackers that `logging:` may name, each over its own library, whose own settings hold (WANDB_MODE, ...)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rankray.report.tracking import Run, Tracker

TAG = "rankray.run"


class WandbTracker:
    """W&B: a project `rankray` (WANDB_PROJECT), grouped by study; WANDB_MODE=offline writes files to sync later."""

    def __init__(self, directory: Path) -> None:
        import wandb

        self._wandb, self._open = wandb, dict[str, Any]()
        self._directory = os.environ.get("WANDB_DIR") or str(directory)

    def begin(self, run: Run) -> None:
        """Start or continue a run."""
        Path(self._directory).mkdir(parents=True, exist_ok=True)
        self._open[run.id] = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rankray"),
            id=run.id,
            name=run.name,
            group=run.study,
            tags=[run.origin],
            config=run.params,
            dir=self._directory,
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        self._open[run.id].log(dict(metrics), step=step)

    def end(self, run: Run, state: str, reason: str) -> None:
        """Finish the run; one that will be continued is finished too, and resumed by its id."""
        opened = self._open.pop(run.id)
        opened.summary.update({"state": state, "reason": reason})
        opened.finish(exit_code=int(state == "failed"))


class MlflowTracker:
    """MLflow: an experiment per study, at MLFLOW_TRACKING_URI or in the SQLite file `mlflow.db`."""

    def __init__(self, directory: Path) -> None:
        from mlflow import MlflowClient

        directory.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{directory.absolute()}/mlflow.db"
        self._client, self._ids = MlflowClient(tracking_uri=uri), dict[str, str]()

    def begin(self, run: Run) -> None:
        """Find the run of this id, or make one."""
        found = self._client.get_experiment_by_name(run.study)
        experiment = found.experiment_id if found else self._client.create_experiment(run.study)
        there = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        if there:
            self._ids[run.id] = there[0].info.run_id
            self._client.update_run(there[0].info.run_id, status="RUNNING")
            return
        tags = {TAG: run.id, "origin": run.origin, "mlflow.runName": run.name}
        self._ids[run.id] = self._client.create_run(experiment, tags=tags).info.run_id
        for path, value in run.params.items():
            self._client.log_param(self._ids[run.id], path, value)

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        for name, value in metrics.items():
            self._client.log_metric(self._ids[run.id], name.replace("@", "_at_"), value, step=step)

    def end(self, run: Run, state: str, reason: str) -> None:
        """Set the run's status, with the state and the reason as tags; one that will be continued stays open."""
        known = self._ids.pop(run.id)
        self._client.set_tag(known, "state", state)
        self._client.set_tag(known, "reason", reason[:5000])
        if state != "lost":
            status = {"complete": "FINISHED", "pruned": "KILLED"}.get(state, "FAILED")
            self._client.set_terminated(known, status)


class TensorBoardTracker:
    """TensorBoard: event files in `tensorboard/<study>/<trial>`, with tensorboardX, which Ray Tune brings along."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._open = directory / "tensorboard", dict[str, Any]()

    def begin(self, run: Run) -> None:
        """Open the trial's directory; what it had after the step it resumes from is replaced."""
        from tensorboardX import SummaryWriter

        place = self._directory / run.study / run.name
        purge = {"purge_step": run.step + 1} if run.step else {}
        suffix = f".{time.time_ns()}"  # the name has whole seconds only, and a file of the same name would be replaced
        self._open[run.id] = SummaryWriter(logdir=str(place), flush_secs=10, filename_suffix=suffix, **purge)
        if not run.step:
            self._open[run.id].add_text("params", f"```\n{json.dumps(run.params, indent=2)}\n```", 0)

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        for name, value in metrics.items():
            self._open[run.id].add_scalar(name, value, step)

    def end(self, run: Run, state: str, reason: str) -> None:
        """Write how it ended, and close the file."""
        writer = self._open.pop(run.id)
        writer.add_text("end", f"{state}: {reason}" if reason else state, run.step)
        writer.close()


class TrackioTracker:
    """trackio: a project per study in its local database (TRACKIO_DIR)."""

    def __init__(self, directory: Path) -> None:
        import trackio

        self._trackio, self._open = trackio, dict[str, Any]()

    def begin(self, run: Run) -> None:
        """Start or continue a run."""
        self._open[run.id] = self._trackio.init(
            project=run.study,
            name=run.name,
            config={**run.params, "origin": run.origin, TAG: run.id},
            group=run.study,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        self._open[run.id].log(dict(metrics), step=step)

    def end(self, run: Run, state: str, reason: str) -> None:
        """Finish the run."""
        opened = self._open.pop(run.id)
        opened.log({"state": state, "reason": reason})
        opened.finish()


TRACKERS: dict[str, Callable[[Path], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "tensorboard": TensorBoardTracker,
    "trackio": TrackioTracker,
}
LIBRARIES = {"wandb": "wandb", "mlflow": "mlflow", "tensorboard": "tensorboardX", "trackio": "trackio"}
