"""Searches as Ray jobs, and what `doctor` says of the cluster they run on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures.clusters import TOKEN, environment, ray_head
from fixtures.searches import FILE, Place, modules_and
from fixtures.waiting import until

from rankray.cluster import jobs
from rankray.config import load_config
from rankray.errors import ConfigError, StorageError, StoreError, SubmitError

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
name: far
model: {path: model}
data: {train: t.jsonl, eval: e.jsonl}
storage: s3://bucket/runs
"""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    monkeypatch.delenv("RANKRAY_STORE", raising=False)

    def load(text: str = TEXT, *sets: str):
        (tmp_path / "far.yaml").write_text(text)
        return load_config(tmp_path / "far.yaml", sets)

    return load


def test_a_job_ships_its_directory_and_takes_the_heads_store(loaded, tmp_path):
    (tmp_path / "constraints.txt").write_text("torch==2.9\n")
    job = jobs.describe(loaded(), tmp_path, sets=["study.trials=3"], name="other", packages=["./rankray"])
    assert job.entrypoint.endswith("exec python -m rankray search far.yaml --set study.trials=3 --name other")
    assert ". ~/.rankray.env" in job.entrypoint
    assert job.runtime_env["working_dir"] == str(tmp_path)
    assert ".git" in job.runtime_env["excludes"]
    assert job.runtime_env["pip"] == {
        "packages": ["./rankray"],
        "pip_install_options": ["--constraint", "${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"],
    }


def test_words_with_spaces_stay_words(loaded, tmp_path):
    job = jobs.describe(loaded(), tmp_path, sets=["data.prompt='{q}; rm -rf ~'"], store="postgresql://db/x")
    assert job.entrypoint.endswith("--store postgresql://db/x")
    assert subprocess.run(
        ["bash", "-c", job.entrypoint.replace("exec python", "printf '%s\\n'")], capture_output=True, text=True
    ).stdout.splitlines()[4:6] == ["--set", "data.prompt='{q}; rm -rf ~'"]


@pytest.mark.parametrize(
    ("text", "store", "error", "said"),
    [
        (TEXT, "postgresql://me:secret@db/x", StoreError, r"holds a password.*\.rankray\.env"),
        (TEXT + "store: mysql://me:secret@db/x\n", "", StoreError, "holds a password"),
        (TEXT + "store: sqlite:///rankray.db\n", "", StoreError, "does not last"),
        (TEXT + "store: journal:///rankray.log\n", "", StoreError, "does not last"),
        (TEXT, "journal:///rankray.log", StoreError, "does not last"),
        (TEXT.replace("s3://bucket/runs", "./runs"), "", StorageError, "does not last"),
    ],
)
def test_what_would_be_lost_or_seen_is_refused(loaded, tmp_path, text, store, error, said):
    with pytest.raises(error, match=said) as refused:
        jobs.describe(loaded(text), tmp_path, store=store)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("store", ["sqlite:////data/s.db", "sqlite:///~/s.db", "journal:////data/s.log", "grpc://h:1"])
def test_a_store_that_lasts_is_taken(loaded, tmp_path, store):
    assert store in jobs.describe(loaded(TEXT), tmp_path, store=store).entrypoint


def test_a_file_outside_what_is_uploaded_is_refused(loaded, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match=r"lies outside .*elsewhere"):
        jobs.describe(loaded(), tmp_path / "elsewhere")


def test_without_a_token_nothing_is_submitted(monkeypatch, tmp_path):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SubmitError, match=r"has no token for the cluster; .*RAY_AUTH_MODE=disabled"):
        jobs.require_token()
    with pytest.raises(SubmitError, match=r"127\.0\.0\.1:1 does not answer .*tunnel"):
        jobs.refuse_open_cluster("http://127.0.0.1:1")


def run(*words: str, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rankray", *words],
        cwd=cwd, env=environment(PYTHONPATH=str(ROOT), **more), capture_output=True, text=True,
    )  # fmt: skip


