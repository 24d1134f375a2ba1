"""The table of a notebook: one output that is updated; lines on standard error where there is no notebook."""

import sys
from types import SimpleNamespace

import pytest

from rankray.contracts import Report
from rankray.report import notebook
from rankray.report.board import Board
from rankray.report.notebook import in_notebook, table, watching_python

CELL = """
import time
from rankray.report import notebook
from rankray.report.board import Board
from rankray.contracts import Report

notebook.REFRESH_SECONDS = 0.05
board = Board("demo", "eval/nll", maximize=False, budget=2, max_steps=20)
with notebook.watching_python(board) as view:
    view.started(0, {"loss.objective": "<b>rri</b>"}, "sampler", 0)
    view.reported(0, Report(10, {"eval/nll": 2.5}))
    updated, old = [], notebook._update
    notebook._update = lambda handle, board: (old(handle, board), updated.append(1))
    while not updated:
        time.sleep(0.01)
    view.ended(0, "complete", 1.5, "")
"""


def board_with_a_trial():
    board = Board("demo", "eval/nll", maximize=False, budget=2, max_steps=20)
    board.started(7, {"loss.objective": "<b>rri</b>", "train.learning_rate": 1e-3}, "baseline:paper", 0)
    board.reported(7, Report(10, {"eval/nll": 2.54321}))
    return board


def test_the_table_has_what_the_terminal_has_and_lets_no_tag_through():
    text = table(board_with_a_trial())
    assert "<td>7</td><td>10/20</td><td>2.543</td>" in text
    assert "[baseline:paper] objective=&lt;b&gt;rri&lt;/b&gt; learning_rate=0.001" in text
    assert "0 complete, 0 pruned, 0 failed, 1 running" in text
    board = board_with_a_trial()
    board.ended(7, "complete", 1.5, "")
    assert "best eval/nll 1.5, trial 7" in table(board)
    assert "<th>" not in table(board), "no head without a row"


def test_a_terminal_gets_lines_on_standard_error(capsys):
    assert not in_notebook()
    with watching_python(Board("demo", "eval/nll", maximize=False, budget=2, max_steps=20)) as view:
        view.started(0, {"loss.objective": "rri"}, "sampler", 0)
        view.ended(0, "complete", 1.5, "")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "trial 0 complete eval/nll=1.5 [1/2, best 1.5 (trial 0)]" in shown.err


def test_only_a_kernel_is_a_notebook(monkeypatch):
    for shell, expected in ((None, False), (object(), False), (SimpleNamespace(kernel=object()), True)):
        module = SimpleNamespace(get_ipython=lambda shell=shell: shell)
        monkeypatch.setitem(sys.modules, "IPython", module)
        assert in_notebook() is expected


def test_a_front_end_that_is_gone_stops_no_search(caplog):
    def update(shown, raw):
        raise ConnectionError("no front end")

    with caplog.at_level("DEBUG", logger="rankray"):
        notebook._update(SimpleNamespace(update=update), board_with_a_trial())
    assert "no front end" in caplog.text


def test_a_real_kernel_shows_one_table_and_updates_it(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="run where nbclient and ipykernel are installed")
    nbclient = pytest.importorskip("nbclient", reason="run where nbclient and ipykernel are installed")
    pytest.importorskip("ipykernel", reason="run where nbclient and ipykernel are installed")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    manager = nbclient.client.KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    nbclient.NotebookClient(made, timeout=300, km=manager).execute()
    [output] = made.cells[0].outputs
    assert output.output_type == "display_data"
    assert "best eval/nll 1.5, trial 0" in output.data["text/html"], "as it was at the end"
    assert "1 complete" in output.data["text/plain"]
