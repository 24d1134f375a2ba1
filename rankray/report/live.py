"""The live view of a search in a terminal, and plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rankray.report.board import Board, duration, short_params

_COLOURS = {"complete": "green", "pruned": "yellow", "failed": "red", "lost": "magenta"}


@contextmanager
def watching(board: Board, console: Console) -> Iterator[Board]:
    """Show `board` while the block runs: live in a terminal, as plain lines elsewhere.

    Yields the observer for the search.
    """
    if not console.is_terminal:
        yield PlainLines(board, console)
        return
    with Live(get_renderable=lambda: render(board), console=console, refresh_per_second=4, transient=True):
        yield board


class PlainLines(Board):
    """An observer that prints one line per event and keeps `board` up to date."""

    def __init__(self, board: Board, console: Console) -> None:
        self.__dict__ = board.__dict__
        self._console = console

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

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        """Print an end, with progress and the best so far."""
        super().ended(number, state, value, reason)
        figure = f" {self.metric}={value:.4g}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        best = f", best {self.best[1]:.4g} (trial {self.best[0]})" if self.best else ""
        left = f", {duration(self.seconds_left())} left" if self.seconds_left() is not None else ""
        self._print(f"trial {number} {state}{figure}{why} [{self.finished}/{self.budget}{best}{left}]")

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def render(board: Board) -> RenderableType:
    """Return the whole live view of a board."""
    head = Table.grid(padding=(0, 1))
    counts = "  ".join(f"[{_COLOURS[state]}]{count} {state}[/]" for state, count in board.counts.items())
    head.add_row(
        f"[bold]{board.name}[/]",
        ProgressBar(total=board.budget, completed=board.finished, width=30),
        f"{board.finished}/{board.budget}",
        counts,
        f"{duration(board.seconds_left())} left",
    )
    parts: list[RenderableType] = [head]
    if board.doing:
        parts.append(Text(f"… {board.doing}", style="dim"))
    if board.running:
        parts.append(_running_table(board))
    if board.best:
        number, value, params = board.best
        parts.append(
            Text.from_markup(
                f"[bold]best[/] {board.metric}={value:.4g}  trial {number}  {short_params(params)}", emoji=False
            )
        )
    if board.last:
        parts.append(Text(board.last, style="dim", overflow="ellipsis", no_wrap=True))
    return Group(*parts)


def _running_table(board: Board) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("trial", "for", "step", board.metric, "train/nll", "settings"):
        table.add_column(title, no_wrap=True, overflow="ellipsis")
    for number, trial in sorted(board.running.copy().items()):
        figures = [trial.metrics.get(name) for name in (board.metric, "train/nll")]
        table.add_row(
            str(number),
            duration(board.age(trial)),
            f"{trial.step}/{board.max_steps}",
            *("-" if figure is None else f"{figure:.4g}" for figure in figures),
            short_params(trial.params),
        )
    return table
