"""A study's state in the terminal."""

import io

import pytest
from fixtures.overviews import make_overview
from rich.console import Console

from rankray.report.status import StatusView


def shown(overview, width, **options):
    console = Console(file=io.StringIO(), width=width)
    status = overview["status"] | {"best": overview["best"]}
    console.print(StatusView(status, overview["trials"], **options))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_no_line_is_wrapped_and_figures_are_whole(width):
    overview = make_overview(60)
    lines = shown(overview, width)
    assert max(map(len, lines)) <= width
    first = lines[5].split()
    best = overview["best"]
    assert first[:4] == [str(best["number"]), "complete", "40", f"{best['value']:.5g}"]
    assert len(lines) == 5 + 20 + 1
    assert lines[-1] == "... and 40 more; all of them with rankray report"


def test_running_trials_come_first_and_pruned_ones_are_marked():
    overview = make_overview(6, states=("pruned", "failed", "complete", "running"))
    states = [line.split()[1] for line in shown(overview, 120)[5:]]
    assert states == ["running", "complete", "pruned", "pruned", "failed", "failed"]
    assert any("OutOfMemoryError: no room" in line for line in shown(overview, 160))


def test_a_study_of_several_metrics_shows_them_all():
    overview = make_overview(6)
    names = ["eval/accuracy", "eval/nll", "eval/arc/accuracy"]
    overview["status"]["metrics"] = names
    for row in overview["trials"]:
        row["metrics"] = {"eval/nll": 1.25 + row["number"]}
    title, first, *_ = (line.split() for line in shown(overview, 200)[3:])
    assert title[:7] == ["trial", "state", "step", *names, "settings"]
    assert first[4:6] == [f"{1.25 + int(first[0]):.5g}", "-"]


def test_an_empty_study():
    assert shown(make_overview(0), 80) == ["made  interrupted  0/1 finished", "no trial yet"]
