"""Which checkpoints are kept."""

import threading
import time
from pathlib import Path

import pytest
from fixtures.waiting import until

from rankray.checkpoints.retention import MARK, CheckpointRetention, directory_of
from rankray.errors import StorageError


@pytest.fixture
def retention(tmp_path):
    return CheckpointRetention(str(tmp_path / "runs"), "study")


def make(retention, number, step):
    path = Path(retention.directory(number)) / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("x")
    return path


def test_a_newer_commit_frees_the_one_before_the_last(retention):
    """The last one may turn out to be damaged; then the one before it is resumed from."""
    first, second, third = (make(retention, 3, step) for step in (10, 20, 30))
    retention.committed(3, str(first))
    retention.committed(3, str(second))
    assert first.exists()
    retention.committed(3, str(third))
    assert not first.exists()
    assert second.exists()
    assert third.exists()


def test_a_complete_trial_keeps_its_last_checkpoint_alone(retention, tmp_path):
    earlier = make(CheckpointRetention(str(tmp_path / "runs"), "study"), 3, 10)
    before, last, pending = (make(retention, 3, step) for step in (20, 30, 40))
    retention.begin(3, str(earlier))
    retention.committed(3, str(before))
    retention.committed(3, str(last))
    retention.ended(3, complete=True)
    assert [path.exists() for path in (earlier, before, last)] == [False, False, True]
    assert pending.exists(), "one that is not committed yet is not judged"


def test_committing_twice_keeps_it(retention):
    path = make(retention, 3, 10)
    retention.committed(3, str(path))
    retention.committed(3, str(path))
    assert path.exists()
    later = make(retention, 3, 20)
    retention.committed(3, str(later))
    assert path.exists(), "it is the one before the last, and counts once"


def test_the_checkpoint_resumed_from_is_freed_after_the_next_commit(retention, tmp_path):
    earlier = make(CheckpointRetention(str(tmp_path / "runs"), "study"), 3, 10)
    retention.begin(3, str(earlier))
    assert earlier.exists()
    retention.committed(3, str(make(retention, 3, 20)))
    retention.committed(3, str(make(retention, 3, 30)))
    assert not earlier.exists()


def test_ended_trials_that_are_not_kept_leave_nothing(retention):
    paths = [make(retention, number, 10) for number in range(4)]
    other = CheckpointRetention(str(Path(retention.root).parent), "study")
    make(other, 1, 20)
    foreign = Path(retention.root) / "trial-notes"
    foreign.mkdir()
    for driver in (retention, other):
        driver.tidy(ended={0, 1, 2}, kept={2})
        assert [path.exists() for path in paths] == [False, False, True, True]
    assert sorted(path.name for path in Path(retention.root).iterdir()) == ["trial-00002", "trial-00003", "trial-notes"]
    CheckpointRetention(str(Path(retention.root).parent), "nothing-yet").tidy({0}, set())


def test_a_trial_that_is_resumed_elsewhere_keeps_its_checkpoint(retention):
    path = make(retention, 3, 10)
    retention.committed(3, str(path))
    retention.ended(3)
    assert path.exists()


