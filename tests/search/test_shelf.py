"""Which checkpoints are kept."""

from pathlib import Path

import pytest

from rankray.search.shelf import Shelf


@pytest.fixture
def shelf(tmp_path):
    return Shelf(str(tmp_path / "runs"), "study")


def make(shelf, number, step):
    path = Path(shelf.directory(number)) / f"step-{step:06d}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_text("x")
    return path


def test_a_newer_commit_frees_the_older(shelf):
    first, second = make(shelf, 3, 10), make(shelf, 3, 20)
    shelf.committed(3, str(first))
    assert first.exists()
    shelf.committed(3, str(second))
    assert not first.exists()
    assert second.exists()


def test_committing_twice_keeps_it(shelf):
    path = make(shelf, 3, 10)
    shelf.committed(3, str(path))
    shelf.committed(3, str(path))
    assert path.exists()


def test_the_checkpoint_gone_on_from_is_freed_after_the_next_commit(shelf, tmp_path):
    earlier = make(Shelf(str(tmp_path / "runs"), "study"), 3, 10)
    shelf.begin(3, str(earlier))
    assert earlier.exists()
    shelf.committed(3, str(make(shelf, 3, 20)))
    assert not earlier.exists()


@pytest.mark.parametrize(("state", "kept"), [("complete", True), ("lost", True), ("failed", True), ("pruned", False)])
def test_only_pruned_trials_leave_nothing(shelf, state, kept):
    path = make(shelf, 3, 10)
    shelf.committed(3, str(path))
    shelf.ended(3, state)
    assert path.exists() is kept


def test_nothing_outside_the_study_is_deleted(shelf, tmp_path):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shelf.begin(1, str(foreign))
    shelf.committed(1, str(make(shelf, 1, 10)))
    assert foreign.exists()


def test_launches_do_not_share_directories(tmp_path):
    one, two = Shelf(str(tmp_path), "s"), Shelf(str(tmp_path), "s")
    assert one.directory(1) != two.directory(1)
    assert Path(one.directory(1)).parent == Path(two.directory(1)).parent
