"""The report of a study as Markdown: what can be pasted into an issue or a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankray.report.board import directions_line, figure, short_params, short_value, untried_line
from rankray.report.findings import cost, edges, failures, few_trials, references, standings
from rankray.report.sections import (
    commands,
    cost_lines,
    front_rows,
    lineage_lines,
    not_the_best,
    ranked,
    said,
    selected_by,
    verdict,
)

Row = Mapping[str, Any]
MOST_ROWS = 20


def markdown(overview: Row, written: str) -> str:
    """Return the report; see `rankray.report.page.page` for the arguments."""
    status, best, noted = overview["status"], overview["recommended"], not_the_best(overview)
    metric, budget = status["metric"], status["budget"]
    counts = ", ".join(f"{count} {name}" for name, count in status["trials"].items() if count) or "no trial yet"
    word, sentence = verdict(overview)
    lines = [
        f"# {plain(status['study'])}",
        "",
        f"{status['state']}: {budget['finished']} of {budget['trials']} trials finished ({counts}); "
        f"{plain(selected_by(overview))}. Read {written}.",
        "",
        f"**{plain(word)}**: {plain(sentence)}",
        "",
    ]
    for found in overview["verdicts"][1:]:
        other, why = said(found)
        lines += [f"**{plain(other)}** ({plain(found['confirmation'])}): {plain(why)}", ""]
    if best is not None:
        title = "Confirmed" if "verdicts" in best else "Best"
        lines += [f"## {title}: trial {best['number']}, {plain(metric)} = {figure(best['value'])}", ""]
        lines += [plain(noted), ""] if noted else []
        lines += _table(("setting", "value"), [(path, short_value(value)) for path, value in best["params"].items()])
        lines += [f"{plain(path)} lies at an end of its range: widen it.\n" for path in edges(overview)]
    for what, command in commands(overview):
        lines += [f"To {what}:", "", "```", command.replace("```", "'''"), "```", ""]
    lines += ["## Leaderboard", ""]
    rows = [
        (each.objective, figure(each.best["value"]) if each.best else "only pruned trials", figure(each.within),
         figure(each.rate) + " (edge)" * each.at_edge, str(each.trials),
         short_params(each.best["params"]) if each.best else "")
        for each in standings(overview)
    ]  # fmt: skip
    rows += [(label, figure(value), "", "", "", "") for label, value in references(overview)]
    lines += _table(("objective", metric, "at equal budget", "learning rate", "trials", "settings"), rows)
    lines += [f"{plain(line)}.\n"] if (line := untried_line(overview["untried"], status)) else []
    titles, unbeaten = front_rows(overview)
    ways = plain(directions_line(status.get("directions") or {}))
    lines += ["## No trial beats these", "", ways, "", *_table(titles, unbeaten)] if unbeaten else []
    found = overview["importance"]
    lines += ["## What mattered", ""]
    if found["values"]:
        lines += _table(("field", "importance"), [(path, f"{share:.0%}") for path, share in found["values"].items()])
        lines += [few_trials(found).strip(), ""] if few_trials(found) else []
    else:
        lines += [f"Nothing is said about importance: {plain(found['why'])}.", ""]
    lines += ["## Cost", "", *_table(("what", "how much"), cost_lines(cost(overview)))]
    if failed := failures(overview):
        lines += ["## Failures", "", *_table(("reason", "trials"), [(reason, str(len(n))) for reason, n in failed])]
    trials = ranked(overview)
    lines += [f"## Trials{f', {MOST_ROWS} of {len(trials)}' if len(trials) > MOST_ROWS else ''}", ""]
    lines += _table(
        ("trial", "state", "step", metric, "settings", "reason"),
        [
            (str(t["number"]), t["state"], str(t["step"]), figure(t["value"]), short_params(t["params"]), t["reason"])
            for t in trials[:MOST_ROWS]
        ],
    )
    lines += ["## Lineage", "", *_table(("what", "which"), lineage_lines(overview))]
    return "\n".join(lines).rstrip() + "\n"


def plain(value: object) -> str:
    """Return a text from the store as Markdown that shows it as it is, on one line."""
    text = " ".join(str(value).split())
    for mark in "\\`*_[]<>|#&":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>&" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}[mark])
    return text


def _table(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    if not rows:
        return ["None yet.", ""]
    lines = [titles, ["---"] * len(titles), *rows]
    return [
        "| " + " | ".join(str(cell) if index == 1 else plain(cell) for cell in line) + " |"
        for index, line in enumerate(lines)
    ] + [""]
