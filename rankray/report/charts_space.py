"""The charts of a report that show the space: weight map, parallel coordinates, leaderboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from rankray.report.charts import (
    MOST_POINTS,
    SCALE,
    Chart,
    colour_of,
    hover,
    log_axis,
    of_them,
    plotly_text,
    reference_lines,
    thinned,
)  # fmt: skip
from rankray.report.findings import FINISHED, better, front, objective_of, standings

Row = Mapping[str, Any]
TEMPERATURE, ENTROPY = "loss.temperature", "loss.entropy_weight"
GRID = 8
"""Cells of the weight map in each direction."""
ENOUGH = 24
"""Trials from which the weight map has cells beside its points."""


def leaderboard(overview: Row) -> Chart:
    """Return the best value of each objective as bars, with the references as lines."""
    metric, title = overview["status"]["metric"], "Best by objective"
    found = [each for each in standings(overview) if each.best is not None]
    if not found:
        return Chart("leaderboard", title, "No trial is complete yet.")
    bars = {
        "type": "bar",
        "x": [plotly_text(each.objective) for each in found],
        "y": [float(f"{each.best['value']:.6g}") for each in found if each.best],
        "text": [f"{each.best['value']:.4g}" for each in found if each.best],
        "hovertext": [hover(each.best) for each in found if each.best],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": [colour_of(overview, each.objective) for each in found]},
    }
    layout = {"yaxis": {"title": {"text": plotly_text(metric)}}, "xaxis": {"type": "category"}, "showlegend": False}
    note = f"{metric} of each objective's best complete trial, at that trial's own learning rate. Dotted: references."
    return Chart("leaderboard", title, note, [bars], layout | reference_lines(overview), height=340)


def trade_off(overview: Row) -> Chart:
    """Return the first two of a study's several metrics over each other, and a line through the front."""
    (first, second, *others), rows = front(overview)
    there = [
        trial
        for trial in overview["trials"]
        if trial["state"] == "complete" and None not in (trial["metrics"].get(first), trial["metrics"].get(second))
    ]
    shown = thinned(overview, there, MOST_POINTS)
    traces: list[dict[str, Any]] = []
    for objective in sorted({objective_of(overview, trial) for trial in shown}):
        of_it = [trial for trial in shown if objective_of(overview, trial) == objective]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": plotly_text(objective),
                "x": [trial["metrics"][first] for trial in of_it],
                "y": [trial["metrics"][second] for trial in of_it],
                "hovertext": [hover(trial) for trial in of_it],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": {"size": 8, "color": colour_of(overview, objective)},
            }
        )
    unbeaten = [(row["metrics"].get(first), row["metrics"].get(second)) for row in rows]
    line = sorted(pair for pair in unbeaten if None not in pair)
    traces.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "no trial beats these",
            "x": [each for each, _ in line],
            "y": [each for _, each in line],
            "hoverinfo": "skip",
            "line": {"dash": "dot", "color": "#8a8f98"},
            "marker": {"size": 14, "symbol": "circle-open", "color": "#8a8f98"},
        }
    )
    axes = [{"title": {"text": plotly_text(metric)}} for metric in (first, second)]
    more = f" Not drawn: {', '.join(others)}." if others else ""
    note = f"{first} and {second} of each complete trial. Rings: trials that no other one beats in all metrics.{more}"
    layout = {"xaxis": axes[0], "yaxis": axes[1]}
    return Chart("front", "What one metric costs in another", note + of_them(shown, there), traces, layout)


def weight_map(overview: Row) -> Chart:
    """Return the metric over temperature and entropy weight: points, and cell means where there are enough of them."""
    metric, title = overview["status"]["metric"], "Temperature and entropy weight"
    missing = [path for path in (TEMPERATURE, ENTROPY) if path not in overview["space"]]
    if missing:
        return Chart("weights", title, f"There is no map: this study does not search {' or '.join(missing)}.")
    there = [
        trial
        for trial in overview["trials"]
        if trial["state"] in FINISHED
        and trial["value"] is not None
        and {TEMPERATURE, ENTROPY} <= trial["params"].keys()
    ]
    there = [t for t in there if all(isinstance(t["params"][p], int | float) for p in (TEMPERATURE, ENTROPY))]
    if not there:
        return Chart("weights", title, "No trial with a temperature and an entropy weight is finished yet.")
    shown = thinned(overview, there, MOST_POINTS)
    whole = [trial for trial in there if trial["state"] == "complete"]
    scale = {"colorscale": SCALE, "reversescale": overview["status"]["direction"] == "minimize"}
    low, high = _extent([trial["value"] for trial in whole or shown])
    traces: list[dict[str, Any]] = []
    if len(whole) >= ENOUGH:
        traces.append(
            _cells(overview, whole) | scale | {"zmin": low, "zmax": high, "showscale": False, "opacity": 0.45}
        )
    for state in FINISHED:
        of_it = better(overview, (trial for trial in shown if trial["state"] == state))[::-1]  # the best are drawn last
        if of_it:
            marks = {
                "color": [float(f"{trial['value']:.6g}") for trial in of_it], "cmin": low, "cmax": high, **scale,
                "size": 11 if state == "complete" else 7, "symbol": "circle" if state == "complete" else "circle-open",
                "showscale": state == ("complete" if whole else "pruned"),
                "colorbar": {"title": {"text": plotly_text(metric)}},
            }  # fmt: skip
            traces.append({
                "type": "scatter", "mode": "markers", "name": state, "marker": marks,
                "x": [trial["params"][TEMPERATURE] for trial in of_it],
                "y": [trial["params"][ENTROPY] for trial in of_it],
                "text": [hover(trial) for trial in of_it], "hovertemplate": "%{text}<br>%{marker.color}<extra></extra>",
            })  # fmt: skip
    axes: dict[str, dict[str, Any]] = {TEMPERATURE: {}, ENTROPY: {}}
    for path in axes:
        if _is_log(overview, path):
            axes[path] = log_axis(trial["params"][path] for trial in shown)
    layout = {
        "xaxis": {"title": {"text": "temperature"}} | axes[TEMPERATURE],
        "yaxis": {"title": {"text": "entropy weight"}} | axes[ENTROPY],
        "showlegend": False,
    }
    cells = " Cells are means of complete trials." if len(whole) >= ENOUGH else ""
    note = f"{metric} by colour; filled points ran to the end, open ones were pruned.{cells}" + of_them(shown, there)
    return Chart("weights", title, note, traces, layout, height=420)


