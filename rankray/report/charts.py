"""The charts of a report as Plotly figures, plain dicts: every trial's curve, learning rates, importance.

A chart without enough trials has no figure, and its note says what is missing. Text from the store goes through
`plotly_text`, because Plotly reads some tags in texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import log10
from typing import Any

from rankray.report.board import short_params, short_value
from rankray.report.findings import FINISHED, RATE, better, complete, few_trials, objective_of, references

Row = Mapping[str, Any]
Trace = dict[str, Any]
COLOURS = ("#2b7cd3", "#c8611a", "#1b8a5f", "#b8478c", "#7d62c9", "#8f7016", "#4d8296", "#cc4a4a")
"""One per objective; each is told apart from a white and from a nearly black page (3:1 or more)."""
SCALE = [[0, "#c8611a"], [0.5, "#8a8f98"], [1, "#2b7cd3"]]
"""From bad to good, for values by colour: visible on a white and on a nearly black page."""
SHORT = {"plain SFT": "plain SFT", "the paper's setting": "paper", "the untrained model": "untrained"}
"""What the references are called beside a chart, where there is little room."""
MARGIN = 76
"""Room for them right of a chart, in CSS pixels."""
BARS_PER_OCTAVE = 2
"""Bars of a stored histogram of S (`rankray.loss.totals`), per doubling of S."""
MOST_CURVES, MOST_POINTS = 400, 2000
"""How many curves and points are drawn; of more trials the best ones, and an even choice of the others."""


@dataclass(frozen=True)
class Chart:
    """One chart of the page.

    Attributes:
        key: its id in the page.
        title: its heading.
        note: what it shows, in a sentence or two, for those too who cannot see it; or why there is none.
        traces: Plotly's `data`; None where there is nothing to draw.
        layout: Plotly's `layout`, without colours of the page, which follow its light or dark theme.
        height: in CSS pixels.
    """

    key: str
    title: str
    note: str
    traces: list[Trace] | None = None
    layout: dict[str, Any] | None = None
    height: int = 380


def plotly_text(text: object) -> str:
    """Return a text that Plotly shows as it is."""
    return escape(" ".join(str(text).split()), quote=False)


def colour_of(overview: Row, objective: str) -> str:
    """Return the colour of an objective, the same in all charts."""
    names = sorted({objective_of(overview, trial) for trial in overview["trials"]})
    return COLOURS[names.index(objective) % len(COLOURS)]


def hover(trial: Row) -> str:
    """Return what is shown beside a trial's point."""
    lines = [f"trial {trial['number']}: {trial['state']} at step {trial['step']}"]
    lines += [plotly_text(f"{path.split('.')[-1]} = {short_value(value)}") for path, value in trial["params"].items()]
    return "<br>".join(lines)


