"""Tables of a study, from the plain dicts of `rankray.store.views`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rankray.report.board import alike_line, directions_line, figure, short_params, short_value, untried_line
from rankray.report.commands import store_option, training_commands

Row = Mapping[str, Any]
_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
_LABELS = {"baseline:sft": "plain SFT, fixed", "baseline:paper": "the paper's setting"}


def untrained_line(status: Row, metric: str) -> list[Text]:
    """Return what the untrained model reaches, as a line or none; `(worse)` in a table is worse than that."""
    value = (status.get("untrained") or {}).get("value")
    return [] if value is None else [Text(f"the untrained model: {metric} {value:.5g}", style="dim")]


def shown_value(row: Row) -> str:
    """Return a trial's value, marked where it is worse than the untrained model's."""
    return figure(row.get("value")) + (" (worse)" if row.get("worse_than_untrained") else "")


def objectives_view(rows: Sequence[Row], metric: str) -> RenderableType:
    """Return the best trial of each objective, beside plain SFT and the paper's fixed setting."""
    table = Table(
        box=None, padding=(0, 1), header_style="dim", title=f"best {metric} by objective", title_justify="left"
    )
    for title in ("", metric, "trial", "settings"):
        table.add_column(title, overflow="fold")
    for row in rows:
        ended = "" if row.get("state", "complete") == "complete" else f" ({row['state']} at step {row.get('step')})"
        label = Text(_LABELS.get(str(row["what"]), str(row["what"])) + ended)
        table.add_row(label, shown_value(row), str(row["number"]), Text(short_params(row.get("params") or {})))
    return table


def front_view(rows: Sequence[Row], metrics: Sequence[str]) -> RenderableType:
    """Return the trials of a study of several metrics that no other one beats in all of them."""
    table = Table(box=None, padding=(0, 1), header_style="dim", title="no trial beats these", title_justify="left")
    for title in ("trial", *metrics, "settings"):
        table.add_column(title, overflow="fold")
    for row in rows:
        figures = [figure(row["metrics"].get(name)) for name in metrics]
        table.add_row(str(row["number"]), *figures, short_params(row.get("params") or {}))
    return table


def summary(
    console: Console,
    *,
    origin: Row,
    metric: str,
    best: Row | None,
    objectives: Sequence[Row],
    status: Row,
    confirmed: Row | None = None,
    recommended: Row | None = None,
    alike: Row | None = None,
    untried: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Print what a finished search found: the best of each objective, and how to train again what is to be used.

    That is `recommended`, as `confirmed`, `alike` and `untried` one of `rankray.store.views`; `origin` is that of
    `rankray.store.origin`. A search (not a confirmation) that was not confirmed ends with the command that does it.
    """
    if best is None:
        console.print(f"{status['study']}: no trial is complete yet")
        return
    if objectives:
        console.print(objectives_view(objectives, metric))
        for line in untrained_line(status, metric):
            console.print(line, **_PLAIN)
    if said := untried_line(untried or {}, status):
        console.print(Text(said, style="dim"), **_PLAIN)
    if objectives or said:
        console.print()
    if best.get("front"):
        console.print(front_view(best["front"], best.get("metrics_compared") or []))
        console.print(Text(directions_line(status.get("directions") or {}), style="dim"), **_PLAIN)
        console.print()
    counts = status["trials"]
    console.print(
        Text.from_markup(
            f"[bold]best[/]: {metric} = {best['value']:.5g} (trial {best['number']}; "
            f"{counts['complete']} complete, {counts['pruned']} pruned, {counts['failed']} failed)"
        )
    )
    for path, value in best["params"].items():
        console.print(f"  {path}: {short_value(value)}", **_PLAIN)
    if said := alike_line(metric, alike):
        console.print(Text(f"warning: {said}", style="yellow"), **_PLAIN)
    _model_line(console, best)
    if confirmed is not None:
        for each in confirmed["verdicts"]:
            console.print(f"verdict ({each['confirmation']}): {each['verdict']['text']}", **_PLAIN)
        if later := finished_since(confirmed["verdicts"], status):
            console.print(f"{later} trials have finished since then, and were not compared", **_PLAIN)
        if recommended is not None and recommended["number"] != best["number"]:
            best = recommended
            console.print(f"on new seeds trial {best['number']} was chosen; what follows is of that one", **_PLAIN)
            _model_line(console, best)
        elif best.get("plain_sft") and confirmed["number"] != best["number"]:
            other = f"the verdict is on trial {confirmed['number']}, the best of all other settings on new seeds"
            console.print(f"trial {best['number']} is plain SFT; {other}", **_PLAIN)
    study, store = shlex.quote(status["study"]), store_option(status["store"])
    console.print(f"look closer: rankray show {study} {best['number']} {store}", **_PLAIN)
    for what, command in training_commands(origin, best, confirmed["verdicts"] if confirmed else []):
        console.print(f"{what}:", highlight=False)
        console.print(f"  {command}", **_PLAIN)
    if not origin["confirms"] and confirmed is None and counts["complete"] > 1 and (asks := question(best, objectives)):
        console.print(f"{asks} rankray confirm {study} --plan {store}", **_PLAIN)


def question(best: Row, objectives: Sequence[Row]) -> str:
    """Return what `rankray confirm` would answer about a search; "" where there is nothing to compare with plain SFT.

    Args:
        best: its best trial.
        objectives: the best trial of each objective.
    """
    if not best.get("plain_sft"):
        return "is it really better than plain SFT?"
    others = [row for row in objectives if not row.get("plain_sft") and row.get("state", "complete") == "complete"]
    return "it is plain SFT; is any other setting better on new seeds?" if others else ""


def finished_since(verdicts: Sequence[Row], status: Row) -> int:
    """Return how many trials have finished since the confirmation that counts began; none of them was compared."""
    for found in verdicts[:1]:
        if found.get("search_finished") is not None:
            return max(0, int(status["budget"]["finished"]) - int(found["search_finished"]))
    return 0


def _model_line(console: Console, trial: Row) -> None:
    if trial.get("checkpoint") and trial.get("checkpoint_exists") is not False:
        console.print(f"its model: {trial['checkpoint']}", **_PLAIN)
