"""Whole: a search whose storage is full stops, blames no trial, and resumes once there is room."""

import subprocess

import pytest

pytestmark = pytest.mark.slow
"""`test_scheduler` and `finetune/test_checkpoint` have the parts of this."""


@pytest.fixture
def small(tmp_path):
    """Yield a file system with room for at most two checkpoints, and what makes it larger."""
    directory = tmp_path / "small"
    directory.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True
        )

    done = mount("size=64k")
    if done.returncode:
        pytest.skip(f"a file system of its own cannot be made here: {done.stderr.strip()}")
    yield directory, lambda: mount("remount,size=64m").check_returncode()
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_search_on_a_full_disk_stops_and_resumes_once_there_is_room(place, small):
    directory, enlarge = small
    words = ("--set", "study.trials=2", "--set", f"storage={directory}")
    stopped = place.search(*words, expect=1)
    errors = [line for line in stopped.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, stopped.stdout + stopped.stderr
    [error] = errors
    assert f"storage: {directory}" in error
    assert "is full" in error
    assert "then run the same command again to resume" in error
    assert "Traceback" not in stopped.stdout + stopped.stderr
    trials = place.status()["trials"]
    assert (trials["failed"], trials["running"]) == (0, 0)
    assert trials["waiting"] > 0
    assert not [each for each in directory.rglob("*") if each.name.startswith(".")], "nothing half written is left"
    enlarge()
    place.search(*words)
    assert place.status()["budget"] == {"trials": 2, "finished": 2}
    assert place.status()["trials"]["failed"] == 0
    assert {each["attempts"] for each in place.trials().values()} == {1}
