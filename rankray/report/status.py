"""A study's state in the terminal: how far it is, and its trials, the running ones first, then the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from rankray.report.board import directions_line, duration, figure, short_params
from rankray.report.tables import shown_value, untrained_line

Row = Mapping[str, Any]
REASON_WIDTH = 110
"""Columns from which the reasons of ends are shown beside the settings."""
DOUBTFUL_SECONDS = 180
"""From when on people are told that a driver was silent. It decides nothing: clocks differ."""
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
    if said := directions_line(status.get("directions") or {}):
        lines.append(Text(said, style="dim"))
    lines += untrained_line(status, metric)
    lines += [Text(line, style="dim") for line in budget_lines(status)]
    ranked = sorted(rows, key=lambda row: _order(row, status.get("direction") == "maximize"))
    if ranked:
        lines += [Text(""), *_table(ranked[:limit], [metric, *(status.get("metrics") or [])[1:]], width)]
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


def budget_lines(status: Row) -> list[str]:
    """Return what ended a search beside its number of trials, and what it has spent, a line each."""
    ended, spent, limits = status.get("ended"), status.get("spent") or {}, status["budget"]
    used = [
        f"{spent[name]:.4g}{f' of {limits[name]:g}' if name in limits else ''} {unit}"
        for name, unit in (("wall_hours", "hours"), ("gpu_hours", "GPU-hours"), ("money", "of money"))
        if spent.get(name)
    ]
    lines = [f"spent: {', '.join(used)}"] if used else []
    if spent.get("unpriced"):
        lines.append(f"without a price of their own, and counted with the highest one: {', '.join(spent['unpriced'])}")
    if ended and ended["by"] == "space":
        lines.append(f"ended: {ended['reason']}")
    elif ended and ended["by"] != "trials":
        lines.append(f"ended by study.budget.{ended['by']}: {ended['reason']}")
    return lines


def _order(row: Row, maximize: bool) -> tuple[int, float, int]:
    """Return the sort key: running trials first, then complete ones, the best first, then pruned and failed ones."""
    value = row["value"] if row["value"] is not None and row["state"] in ("complete", "pruned") else 0.0
    return _FIRST.index(row["state"]), -value if maximize else value, row["number"]


def _table(rows: Sequence[Row], metrics: Sequence[str], width: int) -> list[Text]:
    titles = ["trial", "state", "step", *(name if len(name) <= 18 else f"...{name[-15:]}" for name in metrics)]
    cells = [
        [
            str(row["number"]),
            str(row["state"]),
            str(row.get("step") or 0),
            shown_value(row),
            *(figure((row.get("metrics") or {}).get(name)) for name in metrics[1:]),
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
