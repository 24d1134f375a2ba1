"""The live view, captured in real terminals of several sizes, and the plain lines."""

import io
import os
import shutil
import subprocess
import sys
import threading
import uuid
from datetime import datetime
from pathlib import Path

import pytest
from fixtures.waiting import until
from rich.console import Console

from rankray.contracts import Report
from rankray.report.board import Board
from rankray.report.live import PlainLines, View, view_lines, watching
from rankray.report.notebook import table

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {
    "loss.objective": "rri", "train.learning_rate": 0.000123456, "loss.form": "bound", "loss.base": "prob",
    "loss.temperature": 0.7654321, "loss.entropy_weight": 1.2345, "loss.max_scale": 16.0,
}  # fmt: skip
"""A trial of search_spaces/objectives.yaml, whose settings are long."""
SHOW = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:0] = [{root!r}, {tests!r}]
from report.test_live import searched
from rich.console import Console
from rankray.report.live import watching
board = searched()
with watching(board, Console()):
    while not pathlib.Path({stop!r}).exists():
        time.sleep(0.05)
print("the shell again")
time.sleep(600)
"""


def feed(observer):
    observer.phase("starting Ray")
    observer.started(0, {"loss.temperature": 2.0}, "baseline:paper", 0)
    observer.reported(0, Report(10, {"eval/nll": 3.25, "train/nll": 3.5}))
    observer.started(1, {"loss.temperature": 0.5}, "sampler", 10)
    observer.ended(0, "pruned", 3.25, "median at step 10")


def make_board():
    return Board("demo", "eval/nll", maximize=False, budget=4, max_steps=30)


def searched(name: str = "gsm8k-objectives", running: int = 3) -> Board:
    """Return a board in the middle of a search, with a best trial and several running ones."""
    board = Board(name, "eval/accuracy", maximize=True, budget=128, max_steps=200)
    for number in range(12):
        board.started(number, PARAMS, "sampler", 0)
        board.reported(number, Report(25, {"eval/accuracy": 0.3, "eval/nll": 2.0}))
        board.ended(number, "pruned" if number % 3 else "complete", 0.25 + number / 100, "behind" if number % 3 else "")
    for number in range(118, 118 + running):
        board.started(number, PARAMS, "sampler", 0)
        metrics = {"eval/accuracy": 0.31416, "eval/nll": 1.98765, "eval/token_accuracy": 0.512, "train/nll": 1.87654}
        board.reported(number, Report(175, metrics))
    return board


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    board = make_board()
    with watching(board, Console(file=out, width=120)) as observer:
        feed(observer)
    lines = [line.split(" ", 1) for line in out.getvalue().splitlines()]
    assert all(datetime.strptime(stamp, "%H:%M:%S") for stamp, _ in lines)
    assert lines[0][1] == "demo: starting Ray"
    assert lines[1][1] == "trial 0 started [baseline:paper]: temperature=2"
    assert lines[2][1] == "trial 1 started (resumes from step 10): temperature=0.5"
    assert lines[3][1].startswith("trial 0 pruned eval/nll=3.25 (median at step 10) [1/4")
    assert board.finished == 1, "the lines and the board are one"


def test_the_end_of_a_trial_shows_every_metric_of_the_study():
    out = io.StringIO()
    board = Board("demo", "eval/accuracy", maximize=True, budget=9, max_steps=30, also=["eval/nll", "eval/never"])
    with watching(board, Console(file=out, width=120)) as observer:
        observer.started(0, PARAMS, "sampler", 0)
        observer.reported(0, Report(30, {"eval/accuracy": 0.5, "eval/nll": 2.0, "eval/other": 1.0}))
        observer.ended(0, "complete", 0.5, "")
    assert "trial 0 complete eval/accuracy=0.5 eval/nll=2 [1/9, best 0.5 (trial 0)" in out.getvalue()


def test_a_metric_that_tells_nothing_is_said_once():
    out = io.StringIO()
    board = Board("demo", "eval/accuracy", maximize=True, budget=9, max_steps=30)
    with watching(board, Console(file=out, width=120)) as observer:
        for number in range(7):
            observer.ended(number, "complete", 0.0, "")
        observer.ended(7, "lost", None, "given back")
    assert out.getvalue().count("warning: all 5 complete trials have eval/accuracy 0") == 1
    assert "trial 7 interrupted (given back)" in out.getvalue()
    assert any("all 7 complete trials" in line.plain for line in view_lines(board, 300, 24))
    assert "all 7 complete trials" in table(board)


def test_a_dumb_terminal_gets_lines_without_an_escape(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = io.StringIO()
    with watching(make_board(), Console(file=out, force_terminal=True, width=80)) as observer:
        feed(observer)
        assert isinstance(observer, PlainLines)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 4


def test_a_heartbeat_says_what_runs_when_nothing_else_was_said():
    out, printed = io.StringIO(), threading.Event()
    lines = PlainLines(searched(), Console(file=out, width=200), now=lambda: datetime(2026, 1, 2, 3, 4, 5))
    beat = lines.heartbeat
    lines.heartbeat = lambda: (beat(), printed.set())
    with lines.beating(seconds=0.01):
        assert printed.wait(60)
    first = out.getvalue().splitlines()[0]
    assert first.startswith("03:04:05 running: trial 118 step 175/200 0.314, trial 119 step 175/200 0.314")
    assert "[12/128, best 0.34 (trial 9), about " in first


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("height", [12, 24, 60])
@pytest.mark.parametrize("running", [0, 3, 40])
def test_no_line_or_number_of_lines_is_too_long(width, height, running):
    lines = view_lines(searched(running=running), width, height)
    assert len(lines) < height
    fixed = [line.plain.split("rri")[0] for line in lines]
    assert max(map(len, fixed)) <= width + 40
    if running:
        assert any(line.plain.split()[:2] == ["118", "175/200"] for line in lines)


def test_before_anything_has_happened():
    board = make_board()
    board.phase("starting Ray")
    text = "\n".join(line.plain for line in view_lines(board, 80, 24))
    assert "demo" in text
    assert "0/4" in text
    assert "no trial is complete yet" in text
    assert "starting Ray" in text


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
@pytest.mark.parametrize(("width", "height"), [(60, 24), (80, 24), (100, 30), (200, 60)])
def test_a_terminal_of_this_size_shows_number_step_metric_and_best(width, height, tmp_path):
    stop = tmp_path / "stop"
    script = tmp_path / "show.py"
    script.write_text(SHOW.format(root=str(ROOT), tests=str(ROOT / "tests"), stop=str(stop)))
    server = ["tmux", "-L", f"rankray-{uuid.uuid4().hex}", "-f", os.devnull]
    size = ["-x", str(width), "-y", str(height)]
    plain = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [*server, "new-session", "-d", *size, sys.executable, str(script)]
    subprocess.run(command, check=True, env={**plain, "TERM": "xterm"})

    def screen() -> list[str]:
        return subprocess.run([*server, "capture-pane", "-p"], capture_output=True, text=True).stdout.splitlines()

    try:
        until(lambda: any("120" in line.split()[:1] for line in screen()))
        lines = screen()
        text = "\n".join(lines)
        for number in ("118", "119", "120"):
            row = next(line.split() for line in lines if line.split()[:1] == [number])
            assert row[1:3] == ["175/200", "0.3142"], text
        assert "gsm8k-objectives" in lines[0], text
        assert "12/128" in lines[0], text
        assert "about" in lines[0], text
        assert any(line.startswith("best eval/accuracy 0.34  trial 9") for line in lines), text
        assert max(map(len, lines)) <= width
        assert ("train/nll" in text) == (width >= 100)
        assert ("eval/token_accuracy" in text) == (width >= 160)
        assert ("max_scale=16" in text) == (width >= 160), text
        subprocess.run([*server, "send-keys", "C-c"], check=True)
        until(lambda: "^C" in "".join(screen()))
        stop.touch()
        until(lambda: "the shell again" in screen()[0])
        assert "".join(screen()).strip() == "the shell again", "no bar is left behind, though ^C was shown"
    finally:
        subprocess.run([*server, "kill-server"], check=False, capture_output=True)


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    console.print(View(searched()))
    assert "\x1b[3" not in console.file.getvalue()


def test_the_last_line_is_empty_so_that_a_terminal_can_show_ctrl_c_there():
    """After a line as wide as the terminal, ^C begins another line, and the bar above would be left behind."""
    console = Console(file=io.StringIO(), width=80, height=24)
    console.print(View(searched()))
    lines = console.file.getvalue().split("\n")
    assert lines[-2:] == ["", ""]
    assert max(map(len, lines)) == 80


def test_the_bar_is_of_characters_that_the_terminal_has():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    board = Board("made", "eval/nll", maximize=False, budget=10, max_steps=5, finished=5)
    Console(file=file, width=80, height=24, force_terminal=True, color_system=None).print(View(board))
    file.flush()
    assert "####" in raw.getvalue().decode()
    assert "\\u" not in raw.getvalue().decode()


def test_which_way_each_metric_of_several_is_better():
    board = searched()
    board.directions = {"eval/accuracy": "maximize", "eval/nll": "minimize"}
    [line] = [line.plain for line in view_lines(board, 80, 24) if "is better" in line.plain]
    assert line == "eval/accuracy: higher is better; eval/nll: lower is better"
    assert line in table(board)