def test_nothing_outside_the_study_is_deleted(retention, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    retention.begin(1, str(foreign))
    for step in (10, 20, 30):
        retention.committed(1, str(make(retention, 1, step)))
    assert foreign.exists()


@pytest.mark.parametrize("way", ["../../foreign", "link/inside"])
def test_no_path_leads_out_of_the_study(retention, tmp_path, way):
    foreign = tmp_path / "foreign" / "inside"
    foreign.mkdir(parents=True)
    (foreign.parent / "kept.txt").write_text("x")
    make(retention, 1, 10)
    (Path(retention.root) / "link").symlink_to(foreign.parent)
    (Path(retention.root) / "trial-00002").symlink_to(foreign.parent)
    retention.begin(1, str(Path(retention.root) / way))
    for step in (20, 30, 40):
        retention.committed(1, str(make(retention, 1, step)))
    retention.tidy(ended={2}, kept=set())
    assert retention.usable([str(Path(retention.root) / way)]) is None
    with pytest.raises(StorageError, match=r"trial-00002/.* is, or lies in, a link"):
        retention.directory(2)
    assert foreign.exists()
    assert (foreign.parent / "kept.txt").exists()


def test_launches_do_not_share_directories(tmp_path):
    one, two = CheckpointRetention(str(tmp_path), "s"), CheckpointRetention(str(tmp_path), "s")
    assert one.directory(1) != two.directory(1)
    assert Path(one.directory(1)).parent == Path(two.directory(1)).parent


def test_two_studies_of_one_name_never_share_a_directory(tmp_path):
    """One from another store, or created again: what the first has left is not the second's to delete."""
    first, second = CheckpointRetention(str(tmp_path), "s", "1" * 32), CheckpointRetention(str(tmp_path), "s", "2" * 32)
    theirs, ours = make(first, 0, 10), make(second, 0, 10)
    second.tidy(ended={0}, kept=set())
    assert (theirs.exists(), ours.exists()) == (True, False)
    assert CheckpointRetention(str(tmp_path), "s", "1" * 32).root == first.root == str(tmp_path / "s")
    assert CheckpointRetention(str(tmp_path), "s", "2" * 32).root == second.root == str(tmp_path / "s-22222222")
    assert [path.name for path in Path(first.root).glob("*study*")] == ["study.id"]


def test_a_copy_resumes_from_the_original_and_deletes_nothing_of_it(tmp_path):
    original = CheckpointRetention(str(tmp_path), "s", "1" * 32)
    there = [str(make(original, number, 10)) for number in range(3)]
    copied = CheckpointRetention(str(tmp_path), "s", "2" * 32, copied=True)
    stranger = str(make(CheckpointRetention(str(tmp_path), "other", "3" * 32), 0, 10))
    assert copied.usable([there[0]]) == there[0]
    assert copied.usable([stranger, str(tmp_path / "s" / "x"), f"{tmp_path}/s/../other/trial-00000"]) is None
    copied.begin(0, there[0])
    own, *later = (str(make(copied, 0, step)) for step in (20, 30, 40))
    for place in (own, *later):
        copied.committed(0, place)
    copied.ended(0, complete=True)
    copied.tidy({0, 1, 2}, set())
    assert all(Path(place).is_dir() for place in there)
    assert not Path(own).exists()
    assert CheckpointRetention(str(tmp_path), "s", "4" * 32).usable([there[0]]) is None, "another study is no copy"
    elsewhere = "/".join(["", "elsewhere", *Path(there[0]).parts[-4:]])
    assert copied.usable([elsewhere]) is None, "it lies below another storage"


def test_where_a_study_keeps_its_checkpoints_is_known_without_marking_anything(tmp_path):
    assert directory_of(str(tmp_path), "s", "1" * 32) is None
    assert list(tmp_path.iterdir()) == []
    first, second = CheckpointRetention(str(tmp_path), "s", "1" * 32), CheckpointRetention(str(tmp_path), "s", "2" * 32)
    for identity, root in (("1", first.root), ("2", None), ("3", None)):
        assert directory_of(str(tmp_path), "s", identity * 32) == root
    make(second, 0, 10)
    assert directory_of(str(tmp_path), "s", "2" * 32) == second.root
    assert directory_of("s3://bucket/x", "s", "1" * 32) == "s3://bucket/x/s-11111111"


def test_a_directory_of_an_earlier_version_is_used_as_it_is(tmp_path):
    before = make(CheckpointRetention(str(tmp_path), "s"), 0, 10)
    retention = CheckpointRetention(str(tmp_path), "s", "1" * 32)
    assert Path(retention.root) in before.parents


@pytest.mark.parametrize("identity", ["/../../.", "../../../../tmp", "1" * 31, "1" * 33, "G" * 32, "1" * 32 + "\n"])
def test_an_identity_that_is_none_makes_no_directory(tmp_path, identity):
    with pytest.raises(StorageError, match=r"its stored identity .* is none"):
        CheckpointRetention(str(tmp_path / "runs"), "s", identity)
    assert not (tmp_path / "runs").exists()


def test_a_study_directory_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "s").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match=r"runs/s is, or lies in, a link"):
        CheckpointRetention(str(tmp_path / "runs"), "s", "1" * 32)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_storage_that_is_a_link_is_the_user_s_own(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "runs").symlink_to(tmp_path / "large")
    path = make(CheckpointRetention(str(tmp_path / "runs"), "s", "1" * 32), 3, 10)
    again = CheckpointRetention(str(tmp_path / "runs"), "s", "1" * 32)
    assert again.usable([str(path)]) == str(path)
    assert again.usable([str(path.resolve())]) == str(path)


