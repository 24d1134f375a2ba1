"""One trial in the terminal: its settings and where each value came from, its reports, how it ended.

Reports are shown with a row per metric and a column per step, so that every metric is readable however many there are;
where the steps do not fit, some in the middle are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from rankray.report.board import directions_line, short_value
from rankray.report.figures import metrics_among, with_error

Row = Mapping[str, Any]


class TrialView:
    """A trial as `rankray.store.views.trial` returns it, for the terminal it is printed on.

    Args:
        trial: the trial.
        settings: values that the configuration gives, as (path, value, where it was written); searched ones are left
            out, because the trial has its own.
        all_steps: show every step, in as many tables as it takes.
        again: the command that trains with its settings again.
        directions: metric -> `minimize` or `maximize`, of a study of several.
    """

    def __init__(
        self,
        trial: Row,
        settings: Sequence[tuple[str, Any, str]] = (),
        *,
        all_steps: bool = False,
        again: str = "",
        directions: Mapping[str, str] | None = None,
    ) -> None:
        self._trial, self._settings, self._all_steps, self._again = trial, settings, all_steps, again
        self._directions = directions_line(directions or {})

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        trial = self._trial
        head = Text(f"trial {trial['number']}", style="bold").append(f"  {trial['state']}", style="")
        origin = trial.get("origin", "sampler")
        yield head if origin == "sampler" else head.append(f"  {origin}")
        if trial.get("reason"):
            yield Text(str(trial["reason"]))
        if trial.get("worse_than_untrained"):
            yield Text("worse than the untrained model, which is not trained at all", style="yellow")
        yield from _settings(trial.get("params") or {}, self._settings)
        yield from self._reports(options.max_width)
        if trial.get("checkpoint"):
            gone = " (not there)" if trial.get("checkpoint_exists") is False else ""
            yield _whole(f"checkpoint: {trial['checkpoint']}{gone}")
        if self._again and trial["state"] == "complete":
            yield _whole(f"train it again: {self._again}")
        for lost in trial.get("work_lost") or []:
            yield Text(
                f"lost and trained again: {lost['steps']} reported steps, {lost['wall_seconds']:.0f} s "
                f"({lost['reason']})"
            )
        for attempt, failure in enumerate(trial.get("failures") or [], start=1):
            yield Text(f"attempt {attempt} failed, and it was tried again: {failure['reason']}")
        if trial.get("traceback"):
            yield Text(str(trial["traceback"]))

    def _reports(self, width: int) -> RenderResult:
        steps = self._trial.get("steps") or []
        names = metrics_among(name for step in steps for name in step["metrics"])
        if not names:
            return
        label = max(map(len, names))
        before = (self._trial.get("untrained") or {}).get("metrics")
        columns = [_column("untrained", before, names)] if before else []
        columns += [_column(str(step["step"]), step["metrics"], names) for step in steps]
        cell = max(len(text) for column in columns for text in column)
        room = max(1, (width - label) // (cell + 2))
        blocks = [columns[at : at + room] for at in range(0, len(columns), room)]
        if not self._all_steps and len(blocks) > 1:
            blocks = [_ends(columns, room)]
        for block in blocks:
            yield Text("")
            titles = ["step", *names]
            for index, title in enumerate(titles):
                cells = "".join(f"  {column[index]:>{cell}}" for column in block)
                yield Text(f"{title:<{label}}{cells}", style="dim" if not index else "")
        if len(blocks[0]) < len(columns) and not self._all_steps:
            yield Text(f"{len(blocks[0])} of {len(columns)} reports; all of them with --all-steps", style="dim")
        if self._directions:
            yield Text(self._directions, style="dim")
        yield Text("")


def _whole(line: str) -> Text:
    """Return a line that is not broken where the terminal ends: it is to be copied."""
    return Text(line, no_wrap=True, overflow="ignore")


def _column(title: str, metrics: Row, names: Sequence[str]) -> list[str]:
    return [title, *(with_error(metrics, name) for name in names)]


def _ends(columns: list[list[str]], room: int) -> list[list[str]]:
    """Return so many columns: the first, the last, and an even choice of those between."""
    if room == 1:
        return columns[-1:]
    picked = {round(index * (len(columns) - 1) / (room - 1)) for index in range(room)}
    return [columns[index] for index in sorted(picked)]


def _shown(value: Any) -> str:
    """Return a value on one line: a text with line breaks in quotes, as YAML takes it."""
    return json.dumps(value) if isinstance(value, str) and not value.isprintable() else short_value(value)


def _settings(params: Row, given: Sequence[tuple[str, Any, str]]) -> RenderResult:
    """Yield the settings, each with where its value came from."""
    rows = [(path, short_value(value), "searched") for path, value in params.items()]
    rows += [(path, _shown(value), where) for path, value, where in given if path not in params]
    if not rows:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for no_wrap in (True, False, False):
        table.add_column(no_wrap=no_wrap, overflow="fold")
    for path, value, where in rows:
        table.add_row(Text(f"  {path}"), Text(value), Text(where, style="dim"))
    yield table
    if given:
        yield Text("  all other fields have their defaults (rankray explain)", style="dim")
