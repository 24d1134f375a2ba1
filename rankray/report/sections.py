"""The parts of a report's page that are text and tables, as HTML. Whatever comes from the store passes `text`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import yaml

from rankray.report.board import alike_line, directions_line, figure, short_params, short_value, untried_line
from rankray.report.commands import resume_command, store_option, training_commands
from rankray.report.figures import metrics_among, with_error
from rankray.report.findings import Cost, better, cost, edges, failures, front, references, standings
from rankray.report.tables import finished_since, question

Row = Mapping[str, Any]
MOST_ROWS = 1000
"""Trials in the page's table; of more the best and the latest."""


def text(value: object) -> str:
    """Return a value as HTML that shows it as it is."""
    return escape(str(value))


def verdict(overview: Row) -> tuple[str, str]:
    """Return the verdict on the best setting as (word, sentence), as `confirm` found it or as it has to be without."""
    counts = overview["status"]["trials"]
    for found in overview["verdicts"]:
        return said(found)
    if overview["best"] is not None:
        if line := alike_line(str(overview["status"]["metric"]), overview["alike"]):
            return "not confirmed", _sentence(line)
        plain = " It is plain SFT: no other setting did better." if overview["best"].get("plain_sft") else ""
        return (
            "not confirmed",
            f"Best of {counts['complete'] + counts['pruned']} finished trials, on the data they were chosen by: expect "
            f"less on other data and other seeds.{plain}",
        )
    if counts["failed"] and not counts["pruned"] and not counts["running"]:
        return "failed", f"Every trial failed, {counts['failed']} of them. The reasons are below."
    running = f"; {counts['running']} running" if counts["running"] else ""
    return "nothing yet", f"No trial is complete: {counts['pruned']} pruned, {counts['failed']} failed{running}."


def _sentence(line: str) -> str:
    return f"{line[:1].upper()}{line[1:]}."


def said(found: Row) -> tuple[str, str]:
    """Return a verdict of `confirm` as (word, sentence); the sentence does not begin with the word again."""
    word, sentence = str(found["verdict"]["word"]), str(found["verdict"]["text"])
    return word, sentence.removeprefix(f"{word}: ")


def not_the_best(overview: Row) -> str:
    """Return, where `confirm` chose another trial than the one with the best figure, what that means; else ""."""
    best, confirmed = overview["best"], overview["confirmed"]
    if best is None or confirmed is None or best["number"] == confirmed["number"]:
        return ""
    used, more = overview["recommended"], since(overview)
    after = f" {more} trials have finished since then, and were not compared." if more else ""
    if used is None or used["number"] == best["number"]:
        if best.get("plain_sft"):
            return (
                f"Trial {best['number']}, which has the best figure of the search, is plain SFT. The verdict is on "
                f"trial {confirmed['number']}, the best of all other settings on new seeds.{after}"
            )
        return (
            f"The verdict is on trial {confirmed['number']}; trial {best['number']} has the best figure of the search."
            f"{after}"
        )
    return (
        f"Trial {best['number']} has the best figure of the search, {figure(best['value'])}; on new seeds confirm "
        f"chose trial {confirmed['number']}, and the commands are for that one.{after}"
    )


def since(overview: Row) -> int:
    """Return how many trials have finished since the confirmation that counts began; none of them was compared."""
    return finished_since(overview["verdicts"], overview["status"])


def commands(overview: Row) -> list[tuple[str, str]]:
    """Return what to type next, as (what for, command)."""
    status, best, origin = overview["status"], overview["recommended"], overview["origin"]
    study, store = shlex.quote(status["study"]), store_option(status["store"])
    if best is None:
        resume = [("start or resume the search", resume_command(origin))]
        return [*resume, ("see how far it is", f"rankray status {study} {store}")]
    found = [("resume the search", resume_command(origin))] if status["state"] == "interrupted" else []
    if not overview["verdicts"] and not origin["confirms"] and question(best, overview["objectives"]):
        found.append(("confirm it on fresh seeds", f"rankray confirm {study} {store}"))
    if since(overview) and not_the_best(overview):
        label = f"after-{status['budget']['finished']}"
        found.append(("confirm what was found since", f"rankray confirm {study} --label {label} {store}"))
    found += training_commands(origin, best, overview["verdicts"])
    if best.get("checkpoint_exists") is not False:
        found.append(("take the model away", f"rankray export {study} {best['number']} DIR {store}"))
    return [*found, ("look at the trial", f"rankray show {study} {best['number']} {store}")]


