"""How long `rankray report` takes on a large study, from the command's start to its end, and how large its page is.

A study of N ended trials is written into SQLite in bulk (not timed). Then the command runs in a process of its own, as
it is typed, three times for each format; the median is printed, wall time and CPU time, because other programs on the
machine change only the first.

    python benchmarks/report.py --trials 1000 10000
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from store import fill, make_config

from rankray.store import open_study

FORMATS = ("html", "md", "json", "csv")
ROUNDS = 3


def timed(command: list[str], directory: Path) -> tuple[float, float]:
    """Run a command; return its wall and CPU seconds."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, cwd=directory, stdout=subprocess.DEVNULL)
    wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000])
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}")
    for trials in options.trials:
        with tempfile.TemporaryDirectory(prefix="rankray-report-") as name:
            directory = Path(name)
            url = f"sqlite:///{directory}/store.db"
            study = open_study(url, make_config("s", trials))
            fill(study.storage, study.study_id, trials, ours=True)
            for kind in options.formats:
                command = [sys.executable, "-m", "rankray", "report", "s", "--store", url, "-o", f"report.{kind}"]
                rounds = [timed(command, directory) for _ in range(ROUNDS)]
                wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
                size = (directory / f"report.{kind}").stat().st_size / 1e6
                print(f"{trials} trials, {kind}: {wall:.1f} s, CPU {cpu:.1f} s, {size:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
