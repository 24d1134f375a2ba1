"""`rankray report`: a file, in the format that was asked for."""

import json
import subprocess
import sys

from fixtures.overviews import make_overview
from fixtures.waiting import instead_of_sleep

from rankray.cli import pages


def test_report_writes_one_page(rankray, url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rankray("report", "s", "--store", url)
    assert said.startswith("wrote report.html: 3 of 3 trials finished")
    text = (tmp_path / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "rankray show s" in text
    assert "rankray confirm s" not in text, "all trials are plain SFT: there is nothing to compare it with"
    assert "every complete trial is plain SFT" in rankray("confirm", "s", "--plan", "--store", url, expect=2)


def test_report_in_another_format(rankray, url, tmp_path):
    rankray("report", "s", "--store", url, "-o", str(tmp_path / "r.json"))
    found = json.loads((tmp_path / "r.json").read_text())
    assert len(found["trials"]) == 3
    assert rankray("report", "s", "--store", url, "-o", "-", "--format", "md").startswith("# s\n")
    assert "unknown format 'pdf'" in rankray("report", "s", "--store", url, "--format", "pdf", expect=2)
    assert "-o - prints once" in rankray("report", "s", "--store", url, "-o", "-", "--format", "png", expect=2)


def test_watch_writes_until_the_search_ends(rankray, url, tmp_path, monkeypatch):
    """The study is running twice, then complete; nobody waits."""
    waits = []
    running = make_overview(2)
    running["status"]["state"] = "running"
    states = [running, running, make_overview(3, states=("complete",))]
    monkeypatch.setattr("rankray.store.overview.overview", lambda study: states.pop(0))
    instead_of_sleep(monkeypatch, waits.append)
    said = rankray("report", "s", "--store", url, "--watch", "-o", str(tmp_path / "r.html"))
    assert waits == [pages.WATCH_SECONDS] * 2
    assert said.count("wrote ") == 3
    assert "the search is complete: no longer watching" in said
    assert 'http-equiv="refresh"' not in (tmp_path / "r.html").read_text().split("<script")[0]


def test_a_report_needs_neither_torch_nor_ray(url, tmp_path):
    code = (
        "import sys; from rankray.cli.app import main\n"
        f"sys.argv = ['rankray', 'report', 's', '--store', {url!r}, '-o', {str(tmp_path / 'r.html')!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'ray', 'transformers', 'datasets'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