def head(overview: Row, written: str) -> str:
    """Return the title, the state, and links to the sections."""
    status = overview["status"]
    budget, counts = status["budget"], status["trials"]
    state = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no trial yet"
    names = (
        ("best", "Best"), ("board", "Leaderboard"), ("rates", "Learning rate"), ("curves", "Curves"),
        ("importance", "Importance"), ("weights", "Weights"), ("scale", "S"), ("parallel", "Settings"),
        ("timeline", "Time"),
        ("cost", "Cost"), ("trials", "Trials"), ("lineage", "Lineage"),
    )  # fmt: skip
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name in names)
    return (
        '<a class="skip" href="#best">Skip to the result</a>'
        f"<header><h1>{text(status['study'])}</h1>"
        f"<p>{text(status['state'])}: {budget['finished']} of {budget['trials']} trials finished ({text(state)}); "
        f"{text(selected_by(overview))}</p>"
        f'<p class="dim">rankray report, read {text(written)}</p></header>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n<main>\n'
    )


def cards(overview: Row) -> str:
    """Return the verdict and the best setting with the commands to go further."""
    word, sentence = verdict(overview)
    style = {"better": "better", "worse": "worse", "failed": "worse"}.get(word, "")
    extra = ""
    for found in overview["verdicts"][:1]:
        extra = _definitions(
            [
                *((side, f"{figure(each['mean'])} ({_interval(each['interval'])})") for side, each in _sides(found)),
                ("seeds of each", figure(found.get("seeds"))),
                ("difference", figure(found["verdict"]["difference"])),
                ("interval", _interval(found["verdict"]["interval"])),
            ]
        )
    for found in overview["verdicts"][1:]:
        other, why = said(found)
        extra += f"<p><b>{text(other)}</b> ({text(found['confirmation'])}): {text(why)}</p>"
    shown = f'<p class="figure {style}">{text(word)}</p><p>{text(sentence)}</p>{extra}'
    first = f'<div class="card"><h2>Verdict</h2>{shown}</div>'
    best, noted = overview["recommended"], not_the_best(overview)
    if best is None:
        second = ""
    else:
        names = metrics_among(name for name in best["metrics"] if name.startswith("eval/"))
        metrics = [(name, with_error(best["metrics"], name)) for name in names]
        edge = "".join(
            f'<p class="warn">{text(path)} lies at an end of its range: a better value may lie beyond. Widen it.</p>'
            for path in edges(overview)
        )
        about = (f"<p>{text(noted)}</p>" if noted else "") + edge
        title = "Confirmed" if "verdicts" in best else "Best"
        second = (
            f'<div class="card"><h2>{title} setting: trial {best["number"]}</h2>'
            f'<p class="figure">{text(overview["status"]["metric"])} = {figure(best["value"])}</p>'
            f"{_definitions((path, short_value(value)) for path, value in best['params'].items())}{about}"
            f"<details><summary>Its other metrics</summary>{_definitions(metrics)}</details></div>"
        )
    typed = "".join(
        f'<div class="command"><span>{text(what[0].upper() + what[1:])}</span><pre tabindex="0" id="command-{index}">'
        f'{text(command)}</pre><button type="button" data-copy="command-{index}" aria-label="Copy the command to '
        f'{text(what)}">Copy</button></div>'
        for index, (what, command) in enumerate(commands(overview))
    )
    return f'<section id="best" aria-label="Result"><div class="cards">{first}{second}</div>{typed}</section>\n'


