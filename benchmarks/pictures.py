"""The two pictures of the README: a report, and the live view, both of one search of the quickstart's world.

    python benchmarks/pictures.py --directory DIR [--trials 20]

The world is made in DIR if it is not there, and searched: a few minutes on two cores. While the search runs, its live
view is taken as SVG from a terminal of 100 columns whenever a trial ends, and the one in the middle of the search is
kept. At the end the top of the report is taken by a headless Chromium. Both are written to docs/pictures/.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from rankray.cli.common import load, preflight
from rankray.cli.lineage import lineage
from rankray.quickstart.build import build_world
from rankray.report.board import Board
from rankray.report.browser import Browser
from rankray.report.live import View
from rankray.report.page import page
from rankray.search import run_search
from rankray.store import attach, open_study
from rankray.store.overview import overview

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
LARGEST_BYTES = 300_000
COLUMNS, LINES = 100, 16
WINDOW = 1180, 1660
"""Of the report: from the verdict to the first curves; in CSS pixels."""


class Photographer(Board):
    """A board that keeps what a terminal would show after each end of a trial."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.taken: dict[int, str] = {}

    def reported(self, number: int, report: Any) -> None:
        """Note a report; and take the view, where trials run and some are finished."""
        super().reported(number, report)
        if self.finished:
            console = Console(file=io.StringIO(), record=True, width=COLUMNS, height=LINES, force_terminal=True)
            console.print(View(self))
            svg = console.export_svg(title="rankray search quickstart.yaml")
            self.taken[self.finished] = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # asks no font server


def searched(directory: Path, trials: int) -> tuple[Any, Photographer]:
    """Search the world; return the study and the board that watched it."""
    file = build_world(directory, progress=print)
    loaded = load(file, [f"study.trials={trials}"], name="pictures")
    study = open_study(loaded.config.store, loaded.config, provenance=preflight(loaded).fingerprints | lineage(loaded))
    config = study.config
    board = Photographer(
        config.name,
        config.study.metric,
        maximize=config.direction == "maximize",
        budget=config.study.trials,
        max_steps=config.full_steps,
    )
    if study.done:
        raise SystemExit(
            f"{directory} holds a finished search, of which no live view can be taken; give a new directory"
        )
    run_search(study, board)
    return study, board


def write(name: str, data: bytes) -> None:
    """Write a picture, which must be small enough for a README."""
    assert len(data) < LARGEST_BYTES, f"{name} has {len(data)} bytes"
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / name).write_bytes(data)
    print(f"wrote {PICTURES / name}: {len(data) / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--report-only", action="store_true", help="of a search that has been done in DIR")
    options = parser.parse_args()
    if options.report_only:
        study = attach(f"sqlite:///{options.directory.absolute()}/rankray.db", "pictures")
    else:
        study, board = searched(options.directory, options.trials)
        middle = min(board.taken, key=lambda finished: abs(finished - options.trials * 2 // 3))
        write("live.svg", board.taken[middle].encode())
    found = overview(study)
    found["status"]["store"] = "sqlite:///rankray.db"  # as in a working directory, wherever DIR is
    found["origin"]["file"] = "quickstart.yaml"
    file = options.directory / "report.html"
    file.write_text(page(found, "at the end of the search"), encoding="utf-8")
    with Browser() as browser:
        browser.open(file, width=WINDOW[0], height=WINDOW[1])
        write("report.png", browser.picture(whole=False))


if __name__ == "__main__":
    main()
