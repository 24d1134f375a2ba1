"""The chart of a report that shows when and where trials ran: a row per slot of each node, a bar per stretch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankray.report.charts import COLOURS, Chart, plotly_text
from rankray.report.findings import Stretch, timeline

Row = Mapping[str, Any]
STATES = {
    "complete": COLOURS[2],
    "pruned": COLOURS[5],
    "failed": COLOURS[7],
    "running": COLOURS[0],
    "waiting": "#8a8f98",
}
MOST_STRETCHES = 3000
"""How many stretches are drawn; of more the last ones."""


def times(overview: Row) -> Chart:
    """Return when each trial ran, on which slot of which node, what interrupted it, and where it was resumed."""
    title = "When and where trials ran"
    there = timeline(overview)
    if not there:
        return Chart("timeline", title, "No trial has run yet.")
    shown = there[-MOST_STRETCHES:]
    rows = _rows(shown)
    traces = [
        _bars(f"{state}, {'preempted' if preempted else 'interrupted'}" if stopped else state, of_it, rows, len(shown))
        for state in STATES
        for stopped, preempted in ((False, False), (True, False), (True, True))
        if (
            of_it := [
                each
                for each in shown
                if (each.state, each.interrupted, each.interrupted and bool(each.lost.get("preempted")))
                == (state, stopped, preempted)
            ]
        )
    ]
    layout = {
        "barmode": "overlay", "xaxis": {"type": "date"}, "bargap": 0.25,
        "yaxis": {
            "type": "category", "categoryorder": "array", "categoryarray": list(rows.values())[::-1],
            "automargin": True,
        },
    }  # fmt: skip
    height = 170 + 26 * min(len(rows), 40)
    return Chart("timeline", title, _note(overview, there, shown, len(rows)), traces, layout, height=height)


def _rows(shown: Sequence[Stretch]) -> dict[tuple[str, int], str]:
    """Return (node, slot) -> the name of its row, in order; a node is named where there are several."""
    keys = sorted({(each.node, each.slot) for each in shown})
    several = len({node for node, _ in keys}) > 1
    return {
        (node, slot): f"{plotly_text(node or 'node unknown')} slot {slot + 1}" if several else f"slot {slot + 1}"
        for node, slot in keys
    }


def _bars(name: str, of_it: Sequence[Stretch], rows: Mapping[tuple[str, int], str], drawn: int) -> dict[str, Any]:
    stopped, preempted = of_it[0].interrupted, bool(of_it[0].lost.get("preempted"))
    bar = {"color": STATES[of_it[0].state], "line": {"width": 0.5 if drawn < 300 else 0, "color": "#888"}}
    shape = {"pattern": {"shape": "x" if preempted else "/"}} if stopped else {}
    return {
        "type": "bar", "orientation": "h", "name": name,
        "base": [each.start.replace(tzinfo=None).isoformat(timespec="milliseconds") for each in of_it],
        "x": [max(1, round((each.end - each.start).total_seconds() * 1000)) for each in of_it],
        "y": [rows[each.node, each.slot] for each in of_it],
        "text": [_told(each) for each in of_it],
        "textposition": "none", "hovertemplate": "%{text}<extra></extra>",
        "marker": bar | shape,
    }  # fmt: skip


def _told(each: Stretch) -> str:
    """Return what is shown beside a bar."""
    lines = [f"trial {each.number}, {(each.end - each.start).total_seconds():.1f} s" + ", resumed" * each.resumed]
    if each.interrupted:
        lines.append(plotly_text(each.lost.get("reason") or "interrupted"))
    if each.interrupted and each.lost:
        lines.append(f"{each.lost['steps']} reported steps and {each.lost['wall_seconds']:.0f} s to do again")
    return "<br>".join(lines)


def _note(overview: Row, there: Sequence[Stretch], shown: Sequence[Stretch], rows: int) -> str:
    again, left = sum(each.resumed for each in there), sum(bool(each.lost.get("preempted")) for each in there)
    losses = [loss for trial in overview["trials"] for loss in trial["lost"]]
    steps, seconds = sum(loss["steps"] for loss in losses), sum(loss["wall_seconds"] for loss in losses)
    names = {each.node for each in there if each.node}
    if not names:
        where = "Which node a slot was on is not stored: an earlier version ran these trials."
    elif len(names) == 1:
        where = f"All on {names.pop()}." if all(each.node for each in there) else f"On {names.pop()}, where known."
    else:
        where = f"On {len(names)} nodes."
    note = (
        f"{rows} slot{'s' * (rows > 1)}; {again} times a trial was resumed after its process or its driver went away, "
        f"{left} of them after it had been preempted and had saved a checkpoint; {steps} reported steps and "
        f"{seconds:.0f} s of work were done again. Hatched: interrupted; crossed: preempted. {where} Slots are worked "
        "out from the times."
    )
    if len(shown) < len(there):
        note += f" The last {len(shown)} of {len(there)} stretches are drawn."
    return note
