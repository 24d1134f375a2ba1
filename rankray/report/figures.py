"""Metrics with their errors: as a table, and which of a report's numbers are metrics of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.console import RenderableType
from rich.table import Table

BESIDE = ("_stderr", "_n")
"""Endings of what is shown with a metric, and not as one of its own."""


def metrics_among(names: Iterable[str]) -> list[str]:
    """Return each name once, without those of the errors and counts of others."""
    known = list(dict.fromkeys(names))
    beside = {f"{name}{end}" for name in known for end in BESIDE}
    return [name for name in known if name not in beside]


def with_error(metrics: Mapping[str, float | None], name: str) -> str:
    """Return a metric with its standard error, where it has one; - where it has no value."""
    value, error = metrics.get(name), metrics.get(f"{name}_stderr")
    shown = "" if error is None or math.isnan(error) else f" ± {error:.2g}"
    return "-" if value is None else f"{value:.5g}{shown}"


def figures_view(figures: Mapping[str, Mapping[str, float | None]]) -> RenderableType:
    """Return a table of metrics: value, standard error and number of examples."""
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in ("metric", "value", "± standard error", "examples"):
        table.add_column(title)
    for name, each in figures.items():
        value, error, count = each.get("value"), each.get("stderr"), each.get("n")
        table.add_row(
            name,
            "-" if value is None else f"{value:.5g}",
            "" if error is None else f"{error:.2g}",
            "" if count is None else f"{count:.0f}",
        )
    return table
