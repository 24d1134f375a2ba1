"""Searches whose checkpoints live in an S3 server on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fixtures.clusters import environment, ray_head
from fixtures.s3 import CREDENTIALS, SECRET, credentials, s3_server
from fixtures.searches import FILE, PAUSE, Place, kill
from fixtures.waiting import ended, until

from rankray.checkpoints import places, staging
from rankray.contracts import Outcome, Report, TrialSpec, Verdict
from rankray.errors import CheckpointDamaged, ConfigError, StorageError

SLOW = ("--set", "evaluate.functions=[pause:briefly]")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    pytest.importorskip("moto", reason="moto is not installed")
    with s3_server(tmp_path_factory.mktemp("s3")) as options, credentials():
        yield options


@pytest.fixture
def bucket(options, request, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "cache"))
    return f"s3://bucket/{request.node.name}?{options}"


def everything_below(directory: Path) -> list[tuple[Path, bytes]]:
    return [(path, path.read_bytes()) for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]


def server_of(bucket: str) -> psutil.Process:
    """Return the S3 server's process."""
    port = bucket.rpartition(":")[2]
    [found] = [
        process for process in psutil.process_iter(["cmdline"]) if (process.info["cmdline"] or ())[-2:] == ["-p", port]
    ]
    return found


def processes_with(cache: Path) -> list[int]:
    """Return the processes that were started with a cache directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("RANKRAY_CACHE") == str(cache):
                found.append(process.pid)
    return found


@pytest.mark.slow  # a trial that goes on from a bucket: below; a killed search: search/test_kills.py
def test_a_killed_search_resumes_from_the_bucket(world, bucket, tmp_path):
    file = tmp_path / "tiny.yaml"
    store = f"sqlite:///{tmp_path / 'store.db'}"
    text = FILE.format(root=world, store=store, place="DROPPED").replace("storage: DROPPED/runs", f"storage: {bucket}")
    file.write_text(text)
    (tmp_path / "pause.py").write_text(PAUSE)
    place = Place(file, store)
    words = (*SLOW, "--set", "study.pruner=none", "--set", "study.keep_best=1", "--set", "study.trials=2")
    search = place.begin(*words)
    until(lambda: len(place.recorded()) >= 1, search, log=place.log)
    kill(search)
    until(lambda: not processes_with(tmp_path / "cache"))  # a trial's process sees only then that its Ray is gone
    killed = set((tmp_path / "cache" / "scratch").glob("*/*"))
    before = place.recorded()
    place.search(*words)
    after = place.recorded()
    assert {key: after[key] for key in before} == before
    assert len(after) == 6
    best = json.loads(
        subprocess.run(
            [*place.command()[:3], "best", "tiny", "--store", store, "--json"], capture_output=True, check=True
        ).stdout
    )
    [study] = places.names(bucket)
    assert study.startswith("tiny-")
    root = places.join(bucket, study)
    assert places.names(root) == [f"trial-{best['number']:05d}"]
    assert best["checkpoint"].startswith(root.partition("?")[0])
    assert {"model.safetensors", "optimizer.pt", "rankray.json"} <= set(places.names(best["checkpoint"]))
    assert set((tmp_path / "cache" / "scratch").glob("*/*")) <= killed
    written = [path for path, content in everything_below(tmp_path) if SECRET.encode() in content]
    assert written == []


def test_train_writes_to_a_bucket_and_goes_on_from_it(world, bucket, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(FILE.format(root=world, store="sqlite:///unused.db", place=tmp_path))
    command = [sys.executable, "-m", "rankray", "train", str(file), "--json", "--set", f"storage={bucket}"]

    def train(*words: str) -> dict:
        done = subprocess.run([*command, *words], capture_output=True, text=True, env=os.environ | CREDENTIALS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    whole = train()
    assert places.names(places.join(bucket, "tiny", "train", "trial-00000")) != []
    again = train("--resume", whole["checkpoint"])
    assert again["metrics"] == whole["metrics"]
    assert again["checkpoint"] == whole["checkpoint"]


class Recorder:
    """A reporter that remembers, and can be asked to leave."""

    def __init__(self) -> None:
        self.reports: list[Report] = []

    def report(self, report: Report) -> Verdict:
        self.reports.append(report)
        return Verdict(stop=False)

    def preemption(self) -> str:
        return "asked"


def test_a_report_names_the_place_and_only_once_it_is_there(bucket, monkeypatch):
    recorder = Recorder()
    seen = []

    def run(spec, reporter):
        step = Path(spec.directory) / "step-000001"
        step.mkdir()
        (step / "rankray.json").write_text("{}")
        assert reporter.preemption() == "asked"
        assert not hasattr(reporter, "progress")
        reporter.keep(str(step))
        seen.append(step.exists())
        reporter.report(Report(1, {}, str(step)))
        return Outcome({}, 1, str(step))

    place = places.join(bucket, "trial-00000", "launch")
    outcome = staging.train(run, TrialSpec({}, place), recorder)
    wanted = places.join(place, "step-000001")
    assert [report.checkpoint for report in recorder.reports] == [wanted]
    assert outcome.checkpoint == wanted
    assert places.names(wanted) == ["rankray.json"]
    assert seen == [False]


def test_what_cannot_be_kept_is_not_reported(bucket, monkeypatch):
    recorder = Recorder()

    def run(spec, reporter):
        step = Path(spec.directory) / "step-000001"
        step.mkdir()
        (step / "rankray.json").write_text("{}")
        reporter.keep(str(step))
        reporter.report(Report(1, {}, str(step)))

    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(places.StorageError, match="nonesuch"):
        staging.train(run, TrialSpec({}, bucket.replace("bucket", "nonesuch", 1)), recorder)
    assert recorder.reports == []


def test_without_an_object_store_nothing_is_carried(monkeypatch, tmp_path):
    recorder = Recorder()
    spec = TrialSpec({}, str(tmp_path), checkpoint=str(tmp_path / "step"))
    assert staging.train(lambda spec, reporter: (spec, reporter), spec, recorder) == (spec, recorder)


def test_a_checkpoint_that_is_gone_from_the_bucket_is_damaged(bucket):
    """So the one before it is used, as on a disk; only a bucket that fails ends a search."""
    spec = TrialSpec(
        {}, places.join(bucket, "trial-00000"), checkpoint=places.join(bucket, "trial-00000", "step-000009")
    )
    with pytest.raises(CheckpointDamaged, match="is damaged: it is not there"):
        staging.train(lambda spec, reporter: Outcome({}, 1, None), spec, Recorder())


def test_a_node_that_has_no_room_of_its_own_is_named(bucket, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=rf"passes through {tmp_path}/file/scratch/.* set RANKRAY_CACHE to one"):
        staging.train(lambda spec, reporter: Outcome({}, 1, None), TrialSpec({}, bucket), Recorder())


def test_an_outage_of_the_bucket_is_waited_for_and_said(bucket, monkeypatch):
    recorder, tries, upload = Recorder(), [], places._copy

    def fails_twice(*words):
        tries.append(words)
        if len(tries) <= 2:
            raise OSError("curlCode: 7, Could not connect to server")
        upload(*words)

    def run(spec, reporter):
        step = Path(spec.directory) / "step-000001"
        step.mkdir()
        (step / "rankray.json").write_text("{}")
        reporter.keep(str(step))
        return Outcome({}, 1, str(step))

    monkeypatch.setattr(places, "_copy", fails_twice)
    monkeypatch.setattr(places, "LONGEST_PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("RANKRAY_STORAGE_PATIENCE_SECONDS", "50")
    lines: list[str] = []
    recorder.note = lines.append
    place = places.join(bucket, "trial-00000")
    assert staging.train(run, TrialSpec({}, place), recorder).checkpoint == places.join(place, "step-000001")
    assert places.names(places.join(place, "step-000001")) == ["rankray.json"]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"storage: {places.join(place, 'step-000001')} fails (curlCode: 7, Could not connect")
        assert "tried again for up to " in line


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_a_wrong_patience_is_refused(given, monkeypatch):
    monkeypatch.setenv("RANKRAY_STORAGE_PATIENCE_SECONDS", given)
    with pytest.raises(ConfigError, match="RANKRAY_STORAGE_PATIENCE_SECONDS: got"):
        places.patience_seconds()


@pytest.mark.slow  # the parts: above, and search/test_scheduler.py
def test_a_search_whose_bucket_is_away_stops_and_blames_no_trial_and_resumes(world, bucket, tmp_path, monkeypatch):
    file, store = tmp_path / "tiny.yaml", f"sqlite:///{tmp_path / 'store.db'}"
    text = FILE.format(root=world, store=store, place="DROPPED").replace("storage: DROPPED/runs", f"storage: {bucket}")
    file.write_text(text)
    (tmp_path / "pause.py").write_text(PAUSE)
    place = Place(file, store)
    words = (*SLOW, "--set", "study.pruner=none", "--set", "study.trials=2")
    server = server_of(bucket)
    monkeypatch.setenv("RANKRAY_STORAGE_PATIENCE_SECONDS", "1")
    search = place.begin(*words)
    until(lambda: len(place.recorded()) >= 1, search, log=place.log)
    server.suspend()
    try:
        assert ended(search) == 1, place.log.read_text()
    finally:
        server.resume()
    log = place.log.read_text()
    [error] = [line for line in log.splitlines() if line.startswith("error:")]
    assert f"storage: {bucket.partition('?')[0]}" in error
    assert "then run the same command again to resume" in error
    assert "Traceback" not in log
    trials, before = place.status()["trials"], place.recorded()
    assert (trials["failed"], trials["running"]) == (0, 0)
    place.search(*words)
    assert place.status()["budget"] == {"trials": 2, "finished": 2}
    assert place.status()["trials"]["failed"] == 0
    assert {key: place.recorded()[key] for key in before} == before


@pytest.mark.slow  # of one process: test_train_writes_to_a_bucket_and_goes_on_from_it
def test_workers_on_two_nodes_bring_what_is_theirs(world, bucket, tmp_path):
    """Two raylets stand for two machines; what each worker of a trial writes lies on its own node's disk."""
    file, store = tmp_path / "tiny.yaml", f"sqlite:///{tmp_path / 'store.db'}"
    text = FILE.format(root=world, store=store, place="DROPPED").replace("storage: DROPPED/runs", f"storage: {bucket}")
    file.write_text(text.replace("resources: {concurrency: 1}", "resources: {workers: 2}"))
    place = Place(file, store)
    (tmp_path / "pause.py").write_text(PAUSE)
    words = place.command(*SLOW, "--set", "study.pruner=none", "--set", "study.trials=1")
    cache = {
        "PYTHONPATH": str(tmp_path),
        "RANKRAY_CACHE": str(tmp_path / "cache"),
        "RANKRAY_LEASE_SECONDS": "5",
        **CREDENTIALS,
    }
    with ray_head("--num-cpus=1", "--include-dashboard=false", **cache) as head:
        head.add("--num-cpus=1", "--node-ip-address=127.0.0.2", **cache)
        own = environment(RAY_ADDRESS=head.address, **cache)
        with open(tmp_path / "log.txt", "wb") as log:
            driver = subprocess.Popen(words, stdout=log, stderr=log, env=own)
        until(lambda: len(place.recorded()) >= 1, driver, log=place.log)
        driver.kill()
        driver.wait()
        before = place.recorded()
        done = subprocess.run(words, env=own, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    after = place.recorded()
    assert {key: after[key] for key in before} == before
    assert sorted(step for _, step in after) == [2, 4, 6]
    best = place.trials()[0]["checkpoint"]
    assert {"model.safetensors", "rng_state_0.pth", "rng_state_1.pth", "rankray.json"} <= set(places.names(best))
    assert len(list((tmp_path / "cache" / "scratch").iterdir())) == 2
