"""Each tracker for real, in its own store: a run appears once, also after a kill and a resume."""

import json
import struct

import pytest

from rankray.contracts import Report
from rankray.report.tracking import TrackingObserver, make_trackers

NAN = float("nan")


def launch(name, directory, act, history=()):
    """Do what one driver sees; a report of the history may be lost with a driver that was killed."""
    said = []
    trackers = make_trackers([name], directory, said.append)
    watched = TrackingObserver("demo", "abcdef1234", trackers, history=lambda number: history)
    act(watched)
    watched.close()
    assert said == []


def first(watched):
    watched.started(0, {"loss.objective": "rri", "train.learning_rate": 1e-3}, "sampler", 0)
    watched.started(1, {"loss.objective": "sft"}, "baseline:sft", 0)
    watched.reported(0, Report(10, {"eval/nll": 2.0, "eval/pass@4": 0.5, "train/loss": NAN}))
    watched.reported(1, Report(10, {"eval/nll": 2.25}))
    watched.ended(1, "pruned", 2.25, "2.25 is behind")


HISTORY = [Report(5, {"eval/nll": 2.5}), Report(10, {"eval/nll": 2.0, "eval/pass@4": 0.5})]
"""What the store has of trial 0 when it is resumed: its first report never reached the tracker."""


def second(watched):
    watched.started(0, {"loss.objective": "rri", "train.learning_rate": 1e-3}, "sampler", 10, "checkpoint")
    watched.reported(0, Report(10, {"eval/nll": 2.0, "eval/pass@4": 0.5}))
    watched.reported(0, Report(20, {"eval/nll": 1.5, "eval/pass@4": 0.75}))
    watched.ended(0, "complete", 1.5, "")


@pytest.fixture
def twice(tmp_path):
    """Run both launches with a tracker."""

    def go(name):
        launch(name, tmp_path, first)
        launch(name, tmp_path, second, HISTORY)
        return tmp_path

    return go


def test_tensorboard(twice):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    directory = twice("tensorboard") / "tensorboard" / "demo"
    assert sorted(path.name for path in directory.iterdir()) == ["trial-0000", "trial-0001"]
    events = module.EventAccumulator(str(directory / "trial-0000"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("eval/nll")] == [(5, 2.5), (10, 2.0), (20, 1.5)]
    assert "train/loss" not in events.Tags()["scalars"]
    text = events.Tensors("end/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert text == "complete"


def test_mlflow(twice):
    mlflow = pytest.importorskip("mlflow", reason="no mlflow")
    directory = twice("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{directory}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("demo").experiment_id])
    by_name = {run.info.run_name: run for run in runs}
    assert len(runs) == len(by_name) == 2
    best, pruned = by_name["trial-0000"], by_name["trial-0001"]
    assert best.info.status == "FINISHED"
    assert best.data.params == {"loss.objective": "rri", "train.learning_rate": "0.001"}
    history = client.get_metric_history(best.info.run_id, "eval/nll")
    assert sorted((each.step, each.value) for each in history) == [(5, 2.5), (10, 2.0), (20, 1.5)]
    assert client.get_metric_history(best.info.run_id, "eval/pass_at_4")[-1].value == 0.75
    assert (pruned.info.status, pruned.data.tags["state"]) == ("KILLED", "pruned")
    assert pruned.data.tags["reason"] == "2.25 is behind"


def wandb_records(file):
    """Yield the records of an offline run: blocks of 32 KiB, each part with checksum, length and kind before it."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb(twice, monkeypatch):
    library = pytest.importorskip("wandb", reason="no wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    runs, history = [], {}
    directory = twice("wandb")
    library.teardown()  # waits, like a process's end; after `finish` W&B's service may not have written the file yet
    for file in sorted(directory.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                runs.append((record.run.run_id, record.run.run_group, record.run.display_name))
            if record.WhichOneof("record_type") == "history" and runs[-1][0].endswith("-0"):
                found = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                history[json.loads(found["_step"])] = json.loads(found["eval/nll"])
    wanted = {("demo-abcdef12-0", "demo", "trial-0000"), ("demo-abcdef12-1", "demo", "trial-0001")}
    assert set(runs) == wanted, "one run per trial, whatever number of files"
    assert sorted(history.items()) == [(5, 2.5), (10, 2.0), (20, 1.5)]


def test_trackio(tmp_path):
    """In a process of its own: trackio reads where its database is when it is imported."""
    import os
    import sqlite3
    import subprocess
    import sys
    from pathlib import Path

    pytest.importorskip("trackio", reason="no trackio")
    code = (
        "from pathlib import Path; from report.test_trackers import *\n"
        f"place = Path({str(tmp_path)!r})\n"
        "launch('trackio', place, first); launch('trackio', place, second, HISTORY)"
    )
    tests = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([tests, *filter(None, sys.path)])
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "trackio" / "demo.db") as database:
        runs = database.execute("select distinct run_id, run_name from metrics order by run_name").fetchall()
        rows = database.execute(
            "select step, metrics from metrics where run_name = 'trial-0000' order by id"
        ).fetchall()
    assert [name for _, name in runs] == ["trial-0000", "trial-0001"]
    curve = [(step, json.loads(each)["eval/nll"]) for step, each in rows if "eval/nll" in json.loads(each)]
    assert sorted(curve) == [(5, 2.5), (10, 2.0), (20, 1.5)]
