"""What `search`, `confirm` and `train` log: one run each, in every tracker that is installed, after a kill too."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.searches import kill
from fixtures.waiting import until
from report.test_trackers import wandb_records
from store.helpers import make_config

from rankray.cli import confirm
from rankray.cli.tracking import tracking_train
from rankray.config import load_config
from rankray.contracts import Report
from rankray.report.trackers import LIBRARIES
from rankray.store import open_study

INSTALLED = [name for name, library in LIBRARIES.items() if importlib.util.find_spec(library)]
LOGGING = ("--set", f"logging=[{','.join(INSTALLED)}]")
Curve = list[tuple[int, float]]


@pytest.fixture(autouse=True)
def stores(tmp_path, monkeypatch):
    """W&B writes files, and trackio's database is the test's own."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for name in ("WANDB_DIR", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def tensorboard(directory: Path, group: str) -> dict[str, Curve]:
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    found = {}
    for run in (directory / "tensorboard" / group).iterdir():
        events = module.EventAccumulator(str(run))
        events.Reload()
        found[run.name] = [(each.step, each.value) for each in events.Scalars("eval/nll")]
    return found


def mlflow(directory: Path, group: str) -> dict[str, Curve]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{directory}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name(group).experiment_id])
    assert len({run.info.run_name for run in runs}) == len(runs), "one run of a name"
    assert {run.info.status for run in runs} == {"FINISHED"}
    return {
        run.info.run_name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "eval/nll")]
        for run in runs
    }


def wandb(directory: Path, group: str) -> dict[str, Curve]:
    """A run may have several files, which W&B puts together by its id, and each step by its number."""
    names: dict[str, str] = {}
    curves: dict[str, dict[int, float]] = {}
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        known = ""
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run" and record.run.run_group == group:
                known = record.run.run_id
                names[known] = record.run.display_name
            if record.WhichOneof("record_type") == "history" and known:
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                curves.setdefault(known, {})[json.loads(items["_step"])] = json.loads(items["eval/nll"])
    assert len(set(names.values())) == len(names), "one run of a name"
    return {names[known]: sorted(curve.items()) for known, curve in curves.items()}


def trackio(directory: Path, group: str) -> dict[str, Curve]:
    found: dict[str, Curve] = {}
    with sqlite3.connect(directory / f"{group.replace('.', '--')}.db") as database:
        rows = database.execute("select run_id, run_name, step, metrics from metrics order by id").fetchall()
    assert len({run for run, *_ in rows}) == len({name for _, name, *_ in rows}), "one run of a name"
    for _, name, step, metrics in rows:
        if "eval/nll" in (logged := json.loads(metrics)):
            found.setdefault(name, []).append((step, logged["eval/nll"]))
    return found


def logged(tmp_path: Path, storage: Path, group: str) -> dict[str, dict[str, Curve]]:
    """Return the runs of a group in each tracker's own store, each with its curve."""
    read = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": wandb}
    found = {name: read[name](storage, group) for name in INSTALLED if name in read}
    return found | ({"trackio": trackio(tmp_path / "trackio", group)} if "trackio" in INSTALLED else {})


def check(found: dict[str, dict[str, Curve]], wanted: dict[str, Curve]) -> None:
    assert found.keys() == set(INSTALLED)
    for tracker, runs in found.items():
        exact = {name: [(step, pytest.approx(value, rel=1e-6)) for step, value in c] for name, c in wanted.items()}
        assert runs == exact, tracker


@pytest.mark.slow
def test_a_search_that_is_killed_and_resumed_has_each_trial_once_everywhere(place, gate, tmp_path):
    """In all trackers; `search/test_kills.py` does it with TensorBoard alone."""
    words = ("--set", "study.trials=1", *LOGGING, *gate.words)
    process = place.begin(*words)
    until(lambda: gate.node(1), process, log=place.log)
    gate.let_pass(1)
    until(lambda: gate.node(2), process, log=place.log)
    kill(process)
    gate.open()
    done = place.search(*words)
    assert "trial 0 started (resumes from step 2)" in done.stdout
    curve = [(step, metrics["eval/nll"]) for (_, step), metrics in place.recorded().items()]
    assert [step for step, _ in curve] == [2, 4, 6]
    check(logged(tmp_path, place.file.parent / "runs", "tiny"), {"trial-0000": curve})


THREE_LAUNCHES = """
import json, sys
from rankray.cli.tracking import tracking_train
from rankray.config import Config
from rankray.contracts import Report

config, directory = Config(**json.loads(sys.argv[1])), sys.argv[2]
checkpoint = None
for known, steps in (("0a0a0a0a", [1, 2]), ("0b0b0b0b", [2, 3]), ("0c0c0c0c", [3, 4])):
    try:
        with tracking_train(config, f"{directory}/{known}", checkpoint, sys.exit) as reported:
            for step in steps:
                reported(Report(step, {"eval/nll": 10.0 - step}))
            if step < 4:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        checkpoint = f"{directory}/{known}/step-{step:06d}"
"""


def test_a_training_run_that_is_resumed_twice_is_one_run(tmp_path):
    """In a process of its own: trackio reads where its database is when it is imported."""
    config = make_config(logging=INSTALLED, storage=str(tmp_path / "runs")).model_dump_json()
    directory = tmp_path / "runs" / "s" / "train" / "trial-00000"
    words = [sys.executable, "-c", THREE_LAUNCHES, config, str(directory)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    curve = [(step, 10.0 - step) for step in (1, 2, 3, 4)]
    check(logged(tmp_path, tmp_path / "runs", "s.train"), {"run-0a0a0a0a": curve})


def test_a_training_run_that_fails_says_why(tmp_path):
    pytest.importorskip("tensorboard", reason="no tensorboard")
    config = make_config(logging=["tensorboard"], storage=str(tmp_path))

    def fail() -> None:
        with tracking_train(config, str(tmp_path / "0d0d0d0d"), "elsewhere/step-000001") as reported:
            reported(Report(2, {"eval/nll": 1.0}))
            raise MemoryError("no room for 3 GiB")

    with pytest.raises(MemoryError):
        fail()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard" / "s.train" / "run-0d0d0d0d"))
    events.Reload()
    [end] = events.Tensors("end/text_summary")
    assert end.tensor_proto.string_val[0].decode() == "failed: MemoryError: no room for 3 GiB"


def test_a_confirmation_has_a_run_for_each_of_its_trials(place):
    """The runs are made up, and watched as the command watches them."""
    words = ["study.trials=2", "study.known=[]", "logging=[tensorboard]", "space.train.seed={int: [0, 9]}"]
    config = load_config(place.file, words, "tiny.confirm").config
    study = open_study(place.store, config)
    with confirm._watching(study, config, quiet=True) as observer, study:
        while (ticket := study.next_trial()) is not None:
            observer.started(ticket.number, ticket.params, ticket.origin, 0, None)
            observer.reported(ticket.number, Report(6, {"eval/nll": float(ticket.number)}))
            study.report(ticket.number, Report(6, {"eval/nll": 1.0}))
            study.complete(ticket.number, {"eval/nll": 1.0})
            observer.ended(ticket.number, "complete", 1.0, "")
    found = tensorboard(place.file.parent / "runs", "tiny.confirm")
    assert found == {"trial-0000": [(6, 0.0)], "trial-0001": [(6, 1.0)]}
