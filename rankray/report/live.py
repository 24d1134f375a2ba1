"""The live view of a search in a terminal, and plain lines where there is none.

A line of the view is never wrapped. What matters most stands first in it: number, step, metric. Settings are last, and
are cut where the terminal ends. So the view is readable at 80 columns, and shows more where there is more room.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from rankray.contracts import Report
from rankray.errors import printable
from rankray.report.board import ALIKE, Board, Running, directions_line, duration, short_params, short_value
from rankray.report.figures import metrics_among

_COLOURS = {"complete": "green", "pruned": "yellow", "failed": "red"}
_PLAIN_BAR = {ord("━"): "#", ord("─"): "-"}
"""The bar where the terminal's encoding is not UTF-8."""
HEARTBEAT_SECONDS = 60.0
"""How long plain lines may be silent: then one says that the search is alive."""
WIDE, WIDEST = 100, 160
"""Columns from which the view also shows what is trained, and every other metric."""


@contextmanager
def watching(board: Board, console: Console) -> Iterator[Board]:
    """Show `board` while the block runs: live in a terminal, as plain lines elsewhere (pipes, CI, `TERM=dumb`).

    Yields the observer for the search.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        lines = PlainLines(board, console)
        with lines.beating():
            yield lines
        return
    with Live(View(board), console=console, refresh_per_second=4, transient=True):
        yield board


class PlainLines(Board):
    """An observer that prints one line per event, each with its time, and keeps `board` up to date.

    Args:
        board: the state to keep.
        console: where lines go.
        now: the time of day.
    """

    def __init__(self, board: Board, console: Console, now: Callable[[], datetime] = datetime.now) -> None:
        self.__dict__ = board.__dict__
        self._console, self._now, self._printed = console, now, 0

    def phase(self, text: str) -> None:
        """Print a phase."""
        super().phase(text)
        self._print(f"{self.name}: {text}")

    def started(
        self, number: int, params: Mapping[str, Any], origin: str, step: int, checkpoint: str | None = None
    ) -> None:
        """Print a start."""
        super().started(number, params, origin, step, checkpoint)
        again = f" (resumes from step {step})" if step else ""
        label = "" if origin == "sampler" else f" [{origin}]"
        self._print(f"trial {number} started{again}{label}: {short_params(params)}")

    def reported(self, number: int, report: Report) -> None:
        """Print what the untrained model reaches, once."""
        super().reported(number, report)
        if report.step == 0 and self.untrained is not None:
            self._print(f"the untrained model: {self.metric}={self.untrained:.4g}")

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Print an end, with progress and the best so far."""
        last = self.running[number].metrics if number in self.running else {}
        super().ended(number, state, value, reason)
        others = "".join(f" {name}={last[name]:.4g}" for name in self.also if name in last)
        figure = f" {self.metric}={value:.4g}{others}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        word = "interrupted" if state == "lost" else state
        self._print(f"trial {number} {word}{figure}{why} [{progress(self)}]")
        if state == "complete" and self.alike and self.alike["trials"] == ALIKE:
            self._print(f"warning: {self.warning}")

    def heartbeat(self) -> None:
        """Print what runs."""
        running = sorted(self.running.copy().items())
        shown = ", ".join(
            f"trial {number} step {trial.step}/{trial.full} {short_value(trial.metrics.get(self.metric, '-'))}"
            for number, trial in running[:8]
        )
        more = f" and {len(running) - 8} more" if len(running) > 8 else ""
        self._print(f"running: {shown or self.doing or 'nothing'}{more} [{progress(self)}]")

    @contextmanager
    def beating(self, seconds: float = HEARTBEAT_SECONDS) -> Iterator[None]:
        """Print a heartbeat whenever nothing was printed for so long, while the block runs."""
        stop = threading.Event()

        def beat() -> None:
            before = -1
            while not stop.wait(seconds):
                if self._printed == before:
                    self.heartbeat()
                before = self._printed

        thread = threading.Thread(target=beat, name="rankray-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _print(self, line: str) -> None:
        self._printed += 1
        stamp = self._now().strftime("%H:%M:%S")
        self._console.print(printable(f"{stamp} {line}"), markup=False, highlight=False, soft_wrap=True, emoji=False)


def progress(board: Board) -> str:
    """Return how far a search is: finished trials, the best one, and about how long it will still take."""
    best = f", best {board.best[1]:.4g} (trial {board.best[0]})" if board.best else ""
    left = board.seconds_left()
    return f"{board.finished}/{board.budget}{best}" + ("" if left is None else f", about {duration(left)} left")


class View:
    """The whole live view of a board, for the terminal it is printed on."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.height or console.height
        for line in view_lines(self._board, options.max_width, height - 1):
            if options.ascii_only:
                line.plain = line.plain.translate(_PLAIN_BAR)
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line
        yield Text(
            ""
        )  # where the terminal shows the ^C: after a full line it would begin another, and leave a bar behind


def view_lines(board: Board, width: int, height: int) -> list[Text]:
    """Return the lines of the view, at most `height` - 1 of them, for a terminal of so many columns."""
    lines = [_head(board, width), _counts(board), _best(board)]
    if board.untrained is not None:
        lines.append(Text(f"the untrained model: {board.metric} {board.untrained:.4g}", style="dim"))
    if said := directions_line(board.directions):
        lines.append(Text(said, style="dim"))
    if board.warning:
        lines.append(Text(board.warning, style="yellow"))
    if board.doing:
        lines.append(Text(f"... {board.doing}", style="dim"))
    room = max(1, height - 1 - len(lines) - 2)
    running = sorted(board.running.copy().items())
    if running:
        lines.append(Text(""))
        shown = running[: max(1, room - 1)]
        lines += _table(board, shown, width)
        if len(running) > len(shown):
            lines.append(Text(f"... and {len(running) - len(shown)} more", style="dim"))
    room = height - 1 - len(lines)
    events = list(board.events)[-max(0, min(room - 1, _past(height))) :] if room > 1 else []
    if events:
        lines += [Text(""), *(Text(printable(" ".join(event.split())), style="dim") for event in reversed(events))]
    return lines


def _past(height: int) -> int:
    """Return how many past events a terminal of this height has room for."""
    return 1 if height < 30 else height // 3


def _head(board: Board, width: int) -> Text:
    left = board.seconds_left()
    after = "" if left is None else f"  about {duration(left)} left"
    count = f" {board.finished}/{board.budget}"
    bar = max(0, min(40, width - len(board.name) - len(count) - len(after) - 2))
    filled = round(bar * min(1.0, board.finished / board.budget)) if board.budget else 0
    text = Text(board.name, style="bold")
    text.append(" ")
    if bar >= 8:
        text.append("━" * filled, style="green").append("─" * (bar - filled), style="dim")
    return text.append(count).append(after)


def _counts(board: Board) -> Text:
    text = Text()
    for state, count in board.counts.items():
        text.append(f"{count} {state}  ", style=_COLOURS[state] if count else "dim")
    return text.append(f"{len(board.running)} running", style="dim")


def _best(board: Board) -> Text:
    if board.best is None:
        return Text(f"best {board.metric}: no trial is complete yet", style="dim")
    number, value, params = board.best
    text = Text("best ", style="bold").append(f"{board.metric} {value:.4g}  trial {number}", style="bold")
    return text.append(f"  {printable(short_params(params))}")


def _table(board: Board, running: list[tuple[int, Running]], width: int) -> list[Text]:
    """Return the running trials, a line each; numbers are aligned at the right."""
    names = [board.metric]
    if width >= WIDE:
        names.append("train/nll")
    if width >= WIDEST:
        found = metrics_among(name for _, trial in running for name in trial.metrics if name.startswith("eval/"))
        names += [name for name in found if name not in names][:4]
    names = list(dict.fromkeys(names))
    titles = ["trial", "step", *names, "for"]
    rows = [
        [
            str(number),
            f"{trial.step}/{trial.full}",
            *(_figure(trial.metrics.get(name)) for name in names),
            duration(board.age(trial)),
        ]
        for number, trial in running
    ]
    longest = 18 if width < WIDE else 28
    titles = [title if len(title) <= longest else f"...{title[3 - longest :]}" for title in titles]
    widths = [max(len(row[index]) for row in [titles, *rows]) for index in range(len(titles))]
    lines = [Text("  ".join(t.rjust(w) for t, w in zip(titles, widths, strict=True)) + "  settings", style="dim")]
    for (_, trial), row in zip(running, rows, strict=True):
        origin = "" if trial.origin == "sampler" else f"[{trial.origin}] "
        cells = "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True))
        lines.append(Text(f"{cells}  {printable(origin + short_params(trial.params))}"))
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
