"""The trackers that `logging:` may name, each over its own library, whose own settings hold (WANDB_MODE, ...).

A run that is resumed after a kill may lack reports that its library had not written yet. MLflow and trackio are asked
which steps they have, and get the others. TensorBoard and W&B cannot be asked: they get the whole history again, which
replaces the earlier one in TensorBoard and is ignored, step by step, by a W&B server.
"""

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
        for step, metrics in run.history:
            self.log(run, step, metrics)

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
        self._steps: dict[str, set[int]] = {}

    def begin(self, run: Run) -> None:
        """Find the run of this id, or make one."""
        found = self._client.get_experiment_by_name(run.study)
        experiment = found.experiment_id if found else self._client.create_experiment(run.study)
        there = self._client.search_runs([experiment], f"tags.`{TAG}` = '{run.id}'", max_results=1)
        self._steps[run.id] = set()
        if there:
            known = self._ids[run.id] = there[0].info.run_id
            self._client.update_run(known, status="RUNNING")
            for name in there[0].data.metrics:
                self._steps[run.id] |= {each.step for each in self._client.get_metric_history(known, name)}
            for step, metrics in run.history:
                self.log(run, step, metrics)
            return
        tags = {TAG: run.id, "origin": run.origin, "mlflow.runName": run.name}
        self._ids[run.id] = self._client.create_run(experiment, tags=tags).info.run_id
        for path, value in run.params.items():
            self._client.log_param(self._ids[run.id], path, value)

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        if step in self._steps[run.id]:
            return
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
        """Open the trial's directory; its history, and what it had after the step it resumes from, are replaced."""
        from tensorboardX import SummaryWriter

        place = self._directory / run.study / run.name
        first = min([step for step, _ in run.history], default=run.step + 1)
        purge = {"purge_step": first} if run.step else {}
        suffix = f".{time.time_ns()}"  # the name has whole seconds only, and a file of the same name would be replaced
        self._open[run.id] = SummaryWriter(logdir=str(place), flush_secs=10, filename_suffix=suffix, **purge)
        if not run.step:
            self._open[run.id].add_text("params", f"```\n{json.dumps(run.params, indent=2)}\n```", 0)
        for step, metrics in run.history:
            self.log(run, step, metrics)

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        for name, value in metrics.items():
            self._open[run.id].add_scalar(name, value, step)
        self._open[run.id].flush()  # a process that is killed has written what was reported

    def end(self, run: Run, state: str, reason: str) -> None:
        """Write how it ended, and close the file."""
        writer = self._open.pop(run.id)
        writer.add_text("end", f"{state}: {reason}" if reason else state, run.step)
        writer.close()


class TrackioTracker:
    """trackio: a project per study in its local database (TRACKIO_DIR); a dot in its name becomes two dashes.

    trackio leaves dots out of the names of its files, so `a.b` and `ab` would be one project.
    """

    def __init__(self, directory: Path) -> None:
        import trackio
        from trackio.sqlite_storage import SQLiteStorage

        self._trackio, self._storage, self._open = trackio, SQLiteStorage, dict[str, Any]()
        self._steps: dict[str, set[int]] = {}

    def begin(self, run: Run) -> None:
        """Start or continue a run."""
        project = run.study.replace(".", "--")
        there = self._storage.get_logs(project, run.name) if run.step else []
        self._steps[run.id] = {int(row["step"]) for row in there if "state" not in row}  # the end's row has no step
        self._open[run.id] = self._trackio.init(
            project=project,
            name=run.name,
            config={**run.params, "origin": run.origin, TAG: run.id},
            group=run.study,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, metrics in run.history:
            self.log(run, step, metrics)

    def log(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        """Write a step."""
        if step in self._steps[run.id]:
            return
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