def test_what_is_resumed_from_is_the_latest_checkpoint_of_this_study(retention, tmp_path):
    good, foreign = make(retention, 3, 10), tmp_path / "other" / "trial-00003" / ("a" * 8) / "step-000020"
    foreign.mkdir(parents=True)
    assert retention.usable([]) is None
    assert retention.usable([str(foreign)]) is None
    assert retention.usable([str(foreign), "relative", "s3://b/x", str(good) + "/../../..", str(good)]) == str(good)


def test_a_storage_that_was_moved_is_resumed_from(tmp_path):
    path = make(CheckpointRetention(str(tmp_path / "runs"), "s", "1" * 32), 3, 10)
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = CheckpointRetention(str(tmp_path / "moved"), "s", "1" * 32)
    assert moved.usable([str(path)]) == str(path).replace("/runs/", "/moved/")
    assert moved.usable([str(path).replace("step-000010", "step-000020")]) is None


@pytest.mark.parametrize("spoil", ["file", "binary", "directory"])
def test_a_directory_that_cannot_be_a_study_s_is_refused_in_one_line(tmp_path: Path, spoil: str) -> None:
    study = tmp_path / "s"
    if spoil == "file":
        study.touch()
    else:
        study.mkdir()
        (study / MARK).write_bytes(b"\xff\xfe") if spoil == "binary" else (study / MARK).mkdir()
    with pytest.raises(StorageError, match=rf"storage: {study} cannot be written or read here: .*; give a directory"):
        CheckpointRetention(str(tmp_path), "s", "0" * 32)
    if spoil == "binary":
        with pytest.raises(StorageError):
            directory_of(str(tmp_path), "s", "0" * 32)


def test_what_cannot_be_tidied_ends_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another driver deletes the same at the same moment, or a file server does not answer."""
    kept = CheckpointRetention(str(tmp_path), "s", "0" * 32)
    kept.begin(0, kept.directory(0) + "/step-000010")

    def gone(place: str) -> list[str]:
        raise FileNotFoundError(place)

    with monkeypatch.context() as race:
        race.setattr("rankray.checkpoints.places.names", gone)
        kept.ended(0, complete=True)
        kept.tidy({0}, set())


def test_deletions_in_a_bucket_that_does_not_answer_are_given_up_at_the_end(monkeypatch):
    """A hundred of them would keep a search from saying why it ended for hours."""
    answers, deleted = threading.Event(), []

    def delete(place):
        deleted.append(place)
        answers.wait(600)

    monkeypatch.setattr("rankray.checkpoints.places.delete", delete)
    monkeypatch.setattr("rankray.checkpoints.retention.STUCK_SECONDS", 0.2)
    with CheckpointRetention("s3://bucket/runs", "s", "1" * 32) as retention:
        root = retention.root
        for step in range(10, 60, 10):
            retention.committed(3, f"{root}/trial-00003/{'a' * 8}/step-{step:06d}")
        until(lambda: bool(deleted))
    answers.set()
    assert deleted == [f"{root}/trial-00003/{'a' * 8}/step-000010"]


def test_deletions_in_a_bucket_are_waited_for_at_the_end(monkeypatch):
    deleted = []
    monkeypatch.setattr("rankray.checkpoints.places.delete", lambda place: (time.sleep(0.02), deleted.append(place)))
    with CheckpointRetention("s3://bucket/runs", "s", "1" * 32) as retention:
        for step in range(10, 60, 10):
            retention.committed(3, f"{retention.root}/trial-00003/{'a' * 8}/step-{step:06d}")
    assert [place[-2:] for place in deleted] == ["10", "20", "30"]
