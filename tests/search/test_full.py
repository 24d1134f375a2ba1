"""Whole: a search whose storage is full, or fails, stops, blames no trial, and resumes once it is mended."""

import subprocess

import pytest
from fixtures.searches import PAUSE
from fixtures.waiting import ended, until

pytestmark = pytest.mark.slow
"""`test_scheduler` and `finetune/test_checkpoint` have the parts of this."""


@pytest.fixture
def small(tmp_path):
    """Yield a file system with room for at most two checkpoints, and what mounts it again with other options."""
    directory = tmp_path / "small"
    directory.mkdir()

    def mount(options):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, text=True
        )

    done = mount("size=64k")
    if done.returncode:
        pytest.skip(f"a file system of its own cannot be made here: {done.stderr.strip()}")
    yield directory, lambda options: mount(f"remount,{options}").returncode == 0
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_search_on_a_full_disk_stops_and_resumes_once_there_is_room(place, small):
    directory, remount = small
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
    assert remount("size=64m")
    place.search(*words)
    assert place.status()["budget"] == {"trials": 2, "finished": 2}
    assert place.status()["trials"]["failed"] == 0
    assert {each["attempts"] for each in place.trials().values()} == {1}


def test_a_search_on_a_disk_that_takes_no_more_files_stops_and_resumes_once_it_does(place, small):
    """As a file system that the kernel has set read-only, because its disk fails."""
    directory, remount = small
    assert remount("size=64m")
    words = ("--set", "study.trials=2", "--set", f"storage={directory}", "--set", "evaluate.functions=[pause:briefly]")
    (place.file.parent / "pause.py").write_text(PAUSE)
    search = place.begin(*words)
    until(lambda: len(place.recorded()) >= 1, search, log=place.log)
    until(lambda: remount("ro"), search, log=place.log)  # refused while a file is open for writing
    assert ended(search) == 1, place.log.read_text()
    log = place.log.read_text()
    [error] = [line for line in log.splitlines() if line.startswith("error:")]
    assert f"storage: {directory}" in error
    assert "then run the same command again to resume" in error
    assert "Traceback" not in log
    trials, before = place.status()["trials"], place.recorded()
    assert (trials["failed"], trials["running"]) == (0, 0)
    assert remount("rw")
    place.search(*words)
    assert place.status()["budget"] == {"trials": 2, "finished": 2}
    assert place.status()["trials"]["failed"] == 0
    assert {key: place.recorded()[key] for key in before} == before
