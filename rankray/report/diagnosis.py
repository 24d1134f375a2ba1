"""What `rankray diagnose` found: tables for a terminal, and a page with pictures."""

from __future__ import annotations

import html
import importlib.util
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rankray.errors import ConfigError

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


def _noise_table(found: Mapping[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("objective", *_COLUMNS.values(), "times chance"):
        table.add_column(title)
    chance = found["chance"] or {}
    forms = [(f"S ({form})", each) for form, each in found["forms"].items()]
    for name, each in [*found["objectives"].items(), *forms, *([("chance", chance)] if chance else [])]:
        if each.get("why"):
            table.add_row(name, each["why"])
            continue
        ratio = ""
        if each.get("precision_top10") is not None and chance:
            ratio = f"{each['precision_top10'] / chance['precision_top10']:.2f}"
        table.add_row(name, *(_percent(each.get(column)) for column in _COLUMNS), ratio)
    return table


def _distribution_table(distributions: Mapping[str, Mapping[str, float | None]]) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    columns = list(next(iter(distributions.values())))
    for title in ("", *columns):
        table.add_column(title)
    for name, each in distributions.items():
        table.add_row(name, *("-" if each[column] is None else f"{each[column]:.4g}" for column in columns))
    return table


def page(found: Mapping[str, Any], name: str) -> str:
    """Return a page of its own, with pictures and without references to anything outside it.

    Raises:
        ConfigError: plotly is not installed.
    """
    if importlib.util.find_spec("plotly") is None:
        raise ConfigError(
            "diagnose --output: needs the package plotly, which is not installed; allowed without it are the table and "
            "--json; pip install plotly"
        )
    from plotly.offline import get_plotlyjs

    figures = [_noise_figure(found), _bounds_figure(found["scatter"]), _scale_figure(found["scatter"])]
    pictures = "\n".join(figure.to_html(full_html=False, include_plotlyjs=False) for figure in figures)
    title = html.escape(f"{name}: what each objective trusts")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:15px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}td{padding:2px 8px}"
        "b{background:#ffd9d9}code{white-space:pre-wrap}</style>"
        f"<script>{get_plotlyjs()}</script><h1>{title}</h1>"
        f"<p>{found['tokens']} supervised tokens, {found['noise_rate']:.2%} of them replaced "
        f"({html.escape(found['noise'])}).</p>{pictures}{_contexts(found['shown'])}</html>"
    )


def _noise_figure(found: Mapping[str, Any]) -> Any:
    from plotly import graph_objects

    rows = {**found["objectives"], **{f"S ({form})": each for form, each in found["forms"].items()}}
    names = [name for name, each in rows.items() if each.get("precision_top10") is not None]
    figure = graph_objects.Figure()
    for column, title in _COLUMNS.items():
        heights = [rows[name][column] for name in names]
        figure.add_bar(x=[*names, "chance"], y=[*heights, (found["chance"] or {}).get(column)], name=title)
    figure.update_layout(title="Noise among the tokens of the largest weights (less is better)", barmode="group")
    figure.update_yaxes(tickformat=".0%")
    return figure


def _bounds_figure(points: Mapping[str, list[float]]) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    for name, title in (("bound (max_prob)", "low_entropy: max_prob"), ("bound (bound)", "low_entropy: bound")):
        figure.add_scattergl(x=points["expected_rank"], y=points[name], mode="markers", name=title, opacity=0.5)
    most = max(points["expected_rank"])
    figure.add_scattergl(x=[1, most], y=[1, most], mode="lines", name="E[R] itself: a bound lies below")
    figure.update_layout(title="The bounds of the expected rank, a point a token")
    figure.update_xaxes(type="log", title="expected rank E[R]")
    figure.update_yaxes(type="log", title="bound s")
    return figure


def _scale_figure(points: Mapping[str, list[float]]) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure()
    marker = {"color": points["entropy_bits"], "colorscale": "Viridis", "showscale": True, "size": 5}
    figure.add_scattergl(x=points["p"], y=points["scale"], mode="markers", marker=marker)
    figure.update_layout(title="Relative scale S against the token's probability; colour: entropy in bits")
    figure.update_xaxes(type="log", title="p of the true token")
    figure.update_yaxes(type="log", title="S")
    return figure


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
