"""Whole: a store that somebody else wrote never ends a command in a traceback, and never reaches a terminal raw.

Lines of a journal and rows of a database are changed at random, from a seed. Whatever happens then is either shown or
refused in one line. `make test` tries a few hundred stores, `make test-all` thousands.
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankray.errors import RankrayError
from rankray.report.status import StatusView
from rankray.report.tables import objectives_view
from rankray.report.trial import TrialView
from rankray.store import attach, list_studies, open_study, views
from store.helpers import begin, make_config, said

CASES = [40, pytest.param(1000, marks=pytest.mark.slow)]
PLANTS: tuple[Any, ...] = (
    None, True, 0, -1, 10**30, 1.5, float("inf"), "", "x", "\x1b[31mred", "../../..", "/etc/passwd", "\x00", "\ud800",
    [], [1, [2]], {}, {"a": 1}, {"": {"": ""}}, "[bold]x[/]", "[/nonsense]", "9" * 4400, "2026-13-45",
)  # fmt: skip


def mutated(value: Any, draw: random.Random) -> Any:
    """Return a JSON value with something in it replaced, removed or added."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(list(value))
        changed = dict(value)
        if draw.random() < 0.15:
            del changed[key]
        elif draw.random() < 0.1:
            changed[draw.choice(["unknown", "", "rankray:step:x", "rankray:step:1:y"])] = draw.choice(PLANTS)
        else:
            changed[key] = mutated(value[key], draw)
        return changed
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], mutated(value[place], draw), *value[place + 1 :]]
    return draw.choice(PLANTS)


def mutated_text(line: str, draw: random.Random) -> str:
    if draw.random() < 0.3:
        at = draw.randrange(len(line) + 1)
        return draw.choice([line[:at], line[:at] + draw.choice("{}[],:\"'\x00é") + line[at:], "", "null", "[" * 5000])
    try:
        return json.dumps(mutated(json.loads(line), draw))
    except (ValueError, RecursionError):
        return line[::-1]


def make_study(url: str) -> None:
    config = make_config(study={"trials": 4, "max_failures_per_trial": 1})
    with open_study(url, config, provenance={"data": "d", "file": "f.yaml"}) as store:
        ticket = begin(store)
        for step in (10, 20):
            store.report(ticket.number, said(ticket.params, step))
        store.complete(ticket.number, {"eval/nll": 1.0})
        store.fail(begin(store).number, "broken", "Traceback")
        ticket = begin(store)
        store.report(ticket.number, said(ticket.params, 10))
        store.damaged(ticket.number, "checkpoint-10", "x")
        begin(store)


def texts(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(texts(key) + texts(each) for key, each in value.items())
    return "".join(map(texts, value)) if isinstance(value, list) else str(value)


def use(url: str) -> str:
    """Do what the verbs do, and return everything that is shown."""
    from rich.console import Console

    out = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    shown: list[Any] = []
    try:
        for name in list_studies(url):
            try:
                study = attach(url, name)
                status, rows = views.status(study), views.trials(study)
                shown += [name, study.storage.left_out, status, rows, views.best(study), views.objectives(study)]
                shown.append(views.untried(study))
                out.print(StatusView(status, rows), objectives_view(views.objectives(study), "eval/nll"))
                for row in rows:
                    trial = views.trial(study, row["number"])
                    shown.append(trial)
                    out.print(TrialView(trial))
                    json.dumps(trial, allow_nan=False).encode()
            except RankrayError as error:
                shown.append(str(error))
        try:
            open_study(url, make_config(study={"trials": 4, "max_failures_per_trial": 1}))
        except RankrayError as error:
            shown.append(str(error))
    except RankrayError as error:
        shown.append(str(error))
    out.file.close()
    return texts(shown)


def attack(cases: int, change: Callable[[], tuple[str, Any]]) -> None:
    for _ in range(cases):
        url, what = change()
        try:
            shown = use(url)
            assert not set(shown) & set(map(chr, [*range(9), *range(11, 32), 127])), "raw control characters"
        except Exception as error:
            raise AssertionError(f"after {what!r}"[:2000]) from error


@pytest.mark.parametrize("cases", CASES)
def test_journals(journal_url: str, cases: int, seed: int) -> None:
    draw, path = random.Random(seed), Path(journal_url.removeprefix("journal:///"))
    make_study(journal_url)
    lines = path.read_text().splitlines()

    def change() -> tuple[str, Any]:
        changed = list(lines)
        places = [draw.randrange(len(lines)) for _ in range(draw.choice([1, 1, 2, 5]))]
        for place in places:
            changed[place] = mutated_text(changed[place], draw)
        if draw.random() < 0.1:
            changed.insert(draw.randrange(len(lines)), draw.choice(lines))
        path.write_text("\n".join(changed) + draw.choice(["\n", ""]), errors="replace")
        return journal_url, [(place, changed[place][:200]) for place in places]

    attack(cases, change)
    print(f"journals: {cases} inputs tried, 0 failures")


@pytest.mark.parametrize("cases", CASES)
def test_rows(sqlite_url: str, cases: int, seed: int) -> None:
    draw, path = random.Random(seed), Path(sqlite_url.removeprefix("sqlite:///"))
    make_study(sqlite_url)
    kept = path.with_name("kept.db")
    sqlite3.connect(path).execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(path, kept)
    tables = {
        "study_user_attributes": ("value_json", "key"),
        "trial_user_attributes": ("value_json", "key"),
        "trial_system_attributes": ("value_json",),
        "trial_params": ("param_value", "distribution_json", "param_name"),
        "trial_values": ("value",),
        "trials": ("state", "number", "datetime_start"),
        "studies": ("study_name",),
    }

    def change() -> tuple[str, Any]:
        changed = path.with_name(f"{draw.getrandbits(64)}.db")  # connections to the one before may still be open
        shutil.copy(kept, changed)
        done = []
        connection = sqlite3.connect(changed)
        for _ in range(draw.choice([1, 1, 2, 5])):
            table = draw.choice([*tables, "trial_user_attributes", "trial_user_attributes", "study_user_attributes"])
            column = draw.choice(tables[table])
            rows = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            if rows:
                row, value = draw.choice(rows)
                text = mutated_text(str(value), draw).encode(errors="replace").decode()
                connection.execute(f"UPDATE OR IGNORE {table} SET {column} = ? WHERE rowid = ?", (text, row))
                done.append((table, column, row, text[:200]))
        connection.commit()
        connection.close()
        return f"sqlite:///{changed}", done

    attack(cases, change)
    print(f"rows of databases: {cases} inputs tried, 0 failures")