def _cells(overview: Row, trials: Sequence[Row]) -> dict[str, Any]:
    edges = {}
    for path in (TEMPERATURE, ENTROPY):
        low, high = _extent([trial["params"][path] for trial in trials])
        if _is_log(overview, path):
            low, high = log10(low), log10(high)
            edges[path] = [10 ** (low + (high - low) * index / GRID) for index in range(GRID + 1)]
        else:
            edges[path] = [low + (high - low) * index / GRID for index in range(GRID + 1)]
    sums: dict[tuple[int, int], list[float]] = {}
    for trial in trials:
        x, y = (
            min(GRID - 1, sum(trial["params"][path] >= edge for edge in edges[path][1:]))
            for path in (TEMPERATURE, ENTROPY)
        )
        sums.setdefault((x, y), []).append(trial["value"])
    means = [
        [sum(found) / len(found) if (found := sums.get((x, y))) else None for x in range(GRID)] for y in range(GRID)
    ]
    return {"type": "heatmap", "x": edges[TEMPERATURE], "y": edges[ENTROPY], "z": means, "hoverinfo": "skip"}


def parallel(overview: Row) -> Chart:
    """Return the searched fields of complete trials as parallel coordinates, coloured by the metric."""
    metric, title = overview["status"]["metric"], "Settings side by side"
    there = [t for t in overview["trials"] if t["state"] == "complete" and t["value"] is not None]
    if len(there) < 2 or not overview["space"]:
        return Chart("parallel", title, "It takes two complete trials and a searched field.")
    shown = thinned(overview, there, MOST_POINTS)
    dimensions = [_dimension(path, bounds, shown) for path, bounds in overview["space"].items()]
    values = [float(f"{trial['value']:.6g}") for trial in shown]
    dimensions.append({"label": plotly_text(metric), "values": values})
    line = {
        "color": values, "colorscale": SCALE, "reversescale": overview["status"]["direction"] == "minimize",
        "showscale": False,
    }  # fmt: skip
    note = (
        f"One line per complete trial, coloured by {metric}; drag along an axis to pick a range. Where a field does "
        "not exist in a trial, its line passes through the lowest mark, -." + of_them(shown, there)
    )
    trace = {"type": "parcoords", "line": line, "dimensions": dimensions, "labelangle": -20}
    return Chart("parallel", title, note, [trace], {"margin": {"t": 90, "l": 70, "r": 80, "b": 40}}, height=420)


def _dimension(path: str, bounds: Row, trials: Sequence[Row]) -> dict[str, Any]:
    """Return one axis; where a field is missing in some trials, these lie at a mark of their own below the others."""
    label, values = plotly_text(path.split(".")[-1]), [trial["params"].get(path) for trial in trials]
    missing = [path not in trial["params"] for trial in trials]
    if "choices" in bounds:
        names = [str(choice) for choice in bounds["choices"]]
        names += sorted({str(v) for v, gone in zip(values, missing, strict=True) if not gone} - set(names))
        marks = ["-", *names] if any(missing) else names
        places = [marks.index("-" if gone else str(v)) for v, gone in zip(values, missing, strict=True)]
        ticks = {"tickvals": list(range(len(marks))), "ticktext": [plotly_text(mark) for mark in marks]}
        return {"label": label, "values": places, "range": [-0.1, len(marks) - 0.9], **ticks}
    log = bounds["log"]
    low, high = ((log10(bounds[key]) if log else float(bounds[key])) for key in ("low", "high"))
    gap = low - (high - low) * 0.15
    numbers = [gap if value is None else log10(value) if log else float(value) for value in values]
    marked = [low + (high - low) * share / 4 for share in range(5)]
    texts = [f"{10**mark if log else mark:.3g}" for mark in marked]
    if any(missing):
        marked, texts = [gap, *marked], ["-", *texts]
    low = min([*numbers, low])
    return {
        "label": label,
        "values": numbers,
        "range": [low, max([*numbers, high])],
        "tickvals": marked,
        "ticktext": texts,
    }


def _is_log(overview: Row, path: str) -> bool:
    return bool(overview["space"][path].get("log"))


def _extent(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if low < high else (low * 0.99 - 1e-9, high * 1.01 + 1e-9)
