"""The live view of a search in a Jupyter notebook: one table that is updated in place.

IPython shows it and updates it by its id (`IPython.display.display(..., display_id=True)`), so the cell holds one
output, whatever happens in between. The store is input: all text in the table is escaped.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from rich.console import Console

from rankray.contracts import Observer
from rankray.report.board import Board, directions_line, duration, short_params
from rankray.report.live import PlainLines, progress, view_lines

logger = logging.getLogger(__name__)

REFRESH_SECONDS = 1.0
COLUMNS, LINES = 120, 40
"""The size of the text that stands for the table where no HTML is shown."""
MOST_RUNNING, MOST_EVENTS = 32, 5


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook; an IPython shell in a terminal is none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


@contextmanager
def watching_python(board: Board) -> Iterator[Observer]:
    """Show `board` while the block runs: as a table in a notebook, as lines on standard error elsewhere.

    Yields the observer for the search.
    """
    if not in_notebook():
        lines = PlainLines(board, Console(stderr=True, emoji=False))
        with lines.beating():
            yield lines
        return
    from IPython import display

    show: Any = display.display  # not typed where IPython is installed, and unknown where it is not
    handle = show(_shown(board), raw=True, display_id=True)
    stop = threading.Event()

    def refresh() -> None:
        while not stop.wait(REFRESH_SECONDS):
            _update(handle, board)

    thread = threading.Thread(target=refresh, name="rankray-notebook", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        stop.set()
        thread.join()
        board.doing = ""
        _update(handle, board)


def _update(handle: Any, board: Board) -> None:
    try:
        handle.update(_shown(board), raw=True)
    except Exception:
        logger.debug("the notebook's table is not updated", exc_info=True)


def _shown(board: Board) -> dict[str, str]:
    """Return the table for a front end that shows HTML, and for one that does not."""
    text = "\n".join(line.plain for line in view_lines(board, COLUMNS, LINES))
    return {"text/html": table(board), "text/plain": text}


def table(board: Board) -> str:
    """Return a board as an HTML table: progress, the best so far, the running trials, the latest ends."""
    heads = ("trial", "step", board.metric, "for", "settings")
    running = sorted(board.running.copy().items())
    rows = [
        (
            str(number),
            f"{trial.step}/{trial.full}",
            f"{trial.metrics[board.metric]:.4g}" if board.metric in trial.metrics else "-",
            duration(board.age(trial)),
            ("" if trial.origin == "sampler" else f"[{trial.origin}] ") + short_params(trial.params),
        )
        for number, trial in running[:MOST_RUNNING]
    ]
    counts = ", ".join(f"{count} {state}" for state, count in board.counts.items())
    lines = [f"{counts}, {len(running)} running"]
    if board.best is not None:
        number, value, params = board.best
        lines.append(f"best {board.metric} {value:.4g}, trial {number}: {short_params(params)}")
    if board.untrained is not None:
        lines.append(f"the untrained model: {board.metric} {board.untrained:.4g}")
    lines += [line for line in (directions_line(board.directions), board.warning, board.doing) if line]
    lines += list(board.events)[: -MOST_EVENTS - 1 : -1]
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = f"<tr>{''.join(f'<th>{escape(name)}</th>' for name in heads)}</tr>" if rows else ""
    said = "<br>".join(map(escape, lines))
    name = escape(f"{board.name}: {progress(board)}")
    return f"<div><b>{name}</b><br>{said}<table>{head}{cells}</table></div>"
