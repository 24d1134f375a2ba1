"""Places for checkpoints: directories and object stores. The object store is moto's server on loopback."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3 import credentials, s3_server

from rankray import storage
from rankray.config import Config
from rankray.errors import StorageError

CONFIG = {"name": "s", "model": {"path": "m"}, "data": {"train": "t.jsonl", "eval": "e.jsonl"}}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    pytest.importorskip("moto", reason="moto is not installed")
    with s3_server(tmp_path_factory.mktemp("s3")) as options, credentials():
        yield options


@pytest.fixture
def place(options, request):
    return f"s3://bucket/{request.node.name}?{options}"


def checkpoint(directory: Path) -> Path:
    (directory / "nested").mkdir(parents=True)
    (directory / "rankray.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"x" * 100_000)
    (directory / "nested" / "empty").write_bytes(b"")
    return directory


def test_what_goes_up_comes_down(place, tmp_path):
    step = storage.inside(place, "trial-00001", "launch", "step-000010")
    storage.upload(checkpoint(tmp_path / "here"), step)
    assert storage.exists(step)
    assert storage.names(storage.inside(place, "trial-00001")) == ["launch"]
    storage.download(step, tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"x" * 100_000
    assert (tmp_path / "there" / "nested" / "empty").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_file_that_says_where_a_trial_stood_goes_last(place, tmp_path, monkeypatch):
    order = []
    copy = storage._copy
    monkeypatch.setattr(storage, "_copy", lambda *args: (order.append(args[3]), copy(*args)))
    storage.upload(checkpoint(tmp_path / "here"), place)
    assert len(order) == 3
    assert order[-1].endswith("/rankray.json")


def test_what_is_deleted_is_gone_and_nothing_else(place, tmp_path):
    one, other = (storage.inside(place, name) for name in ("trial-00001", "trial-00010"))
    for each in (one, other):
        storage.upload(checkpoint(tmp_path / Path(each.partition("?")[0]).name), each)
    storage.delete(one)
    storage.delete(one)
    assert not storage.exists(one)
    assert storage.exists(other)


def test_what_is_not_there_says_so(place, tmp_path):
    assert storage.names(place) == []
    with pytest.raises(StorageError, match="cannot be written or read here"):
        storage.download(place, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_store_that_fails_for_a_while_is_waited_for(place, tmp_path, monkeypatch):
    failures = [OSError("503 slow down"), OSError("503 slow down")]
    copy = storage._copy

    def failing(*args):
        if failures:
            raise failures.pop()
        copy(*args)

    monkeypatch.setattr(storage, "_copy", failing)
    monkeypatch.setattr(storage.time, "sleep", lambda seconds: None)
    storage.upload(checkpoint(tmp_path / "here"), place)
    assert failures == []
    assert "rankray.json" in storage.names(place)
    failures.extend(OSError("503 slow down") for _ in range(100))
    monkeypatch.setattr(storage, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(StorageError, match="503 slow down; check the bucket's name"):
        storage.upload(tmp_path / "here", place)


def test_probing_leaves_nothing(place, tmp_path):
    storage.probe(place)
    storage.probe(str(tmp_path / "runs"))
    assert [name for name in storage.names(place) if "probe" in name] == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(options, tmp_path):
    with pytest.raises(StorageError, match=r"s3://nonesuch/runs.* cannot be written or read here: .*credentials"):
        storage.probe(f"s3://nonesuch/runs?{options}")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="give a directory that this node may write"):
        storage.probe(str(tmp_path / "file" / "runs"))


def test_places_below_places():
    assert storage.inside("s3://b/runs/?region=x", "s", "t") == "s3://b/runs/s/t?region=x"
    assert storage.inside("runs", "s") == "runs/s"
    assert storage.absolute("s3://b/runs") == "s3://b/runs"
    assert storage.absolute("runs") == str(Path("runs").absolute())


@pytest.mark.parametrize(
    ("outer", "inner", "held"),
    [
        ("s3://b/runs/s", "s3://b/runs/s/trial-1", True),
        ("s3://b/runs/s?region=x", "s3://b/runs/s/trial-1?region=y", True),
        ("s3://b/runs/s", "s3://b/runs/s2/trial-1", False),
        ("s3://b/runs/s", "s3://b/runs/s", False),
        ("s3://b/runs/s", "s3://b/runs/s/../other", False),
        ("s3://b/runs/s", "s3://other/runs/s/trial-1", False),
        ("s3://b/runs/s", "gs://b/runs/s/trial-1", False),
        ("s3://b/runs/s", "/runs/s/trial-1", False),
    ],
)
def test_what_lies_below(outer, inner, held):
    assert storage.holds(outer, inner) is held


@pytest.mark.parametrize("given", ["s3://b/runs", "gs://b/runs?project_id=p", "abfss://c@account/runs", "./runs", "/r"])
def test_places_that_are_allowed(given):
    assert Config.model_validate(CONFIG | {"storage": given}).storage == given


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("s3://key:secret@b/runs", "without credentials"),
        ("s3://key@b/runs", "without credentials"),
        ("abfss://c:secret@account/runs", "without credentials"),
        ("s3:///runs", "scheme://bucket/prefix"),
        ("http://b/runs", "got http://; allowed: a directory, s3://"),
        ("s3://b/runs?secret_key=x", "unknown option 'secret_key'; allowed: region"),
    ],
)
def test_places_that_are_refused(given, said):
    with pytest.raises(ValueError, match=said) as refused:
        Config.model_validate(CONFIG | {"storage": given})
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["..", "../other", "a/../../b", "/etc", "a/b", ".hidden", "a\n", "a\x00b", "", "é"])
def test_the_name_of_a_study_cannot_leave_its_directory(name):
    with pytest.raises(ValueError, match="name"):
        Config.model_validate(CONFIG | {"name": name})
