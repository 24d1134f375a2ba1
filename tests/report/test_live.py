"""The live view and the plain lines."""

import io

from rich.console import Console

from rankray.contracts import Report
from rankray.report.board import Board
from rankray.report.live import render, watching


def feed(observer):
    observer.phase("starting Ray")
    observer.started(0, {"loss.temperature": 2.0}, "baseline:paper", 0)
    observer.reported(0, Report(10, {"eval/nll": 3.25, "train/nll": 3.5}))
    observer.started(1, {"loss.temperature": 0.5}, "sampler", 10)
    observer.ended(0, "pruned", 3.25, "median at step 10")


def make_board():
    return Board("demo", "eval/nll", maximize=False, budget=4, max_steps=30)


def test_plain_lines_where_there_is_no_terminal():
    out = io.StringIO()
    board = make_board()
    with watching(board, Console(file=out, width=120)) as observer:
        feed(observer)
    lines = out.getvalue().splitlines()
    assert lines[0] == "demo: starting Ray"
    assert lines[1] == "trial 0 started [baseline:paper]: temperature=2"
    assert lines[2] == "trial 1 started (resumes from step 10): temperature=0.5"
    assert lines[3].startswith("trial 0 pruned eval/nll=3.25 (median at step 10) [1/4")
    assert board.finished == 1, "the lines and the board are one"


def test_the_live_view_shows_progress_running_trials_and_the_best():
    board = make_board()
    feed(board)
    board.ended(1, "complete", 2.5, "")
    board.started(2, {"loss.temperature": 0.7}, "sampler", 0)
    board.reported(2, Report(20, {"eval/nll": 2.875}))
    console = Console(file=io.StringIO(), width=100, record=True)
    console.print(render(board))
    text = console.export_text()
    for words in ("demo", "2/4", "1 complete", "1 pruned", "20/30", "2.875", "best eval/nll=2.5", "temperature=0.7"):
        assert words in text
