"""What `rankray diagnose` found: tables for a terminal, and a page with pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rankray.report.page import asset

Figure = dict[str, Any]

_COLUMNS = {
    "precision_top10": "precision of top 10 %",
    "recall_top10": "recall",
    "sequence_hit_rate": "sequences hit",
    "weight_on_noise": "weight on noise",
}


def diagnosis_view(found: Mapping[str, Any]) -> RenderableType:
    """Return the noise diagnostic for every objective, distributions, and tokens in context."""
    parts: list[RenderableType] = [
        Text(
            f"{found['tokens']} supervised tokens, {found['noise_rate']:.2%} of them replaced ({found['noise']}): "
            "how much of that noise is among the tenth of the tokens that an objective weights most (less is better)"
        ),
        _noise_table(found),
        Text("\nwithout noise: what the model makes of the data"),
        _distribution_table(found["distributions"]),
    ]
    for name, shown in found["shown"].items():
        parts.append(Text(f"\n{name}: trusts most, and least"))
        for each in (*shown["most"][:3], *shown["least"][:3]):
            weight = "-" if each["weight"] is None else f"{each['weight']:.3g}"
            noise = "  (noise)" if each["noise"] else ""
            parts.append(Text(f"  {weight:>9}  ...{_plain(each['before'])}[{_plain(each['token'])}]{noise}"))
    if "contamination" in found:
        seen = found["contamination"]
        parts.append(
            Text(
                f"\n{seen['completed']} of {seen['prompts']} prompts of data.{seen['split']} are completed by the "
                "untrained model from their first 60 %"
            )
        )
    return Group(*parts)


def noise_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the paper's Table 1, one for each objective, each form of S, and chance; titles first.

    An objective that has no weights without training has the reason instead.
    """
    chance = found["chance"] or {}
    forms = [(f"S ({form})", each) for form, each in found["forms"].items()]
    rows = [["objective", *_COLUMNS.values(), "times chance"]]
    for name, each in [*found["objectives"].items(), *forms, *([("chance", chance)] if chance else [])]:
        if each.get("why"):
            rows.append([name, each["why"]])
            continue
        ratio = ""
        if each.get("precision_top10") is not None and chance:
            ratio = f"{each['precision_top10'] / chance['precision_top10']:.2f}"
        rows.append([name, *(_percent(each.get(column)) for column in _COLUMNS), ratio])
    return rows


def _noise_table(found: Mapping[str, Any]) -> Table:
    titles, *rows = noise_rows(found)
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*row)
    return table


def _noise_html(found: Mapping[str, Any]) -> str:
    titles, *rows = noise_rows(found)
    head = "".join(f"<th>{html.escape(title)}" for title in titles)
    lines = []
    for name, *cells in rows:
        span = f" colspan={len(titles) - 1}" if len(cells) == 1 else ""
        lines.append(f"<tr><td>{html.escape(name)}" + "".join(f"<td{span}>{html.escape(cell)}" for cell in cells))
    return f"<table class=figures><thead><tr>{head}<tbody>{''.join(lines)}</table>"


def _distribution_table(distributions: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    columns = list(next(iter(distributions.values())))
    for title in ("", *columns):
        table.add_column(title)
    for name, each in distributions.items():
        table.add_row(name, *("-" if each[column] is None else f"{each[column]:.4g}" for column in columns))
    return table


def page(found: Mapping[str, Any], name: str) -> str:
    """Return a page of its own, with pictures and without references to anything outside it."""
    figures = [_noise_figure(found), _bounds_figure(found["scatter"]), _scale_figure(found["scatter"])]
    title = html.escape(f"{name}: what each objective trusts")
    places = "".join(f"<div id=picture-{number}></div>" for number in range(len(figures)))
    drawn = json.dumps(figures).replace("</", "<\\/")
    draw = f"{drawn}.forEach((it, n) => Plotly.newPlot('picture-' + n, it.data, it.layout, {{responsive: true}}))"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:15px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}td{padding:2px 8px}"
        ".figures :not(:first-child):is(td,th){text-align:right}th{padding:2px 8px;font-weight:600}"
        "b{background:#ffd9d9}code{white-space:pre-wrap}</style>"
        f"<script>{asset('plotly.min.js')}</script><h1>{title}</h1>"
        f"<p>{found['tokens']} supervised tokens, {found['noise_rate']:.2%} of them replaced "
        f"({html.escape(found['noise'])}): how much of that noise is among the tenth of the tokens that an objective "
        f"weights most. Less is better.</p>{_noise_html(found)}{places}<script>{draw}</script>"
        f"{_contexts(found['shown'])}</html>"
    )


def _noise_figure(found: Mapping[str, Any]) -> Figure:
    rows = {**found["objectives"], **{f"S ({form})": each for form, each in found["forms"].items()}}
    names = [name for name, each in rows.items() if each.get("precision_top10") is not None]
    data = []
    for column, title in _COLUMNS.items():
        heights = [rows[name][column] for name in names]
        chance = (found["chance"] or {}).get(column)
        data.append({"type": "bar", "x": [*names, "chance"], "y": [*heights, chance], "name": title})
    return {
        "data": data,
        "layout": {
            "title": {"text": "Noise among the tokens of the largest weights (less is better)"},
            "barmode": "group",
            "yaxis": {"tickformat": ".0%"},
        },
    }


def _bounds_figure(points: Mapping[str, list[float]]) -> Figure:
    most = max(points["expected_rank"])
    data: list[dict[str, Any]] = [
        {"x": points["expected_rank"], "y": points[name], "mode": "markers", "name": title, "opacity": 0.5}
        for name, title in (("bound (max_prob)", "low_entropy: max_prob"), ("bound (bound)", "low_entropy: bound"))
    ]
    data.append({"x": [1, most], "y": [1, most], "mode": "lines", "name": "E[R] itself: a bound lies below"})
    return _scattered(data, "The bounds of the expected rank, a point a token", "expected rank E[R]", "bound s")


def _scale_figure(points: Mapping[str, list[float]]) -> Figure:
    marker = {"color": points["entropy_bits"], "colorscale": "Viridis", "showscale": True, "size": 5}
    data = [{"x": points["p"], "y": points["scale"], "mode": "markers", "marker": marker}]
    title = "Relative scale S against the token's probability; colour: entropy in bits"
    return _scattered(data, title, "p of the true token", "S")


def _scattered(data: list[dict[str, Any]], title: str, x: str, y: str) -> Figure:
    axes = {f"{name}axis": {"type": "log", "title": {"text": text}} for name, text in (("x", x), ("y", y))}
    return {"data": [{"type": "scatter", **each} for each in data], "layout": {"title": {"text": title}, **axes}}


def _contexts(shown: Mapping[str, Any]) -> str:
    parts = ["<h2>Tokens in context</h2><p>Replaced ones are marked.</p>"]
    for name, each in shown.items():
        parts.append(f"<h3>{html.escape(name)}</h3><table>")
        for kind in ("most", "least"):
            for token in each[kind]:
                weight = "-" if token["weight"] is None else f"{token['weight']:.3g}"
                mark = "b" if token["noise"] else "u"
                parts.append(
                    f"<tr><td>{kind}<td>{weight}<td><code>…{html.escape(token['before'])}<{mark}>"
                    f"{html.escape(token['token'])}</{mark}></code>"
                )
        parts.append("</table>")
    return "".join(parts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _plain(text: str) -> str:
    return " ".join(text.split())