def selected_by(overview: Row) -> str:
    """Return by what trials are selected: the metric with its direction, and the others of a study of several."""
    status, others = overview["status"], front(overview)[0][1:]
    also = f", and selected by {' and '.join(others)}" if others else ""
    return f"{status['direction']} {status['metric']}{also}"


def board(overview: Row) -> str:
    """Return the leaderboard by objective as a table, with the references below it."""
    found = standings(overview)
    if not found:
        return '<section id="board"><h2>Leaderboard</h2><p>No trial is finished yet.</p></section>\n'
    metric = text(overview["status"]["metric"])
    rows = [
        (
            text(each.objective),
            figure(each.best["value"]) if each.best else "only pruned trials",
            figure(each.within),
            f"{figure(each.rate)}{' (at the edge of its range)' if each.at_edge else ''}",
            str(each.best["number"]) if each.best else "-",
            f"{each.trials}",
            f"{each.steps}",
            text(short_params({p: v for p, v in each.best["params"].items() if p != "loss.objective"}))
            if each.best
            else "",
        )
        for each in found
    ]
    rows += [(text(label), figure(value), "", "", "", "", "", "reference") for label, value in references(overview)]
    given = min(each.steps for each in found)
    titles = ("objective", metric, f"within {given} steps", "learning rate", "trial", "trials", "steps", "settings")
    note = (
        "Each objective at the learning rate of its own best complete trial. A search spends more on what looks good, "
        f"so the third column compares at equal budget: the best that each had found within its first {given} steps."
    )
    missing = (
        f"<p>{text(_sentence(line))}</p>" if (line := untried_line(overview["untried"], overview["status"])) else ""
    )
    shown = _table("Leaderboard", titles, rows)
    return f'<section id="board"><h2>Leaderboard</h2><p>{note}</p>{shown}{missing}</section>\n'


def front_rows(overview: Row) -> tuple[list[str], list[tuple[str, ...]]]:
    """Return the titles and the rows of the trials that no other one beats in all metrics; none of a study of one."""
    metrics, rows = front(overview)
    shown = [
        (str(row["number"]), *(figure(row["metrics"].get(name)) for name in metrics), short_params(row["params"]))
        for row in rows
    ]
    return ["trial", *metrics, "settings"], shown if metrics else []


def front_table(overview: Row) -> str:
    """Return the table of `front_rows`, or nothing in a study of one metric."""
    titles, rows = front_rows(overview)
    if not rows:
        return ""
    shown = _table("No trial beats these", [text(each) for each in titles], [[*map(text, row)] for row in rows])
    ways = text(directions_line(overview["status"].get("directions") or {}))
    return f'<section id="unbeaten"><h2>No trial beats these</h2><p>{ways}</p>{shown}</section>\n'


def cost_and_failures(overview: Row) -> str:
    """Return what the search took, and why trials failed."""
    found = failures(overview)
    rows = [(text(reason), str(len(numbers)), ", ".join(map(str, numbers[:8]))) for reason, numbers in found]
    failed = _table("Failures by reason", ("reason", "trials", "numbers"), rows) if rows else "<p>No trial failed.</p>"
    return (
        f'<section id="cost"><h2>Cost</h2>{_definitions(cost_lines(cost(overview)))}</section>\n'
        f'<section id="failures"><h2>Failures</h2>{failed}</section>\n'
    )


def cost_lines(spent: Cost) -> list[tuple[str, str]]:
    """Return what a search took, as (what, how much)."""
    lines = [
        ("from first to last trial", hours(spent.wall_hours)),
        ("time of trials, all slots", hours(spent.trial_hours)),
        ("CPU hours reserved", f"{spent.cpu_hours:.3g}"),
        ("GPU hours reserved", f"{spent.gpu_hours:.3g}"),
        ("optimizer steps", f"{spent.steps}"),
        ("steps that pruning saved", f"{spent.saved_steps}"),
        ("work lost and done again", f"{spent.lost_steps} steps, {hours(spent.lost_hours)}"),
    ]
    return [line for line in lines if line[0] != "GPU hours reserved" or spent.gpu_hours]


