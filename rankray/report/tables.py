"""Tables of a study, from the plain dicts of `rankray.store.views`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rankray.report.board import short_params, short_value

Row = Mapping[str, Any]
_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True, "emoji": False}


def _head(markup: str) -> Text:
    """Return a line of rich's markup; `:x:` in a name is no emoji."""
    return Text.from_markup(markup, emoji=False)


_LABELS = {"baseline:sft": "plain SFT, fixed", "baseline:paper": "the paper's setting"}


def retrain_command(file: str, params: Mapping[str, Any]) -> str:
    """Return the command that trains with a trial's settings."""
    import json

    sets = [
        f"--set {shlex.quote(f'{path}={value if isinstance(value, str) else json.dumps(value)}')}"
        for path, value in params.items()
    ]
    return " ".join(["rankray train", shlex.quote(file), *sets])


def status_view(status: Row, rows: Sequence[Row], metric: str, limit: int = 20) -> RenderableType:
    """Return a study's state and its best trials."""
    counts = ", ".join(f"{count} {state}" for state, count in status["trials"].items() if count)
    budget = status["budget"]
    head = _head(
        f"[bold]{status['study']}[/]  {status['state']}  {budget['finished']}/{budget['trials']} finished  ({counts})"
    )
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("trial", "state", "step", metric, "settings", "reason"):
        table.add_column(title, overflow="fold")
    for row in rows[:limit]:
        table.add_row(
            str(row["number"]),
            str(row["state"]),
            str(row.get("step") or 0),
            _figure(row.get("value")),
            short_params(row.get("params") or {}),
            Text(str(row.get("reason") or "").splitlines()[0] if row.get("reason") else "", style="dim"),
        )
    more = [Text(f"... and {len(rows) - limit} more", style="dim")] if len(rows) > limit else []
    return Group(head, table, *more)


def objectives_view(rows: Sequence[Row], metric: str) -> RenderableType:
    """Return the best trial of each objective, beside plain SFT and the paper's fixed setting."""
    table = Table(
        box=None, padding=(0, 1), header_style="dim", title=f"best {metric} by objective", title_justify="left"
    )
    for title in ("", metric, "trial", "settings"):
        table.add_column(title, overflow="fold")
    for row in rows:
        ended = "" if row.get("state", "complete") == "complete" else f" ({row['state']} at step {row.get('step')})"
        label = _LABELS.get(str(row["what"]), str(row["what"])) + ended
        table.add_row(label, _figure(row.get("value")), str(row["number"]), short_params(row.get("params") or {}))
    return table


def summary(
    console: Console, *, file: str, metric: str, best: Row | None, objectives: Sequence[Row], status: Row
) -> None:
    """Print what a finished search found: the best of each objective, and how to train the best again."""
    if best is None:
        console.print(f"{status['study']}: no trial is complete yet")
        return
    if objectives:
        console.print(objectives_view(objectives, metric))
        console.print()
    counts = status["trials"]
    console.print(
        _head(
            f"[bold]best[/]: {metric} = {best['value']:.5g} (trial {best['number']}; "
            f"{counts['complete']} complete, {counts['pruned']} pruned, {counts['failed']} failed)"
        )
    )
    for path, value in best["params"].items():
        console.print(f"  {path}: {short_value(value)}", highlight=False)
    if best.get("checkpoint") and best.get("checkpoint_exists") is not False:
        console.print(f"its model: {best['checkpoint']}", **_PLAIN)
    console.print(f"look closer: rankray show {status['study']} {best['number']} --store {status['store']}", **_PLAIN)
    console.print("train it again:", highlight=False)
    console.print(f"  {retrain_command(file, best['params'])}", **_PLAIN)


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.5g}"


def trial_view(trial: Row) -> RenderableType:
    """Return one trial with all its reports."""
    parts: list[RenderableType] = [
        _head(f"[bold]trial {trial['number']}[/]  {trial['state']}  {trial.get('origin', '')}"),
    ]
    if trial.get("reason"):
        parts.append(Text(str(trial["reason"])))
    parts.extend(Text(f"  {path}: {short_value(value)}") for path, value in (trial.get("params") or {}).items())
    steps = trial.get("steps") or []
    if steps:
        names = list(dict.fromkeys(name for step in steps for name in step["metrics"]))
        table = Table(box=None, padding=(0, 1), header_style="dim")
        for title in ("step", *names):
            table.add_column(title)
        for step in steps:
            table.add_row(str(step["step"]), *(_figure(step["metrics"].get(name)) for name in names))
        parts.append(table)
    if trial.get("checkpoint"):
        gone = " (not there)" if trial.get("checkpoint_exists") is False else ""
        parts.append(Text(f"checkpoint: {trial['checkpoint']}{gone}"))
    for lost in trial.get("work_lost") or []:
        text = (
            f"lost and trained again: {lost['steps']} reported steps, {lost['wall_seconds']:.0f} s ({lost['reason']})"
        )
        parts.append(Text(text))
    if trial.get("traceback"):
        parts.append(Text(str(trial["traceback"])))
    return Group(*parts)
