"""Standard output that is closed, full, read by nobody, or of an encoding that lacks characters."""

import errno
import os
import subprocess
import sys

import pytest
from store.helpers import drive, make_config

from rankray.cli import app, output
from rankray.errors import UserError
from rankray.store import open_study

FOREIGN = "日本.jsonl"


@pytest.fixture
def foreign_url(tmp_path):
    """A store with a study whose settings have characters that few encodings have."""
    url = f"sqlite:///{tmp_path}/foreign.db"
    space = {"data.train": {"choice": [FOREIGN]}, "train.learning_rate": {"float": [1e-6, 1e-3]}}
    drive(open_study(url, make_config(study={"trials": 1, "pruner": "none"}, space=space)))
    return url


def ran(*words, shell="", **environment):
    """Run a command as a process of its own, with redirections as a shell writes them."""
    command = [sys.executable, "-m", "rankray", *words]
    if shell:
        command = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    return subprocess.run(command, capture_output=True, env=os.environ | environment)


def test_a_character_that_the_encoding_lacks_is_written_as_its_number(foreign_url):
    done = ran("show", "s", "0", "--store", foreign_url, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u65e5\\u672c.jsonl" in done.stdout


def test_what_is_a_file_is_utf_8_whatever_the_encoding(foreign_url):
    done = ran("best", "s", "--yaml", "--store", foreign_url, PYTHONIOENCODING="ascii")
    assert FOREIGN in done.stdout.decode("utf-8")


@pytest.mark.parametrize("shell", [">&-", "<&- >&- 2>&-"])
def test_a_closed_output_is_no_error(url, shell):
    done = ran("status", "s", "--store", url, shell=shell)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [("status", "s"), ("status", "s", "--json"), ("report", "s", "-o", "-")])
def test_an_output_that_takes_nothing_is_an_error_of_one_line(url, words):
    done = ran(*words, "--store", url, shell=">/dev/full")
    assert done.returncode == 2
    assert done.stderr.decode().splitlines() == [
        "error: standard output: cannot be written (No space left on device); allowed: a file or a program that takes "
        "it; free some space, or choose another"
    ]


@pytest.mark.parametrize("survivor", ["the search", ""])
def test_what_trains_continues_without_a_reader_and_says_so_once(survivor, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    stream = output.Output(open(writer, "wb"), encoding="utf-8", write_through=True)  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", stream)
    if not survivor:
        with pytest.raises(BrokenPipeError):
            print("a line", flush=True)
        return
    output.continues(survivor)
    for _ in range(3):
        print("a line", flush=True)
    [line] = capsys.readouterr().err.splitlines()
    assert line == "standard output: cannot be written (Broken pipe); the search continues without it"


def test_what_a_disk_forbids_is_an_error_of_one_line(rankray, url, monkeypatch, tmp_path):
    def full(*_given):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "cache"))

    monkeypatch.setattr("rankray.store.views.status", full)
    said = rankray("status", "s", "--store", url, expect=2)
    assert said.startswith(f"error: {tmp_path}/cache: cannot be read or written (No space left on device); allowed: ")
    with pytest.raises(UserError), app.user_errors():
        full()
    with pytest.raises(ConnectionError), app.user_errors():
        raise ConnectionError(errno.ECONNRESET, "reset")


def test_a_current_directory_that_was_deleted(rankray, url, monkeypatch, tmp_path):
    """Whole paths need none; with others it is said in one line."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.delenv("RANKRAY_STORE", raising=False)
    assert "3/3 finished" in rankray("status", "s", "--store", url)
    assert "wrote " in rankray("report", "s", "--store", url, "-o", str(tmp_path / "r.html"))
    for words in (["status", "s"], ["check", "mine.yaml"], ["export", "s", "out", "--store", url]):
        assert rankray(*words, expect=2).startswith("error: the current directory was deleted; allowed: one that is")