def trials(overview: Row) -> str:
    """Return the table of trials, the best first."""
    rows = ranked(overview)
    metric = text(overview["status"]["metric"])
    cells = [
        (
            str(row["number"]), text(row["state"]), str(row["step"]),
            figure(row["value"]) + " (worse than untrained)" * bool(row.get("worse_than_untrained")),
            text(short_params(row["params"])),
            text(row["origin"] if row["origin"] != "sampler" else ""), text(str(row["reason"]).split("\n")[0]),
        )
        for row in rows[:MOST_ROWS]
    ]  # fmt: skip
    more = (
        f"<p>{MOST_ROWS} of {len(rows)} trials; all are in the CSV: --format csv.</p>" if len(rows) > MOST_ROWS else ""
    )
    table = _table("Trials, the best first", ("trial", "state", "step", metric, "settings", "origin", "reason"), cells)
    shown = table if cells else "<p>No trial yet.</p>"
    return f'<section id="trials"><h2>Trials</h2>{more}{shown}</section>\n'


def ranked(overview: Row) -> list[Row]:
    """Return the trials: complete ones, the best first, then pruned ones, then the others by number."""
    of = {state: [t for t in overview["trials"] if t["state"] == state] for state in ("complete", "pruned")}
    first = [*better(overview, of["complete"]), *better(overview, of["pruned"])]
    seen = {row["number"] for row in first}
    return [*first, *(row for row in overview["trials"] if row["number"] not in seen)]


def lineage(overview: Row) -> str:
    """Return versions, fingerprints, seeds and the whole configuration."""
    config = yaml.safe_dump(overview["config"], sort_keys=False, allow_unicode=True)
    return (
        f'<section id="lineage"><h2>Lineage</h2>{_definitions(lineage_lines(overview))}'
        f'<details><summary>The whole configuration</summary><pre tabindex="0">{text(config)}</pre></details>'
        "</section>\n</main>\n"
    )


def lineage_lines(overview: Row) -> list[tuple[str, str]]:
    """Return where a study comes from, as (what, which)."""
    config, lines = overview["config"], []
    for key, value in overview["provenance"].items():
        if key == "places":
            continue
        for name, part in value.items() if isinstance(value, Mapping) else [("", value)]:
            lines.append((f"{key} {name}".strip(), str(part)))
    lines += [("seed of the sampler", str(config["study"]["seed"])), ("seed of training", str(config["train"]["seed"]))]
    lines += [("store", str(overview["status"]["store"])), ("study id", str(overview["identity"]))]
    return lines + [(name, str(version)) for name, version in overview["versions"].items()]


def hours(value: float) -> str:
    """Return hours as people say them."""
    if value < 1 / 60:
        return f"{value * 3600:.0f} s"
    return f"{value * 60:.0f} min" if value < 2 else f"{value:.1f} h"


def _definitions(pairs: Iterable[tuple[object, object]]) -> str:
    return "<dl>" + "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in pairs) + "</dl>"


def _table(label: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already, in a box that scrolls and that a keyboard can reach."""
    top = "".join(f'<th scope="col">{title}</th>' for title in titles)
    long = {index for index, title in enumerate(titles) if title in ("settings", "reason")}
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=long' * (i in long and bool(cell))}>{cell}</td>" for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(label)}"><table>'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _sides(found: Row) -> list[tuple[str, Row]]:
    """Return what a verdict compares: the setting, and plain SFT at its own best rate."""
    setting, baseline = (found.get("finalists") or [None])[0], found.get("baseline")
    return [(name, each) for name, each in (("this setting", setting), ("plain SFT", baseline)) if each]


def _interval(ends: Any) -> str:
    return "-" if not ends else f"{figure(ends[0])} to {figure(ends[1])}"
