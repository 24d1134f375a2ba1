"""Metrics with their errors, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import RenderableType
from rich.table import Table


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
