"""A study's state in the terminal: how far it is, and its trials, the running ones first, then the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rankray.report.board import duration, short_params
from rankray.report.tables import shown_value, untrained_line

Row = Mapping[str, Any]
DOUBTFUL_SECONDS = 180
"""From when on people are told that a driver was silent. It decides nothing: clocks differ."""
REASON_WIDTH = 110
"""Columns from which the reasons of ends are shown beside the settings."""
_FIRST = ("running", "waiting", "complete", "pruned", "failed")


class StatusView:
    """A study's state, for the terminal it is printed on: no line is wrapped, settings are cut where it ends.

    Args:
        status: as `rankray.store.views.status` returns it.
        rows: the trials, as `rankray.store.views.trials` returns them.
        limit: how many trials are listed.
    """

    def __init__(self, status: Row, rows: Sequence[Row], limit: int = 20) -> None:
        self._status, self._rows, self._limit = status, rows, limit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in status_lines(self._status, self._rows, options.max_width, self._limit):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def status_lines(status: Row, rows: Sequence[Row], width: int, limit: int = 20) -> list[Text]:
    """Return the lines of the view."""
    counts = ", ".join(f"{count} {state}" for state, count in status["trials"].items() if count) or "no trial yet"
    budget, best, metric = status["budget"], status["best"], status["metric"]
    head = Text(str(status["study"]), style="bold")
    lines = [head.append(f"  {status['state']}  {budget['finished']}/{budget['trials']} finished", style="")]
    lines.append(Text(counts))
    if best is not None:
        text = Text("best ", style="bold").append(f"{metric} {best['value']:.5g}  trial {best['number']}", style="bold")
        lines.append(text.append(f"  {short_params(best['params'])}", style=""))
    lines += untrained_line(status, metric)
    ranked = sorted(rows, key=lambda row: _order(row, status.get("direction") == "maximize"))
    if ranked:
        lines += [Text(""), *_table(ranked[:limit], metric, width)]
    more = sum(status["trials"].values()) - min(len(rows), limit)
    if more > 0:
        lines.append(Text(f"... and {more} more; all of them with rankray report", style="dim"))
    for each in status.get("drivers", ()):
        silent = each.get("renewed_seconds_ago", 0)
        if silent > DOUBTFUL_SECONDS:
            who = f"the driver on {each['host']} (process {each['pid']}) last renewed its lease {duration(silent)} ago"
            advice = "by its own clock; if it is dead, `rankray store repair` frees its trials"
            lines.append(Text(f"{who} {advice}", style="dim"))
    return lines


def _order(row: Row, maximize: bool) -> tuple[int, float, int]:
    """Return the sort key: running trials first, then complete ones, the best first, then pruned and failed ones."""
    value = row["value"] if row["value"] is not None and row["state"] in ("complete", "pruned") else 0.0
    return _FIRST.index(row["state"]), -value if maximize else value, row["number"]


def _table(rows: Sequence[Row], metric: str, width: int) -> list[Text]:
    titles = ["trial", "state", "step", metric if len(metric) <= 18 else f"...{metric[-15:]}"]
    cells = [
        [
            str(row["number"]),
            str(row["state"]),
            str(row.get("step") or 0),
            shown_value(row),
        ]
        for row in rows
    ]
    widths = [max(len(row[index]) for row in [titles, *cells]) for index in range(len(titles))]
    left = ("state",)
    settings = [short_params(row.get("params") or {}) for row in rows]
    reasons = [" ".join(str(row.get("reason") or "").split()) for row in rows]
    room = width - sum(widths) - 2 * len(widths)
    if width >= REASON_WIDTH and any(reasons):
        column = min(max(map(len, settings)), room * 3 // 5)
        settings = [text if len(text) <= column else f"{text[: column - 1]}…" for text in settings]
        settings = [f"{text:<{column}}  {reason}" for text, reason in zip(settings, reasons, strict=True)]
    lines: list[Text] = []
    for row, last in zip([titles, *cells], ["settings", *settings], strict=True):
        padded = [
            cell.ljust(w) if title in left else cell.rjust(w)
            for title, cell, w in zip(titles, row, widths, strict=True)
        ]
        lines.append(Text("  ".join([*padded, last]), style="" if lines else "dim"))
    return lines
