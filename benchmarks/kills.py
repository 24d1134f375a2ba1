"""Kill a search again and again, and count what was lost.

Starts `rankray search` in a process group of its own, kills the whole group with SIGKILL at a random moment, starts the
same command again, and so on; the last start runs to the end. Then the study is compared with the reports that were
stored before each kill.

    python benchmarks/kills.py --kills 10 --trials 12
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stories import rankray, recorded, status, write_search

from rankray.errors import RankrayError


def main() -> int:
    """Run, print, and return the number of broken invariants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--longest", type=float, default=22.0, help="longest time to a kill, in seconds")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    draw = random.Random(seed)
    directory = options.directory or Path(tempfile.mkdtemp(prefix="rankray-kills-"))
    store = f"sqlite:///{directory}/store.db"
    file = write_search(directory, trials=options.trials, store=store)
    seen: dict[tuple[int, int], dict[str, float]] = {}
    changed = done_early = 0
    begun = time.monotonic()
    for kill in range(options.kills):
        after = draw.uniform(1.0, options.longest)
        ended = run_and_kill(file, directory, after)
        now = stored_reports(store)
        changed += sum(now.get(key) != value for key, value in seen.items())
        seen |= now
        done_early += ended
        print(f"kill {kill + 1}: after {after:4.1f} s, {len(now)} reports in the store" + " (ended before)" * ended)
    last = rankray("search", str(file))
    now, state = stored_reports(store), status("stories", store)
    changed += sum(now.get(key) != value for key, value in seen.items())
    broken = changed + (last.returncode != 0) + (state["trials"]["running"] + state["trials"]["waiting"])
    broken += state["budget"]["finished"] != options.trials
    print(last.stdout[-1500:] if last.returncode == 0 else last.stdout + last.stderr)
    print(
        f"seed {seed}: {options.kills} kills ({done_early} came after the end), {time.monotonic() - begun:.0f} s; "
        f"finished {state['budget']['finished']}/{options.trials}, {state['trials']}; "
        f"recorded values changed or lost: {changed}; broken invariants: {broken}"
    )
    return broken


def run_and_kill(file: Path, directory: Path, after: float) -> bool:
    """Start the search and kill its process group after some seconds; return whether it had ended by itself."""
    with open(directory / "log.txt", "a") as log:
        command = [sys.executable, "-m", "rankray", "search", str(file)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(timeout=after)
            return True
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return False


def stored_reports(store: str) -> dict[tuple[int, int], dict[str, float]]:
    """Return the reports in the store; none if there is no study yet."""
    try:
        return recorded("stories", store)
    except RankrayError:
        return {}


if __name__ == "__main__":
    sys.exit(main())
