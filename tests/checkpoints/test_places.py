"""Places for checkpoints: directories and object stores. The object store is moto's server on loopback."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fixtures.s3 import credentials, s3_server
from fixtures.waiting import instead_of_sleep

from rankray.checkpoints import places
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
    step = places.join(place, "trial-00001", "launch", "step-000010")
    places.upload(checkpoint(tmp_path / "here"), step)
    assert places.exists(step)
    assert places.names(places.join(place, "trial-00001")) == ["launch"]
    places.download(step, tmp_path / "there")
    assert (tmp_path / "there" / "model.safetensors").read_bytes() == b"x" * 100_000
    assert (tmp_path / "there" / "nested" / "empty").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_file_that_says_where_a_trial_stood_goes_last(place, tmp_path, monkeypatch):
    order = []
    copy = places._copy
    monkeypatch.setattr(places, "_copy", lambda *args: (order.append(args[3]), copy(*args)))
    places.upload(checkpoint(tmp_path / "here"), place)
    assert len(order) == 3
    assert order[-1].endswith("/rankray.json")


def test_what_is_deleted_is_gone_and_nothing_else(place, tmp_path):
    one, other = (places.join(place, name) for name in ("trial-00001", "trial-00010"))
    for each in (one, other):
        places.upload(checkpoint(tmp_path / Path(each.partition("?")[0]).name), each)
    places.delete(one)
    places.delete(one)
    assert not places.exists(one)
    assert places.exists(other)


def test_what_is_not_there_says_so(place, tmp_path):
    assert places.names(place) == []
    with pytest.raises(StorageError, match="cannot be written or read here"):
        places.download(place, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_store_that_fails_for_a_while_is_waited_for(place, tmp_path, monkeypatch):
    failures = [OSError("503 slow down"), OSError("503 slow down")]
    copy = places._copy

    def failing(*args):
        if failures:
            raise failures.pop()
        copy(*args)

    monkeypatch.setattr(places, "_copy", failing)
    instead_of_sleep(monkeypatch, lambda seconds: None)
    places.upload(checkpoint(tmp_path / "here"), place)
    assert failures == []
    assert "rankray.json" in places.names(place)
    failures.extend(OSError("503 slow down") for _ in range(100))
    monkeypatch.setattr(places, "PATIENCE_SECONDS", 0.0)
    with pytest.raises(StorageError, match="503 slow down; check the bucket's name"):
        places.upload(tmp_path / "here", place)


def test_probing_leaves_nothing(place, tmp_path):
    places.probe(place)
    places.probe(str(tmp_path / "runs"))
    assert [name for name in places.names(place) if "probe" in name] == []
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_place_that_cannot_be_written_is_told(options, tmp_path):
    with pytest.raises(StorageError, match=r"s3://nonesuch/runs.* cannot be written or read here: .*credentials"):
        places.probe(f"s3://nonesuch/runs?{options}")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="give a directory that this node may write"):
        places.probe(str(tmp_path / "file" / "runs"))


def test_places_below_places():
    assert places.join("s3://b/runs/?region=x", "s", "t") == "s3://b/runs/s/t?region=x"
    assert places.join("runs", "s") == "runs/s"
    assert places.absolute("s3://b/runs") == "s3://b/runs"
    assert places.absolute("runs") == str(Path("runs").absolute())


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
    assert places.is_parent(outer, inner) is held


@pytest.mark.parametrize(
    ("root", "place", "used"),
    [
        ("s3://b/runs/s?region=x", "s3://b/runs/s/t/l", "s3://b/runs/s/t/l?region=x"),
        (
            "s3://b/runs/s?endpoint_override=mine",
            "s3://b/runs/s/t?endpoint_override=evil",
            "s3://b/runs/s/t?endpoint_override=mine",
        ),
        ("s3://b/runs/s", "s3://b/runs/s2/t", None),
        ("s3://b/runs/s", "s3://b/runs/s/../o", None),
        ("s3://b/runs/s", "s3://b/runs/s//t", None),
        ("s3://b/runs/s", "s3://b/runs/s", None),
        ("s3://b/runs/s", "s3://other/runs/s/t", None),
        ("s3://b/runs/s", "gs://b/runs/s/t", None),
        ("s3://b/runs/s", "/runs/s/t", None),
        ("/runs/s", "/runs/s/t/l", "/runs/s/t/l"),
        ("/runs/s", "/runs/s/../t", None),
        ("/runs/s", "/runs/s/./t", None),
        ("/runs/s", "/runs/s/", None),
        ("/runs/s", "/runs/s", None),
        ("/runs/s", "/runs/s2/t", None),
        ("/", "/none/t", "/none/t"),
        ("/", "//none/t", None),
        ("/runs/s", "runs/s/t", None),
        ("/runs/s", "/runs/s/\0", None),
        ("/runs/../runs/s", "/runs/../runs/s/t", "/runs/../runs/s/t"),
    ],
)
def test_what_somebody_else_names_is_used_only_below(root, place, used):
    assert places.below(root, place) == used


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


def test_what_hinders_a_directory_is_said_and_nothing_is_left(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    before = sorted(tmp_path.iterdir())
    for given, says in {
        "new/runs": "",
        "file": f"{tmp_path}/file is no directory",
        "file/runs": f"{tmp_path}/file is no directory",
        "link/runs": f"{tmp_path}/link is a link to nothing",
        "x" * 300: f"nothing can be made in {tmp_path} (File name too long)",
    }.items():
        assert places.obstacle(str(tmp_path / given)) == says
    assert sorted(tmp_path.iterdir()) == before


def test_a_directory_that_takes_no_files_is_no_place_whatever_its_permissions_say():
    """To root, /proc may be written to; and so may a disk that is full, to everybody."""
    said = ("nothing can be made in /proc (", "/proc may not be written to")
    assert places.obstacle("/proc/rankray").startswith(said)


def test_a_full_disk_is_noticed(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("rankray.checkpoints.places.tempfile.TemporaryFile", full)
    assert places.obstacle(str(tmp_path / "runs")) == f"nothing can be made in {tmp_path} (No space left on device)"
