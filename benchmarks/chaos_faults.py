"""The store under faults that are no kills: a frozen server, dropped connections, damaged checkpoints, shifted clocks.

Two drivers work on a study in PostgreSQL, as in `chaos.py`, with checkpoints that carry a list of their files. Again
and again one of these happens at a random moment:

- `frozen`: all processes of the server are stopped for a while;
- `dropped`: all connections to the server are ended by it;
- `damaged`: in a committed checkpoint of a trial that has not ended, a bit is flipped, or a file halved or removed;
- `clock`: a driver is replaced by one whose clock is minutes off, and `delete` is asked for: it must be refused;
- `killed`: a driver is killed and started again.

Afterwards the invariants of `chaos.py` must hold. `chaos.py --faults N` runs this.
"""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import chaos
import psutil

from rankray.checkpoints import manifest
from rankray.config import Config
from rankray.contracts import Report
from rankray.errors import LeaseLost, StoreError, StoreUnavailable
from rankray.store import attach, open_study

KINDS = ("frozen", "dropped", "damaged", "clock", "killed")


def run_trial(study: Any, ticket: Any, place: Path) -> None:
    """Train as `chaos.run_trial` does, with checkpoints that are checked before they are resumed from."""
    state, done = repr(sorted(ticket.params.items())), 0
    if ticket.checkpoint:
        why = manifest.problem(Path(ticket.checkpoint))
        if why:
            study.damaged(ticket.number, ticket.checkpoint, why)
            chaos.note(place / "noticed", why)
            return
        state = (Path(ticket.checkpoint) / "model").read_text()
        done = int((Path(ticket.checkpoint) / "step").read_text())
    for step in range(done + 1, chaos.STEPS + 1):
        time.sleep(chaos.STEP_SECONDS)
        state = chaos.advance(state, step)
        chaos.note(place / "work", f"{ticket.number} {step}")
        if step % chaos.EVERY == 0:
            checkpoint = write(place / f"{ticket.number}-{step}-{study.driver}-{time.monotonic_ns()}", state, step)
            report = Report(step, {"eval/nll": chaos.measure(state, step)}, checkpoint)
            if persistently(lambda report=report: study.report(ticket.number, report)).stop:
                break
    else:
        last = {"eval/nll": chaos.measure(state, chaos.STEPS)}
        persistently(lambda last=last: study.complete(ticket.number, last))
    chaos.note(place / "ends", str(ticket.number))


def persistently(act: Any) -> Any:
    """Do something again while the store is away, as the outbox of a search does."""
    while True:
        try:
            return act()
        except StoreUnavailable:
            time.sleep(0.1)


def write(directory: Path, state: str, step: int) -> str:
    """Write a checkpoint with a list of its files, and return its path."""
    directory.mkdir()
    (directory / "model").write_text(state)
    (directory / "step").write_text(str(step))
    (directory / manifest.STATE_FILE).write_text('{"manifest": true}')
    manifest.write(directory)
    return str(directory)


def drive(url: str, config: str, place: str, shift: float) -> None:
    """Work on the study until it is done, with a clock that is off by `shift` seconds."""
    real = time.time
    time.time = lambda: real() + shift
    while True:
        try:
            with open_study(url, Config.model_validate_json(config), lease_seconds=10) as study:
                while not persistently(lambda study=study: study.done):
                    ticket = persistently(study.next_trial)
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


def damage(url: str, draw: random.Random) -> bool:
    """Damage a committed checkpoint of a trial that has not ended; return whether there was one."""
    from rankray.store.records import ticket_of

    tickets = [ticket_of(each, adopted=False) for each in attach(url, "chaos").trials() if not each.state.is_finished()]
    places = [Path(ticket.checkpoint) for ticket in tickets if ticket.checkpoint and Path(ticket.checkpoint).is_dir()]
    if not places:
        return False
    file = draw.choice(sorted(draw.choice(places).iterdir()))
    kind, content = draw.choice(["flipped", "halved", "gone"]), bytearray(file.read_bytes())
    if kind == "gone":
        file.unlink()
        return True
    content[len(content) // 2] ^= 1
    file.write_bytes(content if kind == "flipped" else content[: len(content) // 2])
    return True


def freeze(server: chaos.Server, seconds: float) -> None:
    """Stop all processes of a server for a while."""
    leader = psutil.Process(int((server.place / "data" / "postmaster.pid").read_text().splitlines()[0]))
    stopped = [leader, *leader.children(recursive=True)]
    for process in stopped:
        process.suspend()
    time.sleep(seconds)
    for process in stopped:
        if process.is_running():
            process.resume()


def drop(server: chaos.Server) -> None:
    """End all connections to a server."""
    server.server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


def faults(count: int, trials: int, draw: random.Random) -> dict[str, Any]:
    """Make so many faults, and return what happened and how many invariants were broken."""
    import tempfile

    from rankray.store.move import delete_study

    place, server, config = Path(tempfile.mkdtemp(prefix="rankray-faults-")), chaos.Server(), chaos.make_config(trials)
    url, made, deleted, changed = server.url, dict.fromkeys(KINDS, 0), 0, 0
    open_study(url, config)

    def start(shift: float = 0.0) -> Any:
        process = chaos.FORK.Process(target=drive, args=(url, config.model_dump_json(), str(place), shift))
        process.start()
        return process

    drivers = [start(), start()]
    seen: dict[tuple[int, int], Any] = {}
    for number in range(count):
        time.sleep(draw.uniform(0.0, 0.5))
        kind = KINDS[number % len(KINDS)]
        victim = draw.randrange(2)
        if kind == "frozen":
            freeze(server, 40.0 if number % 100 == 50 else draw.uniform(0.1, 1.5))
        elif kind == "dropped":
            drop(server)
        elif kind == "damaged":
            made[kind] -= not damage(url, draw)
            drivers[victim].kill()  # so that somebody resumes from it
            drivers[victim].join()
            drivers[victim] = start()
        else:
            drivers[victim].kill()
            drivers[victim].join()
            drivers[victim] = start(draw.choice([-3600.0, -300.0, 300.0, 3600.0]) if kind == "clock" else 0.0)
            if kind == "clock" and drivers[1 - victim].is_alive():
                try:
                    persistently(lambda: delete_study(url, "chaos"))
                    deleted += 1
                except StoreError as refused:
                    chaos.note(place / "refused", str(refused))  # as it has to be
        made[kind] += 1
        now = persistently(lambda: chaos.committed(attach(url, "chaos")))
        changed += sum(now.get(key) != value for key, value in seen.items())
        seen |= now
    for driver in drivers:
        driver.join(600)
    (place / "ends").touch()
    (place / "work").touch()
    found = chaos.judge(attach(url, "chaos"), place, trials, changed + deleted, drivers)
    noticed = len((place / "noticed").read_text().splitlines()) if (place / "noticed").exists() else 0
    return {"made": made, "damage noticed": noticed, "broken": found["broken"], "finished": found["finished"]}
