"""The report of a study as one HTML page that needs nothing else: no network, no server, no other file.

The store is input: every text from it is escaped, the charts' data are JSON in which no tag can begin, and the page's
content security policy allows its own three pieces of script and style alone (by their hashes) and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from rankray.report import charts, charts_space, charts_time, sections
from rankray.report.charts import Chart
from rankray.report.findings import front

Row = Mapping[str, Any]
CHARTS: tuple[Callable[[Row], Chart], ...] = (
    charts_space.leaderboard,
    charts.rates,
    charts.curves,
    charts.importances,
    charts_space.weight_map,
    charts.scales,
    charts.spreads,
    charts_space.parallel,
    charts_time.times,
)


def asset(name: str) -> str:
    """Return a file that is part of every page."""
    return (files("rankray.report") / "assets" / name).read_text(encoding="utf-8")


def page(overview: Row, written: str, refresh_seconds: int | None = None) -> str:
    """Return the page.

    Args:
        overview: the study, as `rankray.store.overview.overview` returns it.
        written: when the study was read, for people.
        refresh_seconds: reload the page that often, for a file that is written again and again; None never does.
    """
    several, _ = front(overview)
    made = [make(overview) for make in (*CHARTS[:1], *([charts_space.trade_off] if several else []), *CHARTS[1:])]
    scripts = [asset("plotly.min.js"), asset("page.js")]
    policy = f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src 'unsafe-inline'; img-src data:"
    name = escape(str(overview["status"]["study"]))
    refresh = f'<meta http-equiv="refresh" content="{refresh_seconds}">\n' if refresh_seconds else ""
    drawn = [
        {"key": each.key, "traces": each.traces, "layout": (each.layout or {}) | {"height": each.height}}
        for each in made
        if each.traces is not None
    ]
    parts = [
        sections.head(overview, written),
        sections.cards(overview),
        sections.board(overview),
        sections.front_table(overview),
        "<noscript><p>The charts need JavaScript, which is off here. Open this file in a browser.</p></noscript>",
        f'<div class="figures">{"".join(map(_figure, made))}</div>',
        sections.cost_and_failures(overview),
        sections.trials(overview),
        sections.lineage(overview),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{refresh}'
        f"<title>{name} - rankray report</title>\n<style>{asset('page.css')}</style>\n"
        "<noscript><style>.chart, button { display: none; }</style></noscript>\n</head>\n<body>\n"
        f"{''.join(parts)}"
        f'<script type="application/json" id="charts">{_json(drawn)}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body>\n</html>\n"
    )


def _figure(chart: Chart) -> str:
    title, note = escape(chart.title), escape(chart.note)
    drawing = ""
    if chart.traces is not None:
        drawing = (
            f'<div class="chart" id="chart-{chart.key}" role="img" aria-label="{title}" '
            f'aria-describedby="note-{chart.key}" style="height:{chart.height}px"></div>'
        )
    return (
        f'<section id="{chart.key}" aria-labelledby="title-{chart.key}"><h2 id="title-{chart.key}">{title}</h2>'
        f'<figure>{drawing}<figcaption id="note-{chart.key}">{note}</figcaption></figure></section>\n'
    )


def _json(value: Any) -> str:
    """Return JSON in which no tag or comment can begin or end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
