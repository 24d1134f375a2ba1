"""Which checkpoints are kept."""

from pathlib import Path

import pytest

from rankray.checkpoints.retention import CheckpointRetention


@pytest.fixture
def retention(tmp_path):
    return CheckpointRetention(str(tmp_path / "runs"), "study")


def make(retention, number, step):
    path = Path(retention.directory(number)) / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("x")
    return path


def test_a_newer_commit_frees_the_older(retention):
    first, second = make(retention, 3, 10), make(retention, 3, 20)
    retention.committed(3, str(first))
    assert first.exists()
    retention.committed(3, str(second))
    assert not first.exists()
    assert second.exists()


def test_committing_twice_keeps_it(retention):
    path = make(retention, 3, 10)
    retention.committed(3, str(path))
    retention.committed(3, str(path))
    assert path.exists()


def test_the_checkpoint_resumed_from_is_freed_after_the_next_commit(retention, tmp_path):
    earlier = make(CheckpointRetention(str(tmp_path / "runs"), "study"), 3, 10)
    retention.begin(3, str(earlier))
    assert earlier.exists()
    retention.committed(3, str(make(retention, 3, 20)))
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
    retention.committed(1, str(make(retention, 1, 10)))
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
    retention.committed(1, str(make(retention, 1, 20)))
    retention.tidy(ended={2}, kept=set())
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


def test_a_directory_of_an_earlier_version_is_used_as_it_is(tmp_path):
    before = make(CheckpointRetention(str(tmp_path), "s"), 0, 10)
    retention = CheckpointRetention(str(tmp_path), "s", "1" * 32)
    assert Path(retention.root) in before.parents
