"""What `rankray confirm` prints: its plan before anything runs, its verdict at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rankray.report.board import duration, short_params

Tree = Mapping[str, Any]


def plan_view(plan: Tree) -> RenderableType:
    """Return what a confirmation would run and what it can tell.

    Args:
        plan: see `rankray.search.confirm.plan_figures`.
    """
    runs, metric = plan["runs"], plan["metric"]
    lines = [f"confirm {plan['study']}: {metric}, on {_where(plan['data'])}"]
    if plan["search_interrupted"]:
        lines.append(f"the search is not finished: its best so far is confirmed; rankray status {plan['study']}")
    if line := _sft_leads(plan):
        lines.append(line)
    took = plan["run_seconds"]
    cost = ""
    if took is not None:
        whole = duration(plan["seconds"])
        cost = f", about {duration(took)} each as in the search: {whole} in all, one after the other"
    lines.append(
        f"{runs['total']} runs at most ({runs['choose']} to choose, {runs['decide']} to decide; "
        f"{plan['steps']} steps){cost}"
    )
    candidates = _table("", f"search's {metric}", "settings")
    for title, side in (("finalist", "finalists"), ("plain SFT", "baselines")):
        for each in plan[side]:
            value = "-" if each["value"] is None else f"{each['value']:.4g}"
            number = "new rate" if each["number"] is None else f"trial {each['number']}"
            candidates.add_row(f"{title}, {number}", value, short_params(each["params"]))
    tells = _table("seeds of each", "half-width of the interval", "found in 80 % of all cases")
    for row in plan["tells"]:
        mark = "  (asked for)" if row["seeds"] == plan["seeds"] else ""
        tells.add_row(str(row["seeds"]), f"{row['half_width_sd']:.2f} seed sd", f"{row['found_sd']:.2f} seed sd{mark}")
    parts: list[RenderableType] = [*map(_plain, lines), _plain(""), candidates, _plain(""), tells]
    if len(plan["looks"]) > 1:
        looks = _table("look at", "its level", "half-width of the interval")
        for row in plan["looks"]:
            looks.add_row(f"{row['seeds']} seeds", f"{100 * row['level']:.2g} %", f"{row['half_width_sd']:.2f} seed sd")
        parts += [_plain(""), looks]
    return Group(*parts)


def _sft_leads(plan: Tree) -> str:
    """Return a line where plain SFT has the search's best figure, for the finalists are then not its best trials."""
    sign = -1.0 if plan["direction"] == "maximize" else 1.0
    first, sft = (
        min(
            (each for each in plan[side] if each["value"] is not None),
            key=lambda each: sign * each["value"],
            default=None,
        )
        for side in ("finalists", "baselines")
    )
    if first is None or sft is None or sign * sft["value"] > sign * first["value"]:
        return ""
    return (
        f"plain SFT has the best figure of the search ({sft['value']:.4g}, trial {sft['number']}): this asks whether "
        "the best other settings do better on new seeds"
    )


def verdict_view(verdict: Tree) -> RenderableType:
    """Return a verdict: the figures of what was compared, then the words.

    Args:
        verdict: see `rankray.search.confirmation.Confirmation.verdict`.
    """
    table = _table("", verdict["metric"], "95 % interval", "runs", "settings")
    for each in verdict["finalists"]:
        label = f"trial {each['number']}" + (" (chosen)" if each["chosen"] else "")
        table.add_row(label, *_figures(each), short_params(each["params"]))
    table.add_row("plain SFT, best rate", *_figures(verdict["baseline"]), short_params(verdict["baseline"]["params"]))
    word, _, rest = verdict["verdict"]["text"].partition(":")
    reasons = rest.strip().split("; ")
    text = Text.assemble((word, "bold"), f": {reasons[0]}")
    return Group(table, _plain(""), text, *[_plain(f"  {reason}") for reason in reasons[1:]])


def _figures(side: Tree) -> list[str]:
    mean = "-" if side["mean"] is None else f"{side['mean']:.4g}"
    interval = side["interval"]
    failed = f" ({side['failed']} failed)" if side["failed"] else ""
    return [
        mean,
        "-" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}",
        f"{len(side['values'])}{failed}",
    ]


def _where(data: Tree) -> str:
    split = data.get("split", "data.test" if data["is_test"] else "data.eval")  # verdicts of before have none
    fairer = ": data.test would be fairer" if split == "data.eval" else ""
    return f"{data['source']} ({split}{'' if data['is_test'] else ', which the search has seen'}{fairer})"


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _plain(line: str) -> Text:
    return Text(line)