def thinned(overview: Row, trials: Sequence[Row], most: int) -> list[Row]:
    """Return at most so many trials: half of them the best complete ones, the others chosen evenly."""
    if len(trials) <= most:
        return list(trials)
    best = {row["number"] for row in better(overview, (t for t in trials if t["state"] == "complete"))[: most // 2]}
    others = [trial for trial in trials if trial["number"] not in best]
    kept = {others[index * len(others) // (most - len(best))]["number"] for index in range(most - len(best))}
    return [trial for trial in trials if trial["number"] in best | kept]


def of_them(shown: Sequence[Row], there: Sequence[Row]) -> str:
    """Return a sentence that says how many trials are drawn, where not all of them are."""
    return "" if len(shown) == len(there) else f" {len(shown)} of {len(there)} trials are drawn, the best among them."


def log_axis(values: Iterable[float | None], tickformat: str = "~g") -> dict[str, Any]:
    """Return a logarithmic axis for these values: labels at 1, 2 and 5 where they fit, else Plotly's own choice.

    Without a format Plotly writes 5 where it means 0.5.
    """
    positive = [value for value in values if value is not None and value > 0]
    decades = log10(max(positive) / min(positive)) if positive else 0.0
    return {"type": "log", "tickformat": tickformat} | ({"dtick": "D2"} if 0.7 < decades < 3 else {"nticks": 8})


def reference_lines(overview: Row) -> dict[str, Any]:
    """Return the part of a layout with lines for plain SFT, the paper's setting and the untrained model.

    Their labels are right of the chart, where they hide nothing; `assets/page.js` moves close ones apart.
    """
    shapes, notes = [], []
    for label, value in references(overview):
        line = {"width": 1.5, "dash": "dot"}
        shapes.append({"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "line": line})
        place = {"xref": "paper", "x": 1, "xanchor": "left", "align": "left", "y": value, "showarrow": False}
        notes.append({"text": f"{SHORT[label]}<br>{value:.4g}", **place})
    return {"shapes": shapes, "annotations": notes} | ({"margin": {"r": MARGIN}} if notes else {})


def curves(overview: Row) -> Chart:
    """Return every trial's metric over its steps: complete trials coloured, pruned ones dimmed, the best one thick."""
    metric = overview["status"]["metric"]
    there = [trial for trial in overview["trials"] if trial["curve"]]
    if not there:
        return Chart("curves", "Every trial's curve", f"No trial has reported {metric} yet.")
    shown = thinned(overview, there, MOST_CURVES)
    best = overview["best"]["number"] if overview["best"] else None
    dim = [trial for trial in shown if trial["state"] != "complete"]
    traces = [_lines("pruned, failed or running", dim, "#8a8f98", opacity=0.35)] if dim else []
    for objective in sorted({objective_of(overview, trial) for trial in shown}):
        of_it = [t for t in shown if t["state"] == "complete" and objective_of(overview, t) == objective]
        if of_it:
            traces.append(_lines(plotly_text(objective), of_it, colour_of(overview, objective), opacity=0.8))
    if best is not None:
        winner = [trial for trial in there if trial["number"] == best]
        traces.append(
            _lines(f"best: trial {best}", winner, colour_of(overview, objective_of(overview, winner[0])), 3.5)
        )
    note = f"{metric} over optimizer steps. Dim lines are trials that were pruned, failed or still run."
    layout = {"xaxis": {"title": {"text": "step"}}, "yaxis": {"title": {"text": plotly_text(metric)}}}
    return Chart(
        "curves", "Every trial's curve", note + of_them(shown, there), traces, layout | reference_lines(overview)
    )


def _lines(name: str, trials: Iterable[Row], colour: str, width: float = 1.5, opacity: float = 1.0) -> Trace:
    """Return many curves as one trace, with gaps between them: a thousand traces would take seconds to draw."""
    x: list[Any] = []
    y: list[Any] = []
    text: list[Any] = []
    for trial in trials:
        points = [(step, value) for step, value in trial["curve"] if value is not None]
        label = f"trial {trial['number']} ({trial['state']})"
        x += [*(step for step, _ in points), None]
        y += [*(_short(value) for _, value in points), None]
        text += [*(label for _ in points), None]
    line = {"color": colour, "width": width}
    marks = {"color": colour, "size": 4}
    mode = "lines+markers" if len(x) < 600 else "lines"
    return {
        "type": "scatter", "mode": mode, "name": name, "x": x, "y": y, "text": text, "line": line,
        "marker": marks, "opacity": opacity, "hovertemplate": "%{text}<br>step %{x}: %{y}<extra></extra>",
    }  # fmt: skip


def rates(overview: Row) -> Chart:
    """Return the learning rate against the metric, a colour per objective; pruned trials are open circles."""
    metric, title = overview["status"]["metric"], "Learning rate and metric"
    if RATE not in overview["space"]:
        return Chart("rates", title, "The learning rate is not searched: it is not in the space of this study.")
    there = [t for t in overview["trials"] if t["state"] in FINISHED and t["value"] is not None and RATE in t["params"]]
    if not there:
        return Chart("rates", title, "No trial is finished yet.")
    shown = thinned(overview, there, MOST_POINTS)
    traces = []
    for objective in sorted({objective_of(overview, trial) for trial in shown}):
        for state in FINISHED:
            of_it = [t for t in shown if t["state"] == state and objective_of(overview, t) == objective]
            if of_it:
                traces.append(_points(overview, objective, state, of_it))
    is_log = overview["space"][RATE].get("log", False)
    axis = log_axis((trial["params"][RATE] for trial in shown), "~e") if is_log else {"type": "linear"}
    layout = {
        "xaxis": {"title": {"text": "learning rate"}} | axis,
        "yaxis": {"title": {"text": plotly_text(metric)}},
    }
    note = f"Each point is a trial: filled ones ran to the end, open ones show {metric} where they were pruned."
    return Chart("rates", title, note + of_them(shown, there), traces, layout | reference_lines(overview))


def _points(overview: Row, objective: str, state: str, trials: Sequence[Row]) -> Trace:
    colour, name = colour_of(overview, objective), plotly_text(objective)
    symbol = "circle" if state == "complete" else "circle-open"
    return {
        "type": "scatter", "mode": "markers", "name": name if state == "complete" else f"{name}, pruned",
        "x": [trial["params"][RATE] for trial in trials], "y": [_short(trial["value"]) for trial in trials],
        "text": [hover(trial) for trial in trials], "hovertemplate": "%{text}<br>%{y}<extra></extra>",
        "marker": {"color": colour, "size": 9, "symbol": symbol}, "opacity": 1 if state == "complete" else 0.7,
    }  # fmt: skip


def importances(overview: Row) -> Chart:
    """Return how much each searched field matters."""
    title, found = "What mattered", overview["importance"]
    if not found["values"]:
        return Chart("importance", title, f"Nothing is said about importance: {found['why']}.")
    paths = list(found["values"])[::-1]
    bars = {
        "type": "bar", "orientation": "h", "y": [plotly_text(path) for path in paths],
        "x": [round(found["values"][path], 4) for path in paths], "marker": {"color": COLOURS[0]},
        "text": [f"{found['values'][path]:.0%}" for path in paths], "textposition": "auto",
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }  # fmt: skip
    note = (
        "How much of the differences between settings each searched field explains by itself: functional ANOVA of a "
        f"Gaussian process through the ranks of {found['trials']} finished trials, in which what is worse than the "
        "median counts as the median. Low is not harmless: it says that the trials tried do not tell its values apart."
        f"{few_trials(found)}"
    )
    layout = {"xaxis": {"title": {"text": "importance"}, "tickformat": ".0%"}, "yaxis": {"automargin": True}}
    return Chart("importance", title, note, [bars], layout, height=140 + 34 * len(paths))


def scales(overview: Row) -> Chart:
    """Return quantiles of the relative scale S while the best and the worst complete trials trained."""
    title = "Relative scale S of the best and the worst rri trial"
    there = [trial for trial in _with_scale(overview) if len(trial["scale"]) > 1]
    if not there:
        return Chart("scale", title, "No complete trial has recorded S: only those with the objective rri have one.")
    picked = _best_and_worst(there)
    traces: list[Trace] = []
    for label, trial, colour in picked:
        name = f"{label}: trial {trial['number']}"
        steps = [row[0] for row in trial["scale"]]
        low, middle, high = ([_short(row[index]) for row in trial["scale"]] for index in (1, 2, 3))
        edge = {"type": "scatter", "mode": "lines", "x": steps, "showlegend": False, "hoverinfo": "skip"}
        border = {"width": 1, "color": colour, "dash": "dot"}
        traces.append({**edge, "y": low, "line": border})
        traces.append({**edge, "y": high, "line": border, "fill": "tonexty", "fillcolor": f"{colour}2e"})
        line = {"color": colour, "width": 2.5}
        traces.append({"type": "scatter", "mode": "lines+markers", "name": name, "x": steps, "y": middle, "line": line})
    layout = {
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {"title": {"text": "S (median, 5 % to 95 %)"}}
        | log_axis(value for each in traces for value in each["y"]),
    }
    settings = "; ".join(f"{label}: {short_params(trial['params'])}" for label, trial, _ in picked)
    note = f"S multiplies a token's weight; 1 leaves it as it is. The band holds 90 % of the tokens. {settings}."
    return Chart("scale", title, note, traces, layout)


def spreads(overview: Row) -> Chart:
    """Return the histogram of S over the tokens that the best and the worst complete trial saw last."""
    title = "Distribution of S in the best and the worst rri trial"
    rri = _with_scale(overview)
    there = [trial for trial in rri if trial.get("spread")]
    if not there:
        why = (
            "the version of rankray that trained these trials stored quantiles only, shown above"
            if any(trial["scale"] for trial in rri)
            else "no complete trial has the objective rri, and others have no S"
        )
        return Chart("spread", title, f"There is no histogram: {why}.")
    picked = _best_and_worst(there)
    traces: list[Trace] = []
    for label, trial, colour in picked:
        first, shares = trial["spread"]["first"], trial["spread"]["shares"]
        traces.append({
            "type": "bar", "name": f"{label}: trial {trial['number']}", "marker": {"color": colour},
            "x": [(first + index) / BARS_PER_OCTAVE for index in range(len(shares))], "y": shares,
            "text": [f"S about {2 ** ((first + index) / BARS_PER_OCTAVE):.3g}" for index in range(len(shares))],
            "textposition": "none", "hovertemplate": "%{text}: %{y:.1%} of the tokens<extra></extra>",
        })  # fmt: skip
    low, high = (round(edge(x for trace in traces for x in trace["x"])) for edge in (min, max))
    every = max(1, (high - low) // 8)
    ticks = list(range(low, high + 1, every))
    layout = {
        "barmode": "group", "bargap": 0.15,
        "xaxis": {
            "title": {"text": "S (logarithmic)"}, "tickvals": ticks,
            "ticktext": [f"{2**tick}" if tick >= 0 else f"1/{2**-tick}" for tick in ticks],
        },
        "yaxis": {"title": {"text": "share of the tokens"}, "tickformat": ".0%"},
    }  # fmt: skip
    steps = ", ".join(f"{label} up to step {trial['spread']['step']}" for label, trial, _ in picked)
    note = (
        f"How S was spread over the tokens that were trained on before the last report ({steps}). All at 1 would be "
        "the base objective itself; a long right arm means that few tokens carry most of the loss."
    )
    return Chart("spread", title, note, traces, layout)


def _with_scale(overview: Row) -> list[Row]:
    """Return the complete trials whose loss has an S, the best first."""
    return [trial for trial in complete(overview) if objective_of(overview, trial) == "rri"]


def _best_and_worst(there: Sequence[Row]) -> list[tuple[str, Row, str]]:
    return [("best", there[0], COLOURS[0])] + ([("worst", there[-1], COLOURS[1])] if len(there) > 1 else [])


def _short(value: float | None) -> float | None:
    """Return a figure with the six digits that a screen can show: pages stay small."""
    return None if value is None else float(f"{value:.6g}")
