"""Reports as files, in each format."""

import csv
import io
import json
import os

import pytest
from fixtures.overviews import NASTY, make_overview

from rankray.errors import UserError
from rankray.report.browser import find_browser
from rankray.report.write import FORMATS, format_of, render, write


@pytest.mark.parametrize(
    ("given", "output", "expected"),
    [("", None, "html"), ("md", None, "md"), ("", "a.csv", "csv"), ("json", "a.html", "json"), ("", "a.HTM", "html")],
)
def test_the_format_is_the_one_given_or_the_files(given, output, expected, tmp_path):
    assert format_of(given, output and tmp_path / output) == expected


@pytest.mark.parametrize(("given", "output", "where"), [("pdf", None, "--format"), ("", "a.txt", "-o a.txt")])
def test_an_unknown_format_is_refused(given, output, where, tmp_path, monkeypatch):
    from pathlib import Path

    with pytest.raises(UserError, match=rf"report: {where}: unknown format .*allowed: html, md, json, csv, png"):
        format_of(given, output and Path(output))


def test_json_is_the_overview():
    overview = make_overview(5)
    assert json.loads(render(overview, "json")) == overview


def test_csv_has_a_row_per_trial():
    overview = make_overview(30, nasty=NASTY)
    rows = list(csv.DictReader(io.StringIO(render(overview, "csv").decode())))
    assert [int(row["number"]) for row in rows] == list(range(30))
    assert [float(row["value"]) if row["value"] else None for row in rows] == [t["value"] for t in overview["trials"]]
    assert {row["params.loss.objective"] for row in rows} == {t["params"]["loss.objective"] for t in overview["trials"]}
    assert rows[0]["metrics.train/loss"] == ""
    assert render(make_overview(0), "csv").decode().startswith("number,state,value")


@pytest.mark.parametrize("states", [None, ("failed",), ("pruned",), ("running",)])
@pytest.mark.parametrize("trials", [0, 1, 60])
def test_markdown_of_every_study(trials, states):
    text = render(make_overview(trials, states=states), "md").decode()
    for heading in ("# made", "## Leaderboard", "## What mattered", "## Cost", "## Lineage"):
        assert f"{heading}\n" in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert min(widths) >= 3
    assert "nan" not in text.lower().split()


def test_markdown_shows_what_the_store_holds_as_it_is():
    text = render(make_overview(40, nasty=NASTY), "md").decode()
    outside = "".join(text.split("```")[::2])
    assert "<script" not in outside
    assert "<img" not in outside


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on PATH")
def test_a_picture_is_a_png_of_the_whole_page():
    data = render(make_overview(12), "png")
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    assert width == 1280
    assert height > 3000


def test_a_file_is_replaced_at_once_and_one_that_cannot_be_written_is_named(tmp_path):
    file = tmp_path / "report.html"
    for data in (b"one", b"two"):
        write(data, file)
    assert file.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(UserError, match=r"missing.*cannot be written.*choose another with -o"):
        write(b"", tmp_path / "missing" / "report.html")
    assert "png" in FORMATS


def test_what_is_no_plain_file_is_written_to_and_stays_what_it_is(tmp_path):
    """A report to /dev/stdout, by root, made a plain file of it: for every program of the machine."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write(b"page", pipe)
    assert os.read(reader, 10) == b"page"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_link_stays_a_link(tmp_path):
    file, link = tmp_path / "r.html", tmp_path / "latest.html"
    link.symlink_to(file)
    write(b"page", link)
    assert link.is_symlink()
    assert file.read_bytes() == b"page"
