"""What `rankray rehearse` shows: a table of strategies, and a plot of who has found the target by when."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH, HEIGHT, MARGIN = 640, 360, 50
COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5ea2", "#c08a1e", "#4a4e69")


def rehearsal_view(summaries: Sequence[Any], worlds: Sequence[Any], slots: int, random_median: float) -> RenderableType:
    """Return the strategies' figures, in full runs.

    Args:
        summaries: `rankray.rehearse.summary.Summary` of each strategy.
        worlds: `rankray.rehearse.worlds.World`, as many as were searched.
        slots: trials at a time.
        random_median: of random search, exact.
    """
    parts: list[RenderableType] = []
    for world in worlds:
        how = f"one seed sd, {world.seed_sd:.3g}, from it" if world.seed_sd else "the noise is unknown"
        parts.append(
            Text(
                f"{world.name}: best {world.best:.5g}, target {world.target:.5g} ({how}), reached by "
                f"{100 * world.share:.2g} % of the space"
            )
        )
    table = Table(box=None, padding=(0, 1), header_style="dim")
    titles = ("strategy", "found", "90 %", "chosen", "90 %", "spent", "wall", "CPU / trial", "ask", "report", "busy")
    for title in titles:
        table.add_column(title, justify="left" if title == "strategy" else "right")
    for each in summaries:
        figures = [each.quantile(what, part) for what in ("found", "chosen") for part in (0.5, 0.9)]
        figures += [each.quantile("spent", 0.5), each.quantile("wall", 0.5)]
        costs = (1e3 * each.cpu_seconds_per_trial, *map(each.milliseconds, ("ask_seconds", "report_seconds")))
        busy = f"{100 * each.busy_share(slots):.3g} %"
        table.add_row(each.name, *map(_runs, figures), *(f"{cost:.3g} ms" for cost in costs), busy)
    said = (
        f"cost in full runs, medians and 90 % quantiles, {slots} at a time; random search finds the target after "
        f"{_runs(random_median)} (exact median). CPU is the driver's: per trial in all, medians of a new trial and of "
        "a report; busy: the slots, with one driver, at one report a minute"
    )
    return Group(*parts, table, Text(said, style="dim"))


def reached_plot(summaries: Sequence[Any], shares: Sequence[float], *, is_synthetic: bool) -> str:
    """Return an SVG: the share of searches that have found the target, over the cost in full runs.

    Args:
        summaries: as for `rehearsal_view`.
        shares: how much of the space reaches the target in each world, for random search's exact line.
        is_synthetic: whether the figures are made up; the title then says so.
    """
    most = max([each.quantile("spent", 1.0) for each in summaries] + [1.0])
    title = "searches that have found the target" + (" (synthetic)" if is_synthetic else "")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="22" text-anchor="middle" font-size="14">{title}</text>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 10}" text-anchor="middle">cost, full runs</text>',
    ]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _at(part * most, part, most)
        parts.append(f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" text-anchor="end">{part:.2f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{part * most:.3g}</text>')
        parts.append(
            f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd" stroke-width="1"/>'
        )
    lines: list[tuple[str, list[tuple[float, float]], str]] = [
        ("random, exact", [(n, _random(n, shares)) for n in range(math.ceil(most) + 1)], "#999")
    ]
    for index, each in enumerate(summaries):
        found = sorted(one.found for one in each.replays)
        steps: list[tuple[float, float]] = [(0.0, 0.0)]
        for count, cost in enumerate(found, 1):
            if math.isfinite(cost):
                steps += [(cost, steps[-1][1]), (cost, count / len(found))]
        lines.append((each.name, [*steps, (most, steps[-1][1])], COLOURS[index % len(COLOURS)]))
    for index, (name, points, colour) in enumerate(lines):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_at(cost, part, most) for cost, part in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = MARGIN + 4 + 16 * index
        parts.append(
            f'<text x="{WIDTH - MARGIN - 8}" y="{y}" text-anchor="end" fill="{colour}">{_escaped(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _random(runs: float, shares: Sequence[float]) -> float:
    return math.fsum(1 - (1 - share) ** runs for share in shares) / len(shares)


def _at(cost: float, part: float, most: float) -> tuple[float, float]:
    x = MARGIN + (WIDTH - 2 * MARGIN) * min(cost / most, 1.0)
    return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * part


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _runs(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:.3g}"