def test_a_search_is_submitted_followed_and_examined(world, tmp_path):
    """One head serves for several questions, as it takes seconds to start."""
    for needed in ("aiohttp", "aiohttp_cors", "opencensus", "prometheus_client"):
        pytest.importorskip(needed, reason="a head takes no jobs without the extra rankray[cluster]")
    store, shipped = f"sqlite:///{tmp_path}/store.db", tmp_path / "shipped"
    shipped.mkdir()
    for name in ("model", "sums.jsonl"):
        (shipped / name).symlink_to(world / name)
    text = FILE.format(root=".", store="DROPPED", place=tmp_path).replace("store: DROPPED\n", "")
    (shipped / "tiny.yaml").write_text(text)
    home = tmp_path / "home"
    home.mkdir()
    (home / ".rankray.env").write_text(f"RANKRAY_STORE={store}\n")
    place = Place(shipped / "tiny.yaml", store)
    with ray_head("--num-cpus=1", "--include-dashboard=true", HOME=str(home), PYTHONPATH=str(ROOT)) as head:
        wrong = run("submit", "tiny.yaml", "--address", head.dashboard, cwd=shipped, RAY_AUTH_TOKEN="f" * 32)
        assert wrong.returncode == 2, wrong.stderr
        wrong = run("search", "tiny.yaml", cwd=shipped, RAY_ADDRESS=head.address, RAY_AUTH_TOKEN="f" * 32)
        assert wrong.returncode == 2, wrong.stderr
        assert "the cluster refuses our token" in wrong.stderr
        assert "Traceback" not in wrong.stderr
        done = run("submit", "tiny.yaml", "--address", head.dashboard, "--set", "study.trials=2", cwd=shipped)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "best: eval/nll" in done.stdout
        assert place.status()["budget"] == {"trials": 2, "finished": 2}
        assert TOKEN not in done.stdout + done.stderr
        more = ["--set", "study.trials=3", "--detach"]
        done = run("submit", "tiny.yaml", "--address", head.dashboard, *more, cwd=shipped)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ray job logs --follow" in done.stdout
        sound = run("doctor", "tiny.yaml", "--store", store, cwd=shipped, RAY_ADDRESS=head.address)
        assert sound.returncode == 0, sound.stdout + sound.stderr
        for line in (
            "versions:",
            "gpus: 0",
            "cluster: 1 nodes",
            "auth: token",
            "holds 1 studies",
            "from 1 nodes",
            "clocks:",
        ):
            assert line in sound.stdout
        sick = ["doctor", "tiny.yaml", "--store", "postgresql://127.0.0.1:1/x", "--set", "storage=/dev/null/runs"]
        ill = run(*sick, cwd=shipped, RAY_ADDRESS=head.address)
        assert ill.returncode == 1, ill.stdout + ill.stderr
        assert [line.split(":")[0] for line in ill.stdout.splitlines() if line.startswith("FIX")] == [
            "FIX  store",
            "FIX  storage",
        ]


@pytest.mark.slow  # kills of a search with its own Ray: search/test_kills.py
def test_a_new_cluster_continues_with_the_same_store(place, gate, modules):
    """Head, workers and driver die together, as when the head's machine does; the same command continues elsewhere."""
    words = place.command("--set", "study.trials=2", "--set", "study.pruner=none", *gate.words)
    own = environment(PYTHONPATH=modules_and(ROOT, modules), RANKRAY_LEASE_SECONDS="5")
    with ray_head("--num-cpus=1", "--include-dashboard=false", PYTHONPATH=own["PYTHONPATH"]) as first:
        with open(place.log, "wb") as log:
            driver = subprocess.Popen(words, stdout=log, stderr=log, env=own | {"RAY_ADDRESS": first.address})
        until(lambda: gate.node(1), driver, log=place.log)
        gate.let_pass(1)
        until(lambda: gate.node(2), driver, log=place.log)
        first.kill()
        driver.kill()
        driver.wait()
    before = place.recorded()
    assert list(before) == [(0, 2)], "the death comes between two checkpoints"
    gate.open()
    with ray_head("--num-cpus=1", "--include-dashboard=false", PYTHONPATH=own["PYTHONPATH"]) as second:
        done = subprocess.run(words, env=own | {"RAY_ADDRESS": second.address}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = place.recorded()
    assert {key: after[key] for key in before} == before
    assert len(after) == 6
    assert json.loads(json.dumps(place.status()["trials"]))["running"] == 0
