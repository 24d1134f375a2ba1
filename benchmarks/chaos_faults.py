"""The store under faults that are no kills: a frozen server, dropped connections, damaged checkpoints, shifted clocks.

Two drivers work on a study in PostgreSQL, as in `chaos.py`, with checkpoints that carry a list of their files. Again
and again one of these happens at a random moment:

- `frozen`: all processes of the server are stopped for a while;
- `dropped`: all connections to the server are ended by it;
- `damaged`: in a committed checkpoint of a trial that has not ended, a bit is flipped, or a file halved, or
  `optimizer.pt` deleted; its driver is killed, so that the trial is resumed;
- `clock`: a driver is replaced by one whose clock is minutes off, and `delete` is asked for: it must be refused;
- `killed`: a driver is killed and started again;
- `terminated`: a driver gets SIGTERM, every other time while the server is frozen, and must end within 20 s.

Drivers answer signals with the code that a search answers them with. Afterwards the invariants of `chaos.py` must hold.
`chaos.py --faults N` runs this.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import chaos
import psutil

from rankray.checkpoints import manifest
from rankray.config import Config
from rankray.contracts import Report
from rankray.errors import LeaseLost, StoreError, StoreUnavailable
from rankray.search.control import Control, interruptible
from rankray.search.experiment import interrupter
from rankray.search.news import News
from rankray.store import attach, open_study
from rankray.store.move import delete_study
from rankray.store.records import ticket_of

KINDS = ("frozen", "dropped", "damaged", "clock", "killed", "terminated")
WAYS = ("flipped", "halved", "optimizer.pt deleted")
ANSWER_SECONDS = 20.0
"""How long a driver may take to end after SIGTERM."""
LEASE_SECONDS = 10.0
STEP_SECONDS = 0.02
WORK_SECONDS = 10.0
"""How long the next fault waits for work that it can disturb."""
MANY, MORE = 10**6, 10
"""Trials that the study is to have while faults are made, and how many more than by then are finished it is to have."""


class Interrupted(Exception):
    """The driver has been asked to end."""


class Worker:
    """The trials of one driver, trained as `chaos.run_trial` does."""

    def __init__(self, study: Any, control: Control, place: Path) -> None:
        self.study, self.control, self.place = study, control, place

    def run(self) -> None:
        """Work until the study is done or the driver is interrupted."""
        with interruptible(interrupter(self.study, self.control, News())), self.study:
            try:
                while not self.persistently(lambda: self.study.done):
                    ticket = self.persistently(self.study.next_trial)
                    if ticket is None:
                        time.sleep(0.05)
                        continue
                    try:
                        self.train(ticket)
                    except LeaseLost:
                        continue
            except Interrupted:
                return

    def train(self, ticket: Any) -> None:
        """Train a trial, with checkpoints that are checked before they are resumed from."""
        state, done = repr(sorted(ticket.params.items())), 0
        if ticket.checkpoint:
            why = manifest.problem(Path(ticket.checkpoint))
            if why:
                self.persistently(lambda: self.study.damaged(ticket.number, ticket.checkpoint, why))
                chaos.note(self.place / "noticed", why)
                return
            state = (Path(ticket.checkpoint) / "model").read_text()
            done = int((Path(ticket.checkpoint) / "step").read_text())
        for step in range(done + 1, chaos.STEPS + 1):
            time.sleep(STEP_SECONDS)
            state = chaos.advance(state, step)
            chaos.note(self.place / "work", f"{ticket.number} {step}")
            if step % chaos.EVERY == 0 and self.stops(ticket.number, step, state):
                break
        else:
            last = {"eval/nll": chaos.measure(state, chaos.STEPS)}
            self.persistently(functools.partial(self.study.complete, ticket.number, last))
        chaos.note(self.place / "ends", str(ticket.number))

    def stops(self, number: int, step: int, state: str) -> bool:
        """Report with a checkpoint; return whether the trial is stopped."""
        checkpoint = write(self.place / f"{number}-{step}-{self.study.driver}-{time.monotonic_ns()}", state, step)
        report = Report(step, {"eval/nll": chaos.measure(state, step)}, checkpoint)
        return bool(self.persistently(lambda: self.study.report(number, report)).stop)

    def persistently(self, act: Callable[[], Any]) -> Any:
        """Do something again while the store is away, as the outbox of a search does."""
        while not self.control.interrupted:
            try:
                return act()
            except StoreUnavailable:
                time.sleep(0.1)
        raise Interrupted


def write(directory: Path, state: str, step: int) -> str:
    """Write a checkpoint with a list of its files, and return its path."""
    directory.mkdir()
    (directory / "model").write_text(state)
    (directory / "optimizer.pt").write_text(chaos.advance(state, 0))
    (directory / "step").write_text(str(step))
    (directory / manifest.STATE_FILE).write_text('{"manifest": true}')
    manifest.write(directory)
    return str(directory)


def drive(url: str, config: str, place: str, shift: float) -> None:
    """Work on the study until it is done, with a clock that is off by `shift` seconds."""
    real, control = time.time, Control()
    time.time = lambda: real() + shift
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as long as no study is open, as for the command line
    while not control.interrupted:
        try:
            study = open_study(url, Config.model_validate_json(config), lease_seconds=LEASE_SECONDS)
            Worker(study, control, Path(place)).run()
            return
        except StoreUnavailable:
            time.sleep(0.2)


def unfinished(url: str) -> list[tuple[str, Path]]:
    """Return the driver and the committed checkpoint of each trial that has not ended and has one."""
    study = attach(url, "chaos")
    study.look()
    found = [
        (study.owner(each), ticket_of(each, adopted=False)) for each in study.trials() if not each.state.is_finished()
    ]
    return [
        (owner, Path(ticket.checkpoint))
        for owner, ticket in found
        if ticket.checkpoint and (Path(ticket.checkpoint) / "optimizer.pt").is_file()
    ]


def damage(checkpoint: Path, way: str, draw: random.Random) -> None:
    """Damage a checkpoint."""
    if way == "optimizer.pt deleted":
        (checkpoint / "optimizer.pt").unlink()
        return
    file = draw.choice([checkpoint / name for name in ("model", "optimizer.pt", "step")])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content if way == "flipped" else content[: len(content) // 2])


@contextmanager
def frozen(server: chaos.Server) -> Iterator[None]:
    """Stop all processes of a server while the block runs."""
    leader = psutil.Process(int((server.place / "data" / "postmaster.pid").read_text().splitlines()[0]))
    stopped = [leader, *leader.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            if process.is_running():
                process.resume()


class Torment:
    """Two drivers, a server, and what happens to them.

    Attributes:
        made: how often each fault was made, by name.
        answers: how long each SIGTERM took to be answered, in seconds.
        broken: how often a driver did what it must not do.
    """

    def __init__(self, count: int, draw: random.Random) -> None:
        self.count, self.draw = count, draw
        self.place = Path(tempfile.mkdtemp(prefix="rankray-faults-"))
        self.server, self.config = chaos.Server(), chaos.make_config(MANY)
        self.url = self.server.url
        self.made: Counter[str] = Counter()
        self.answers: list[float] = []
        self.broken: Counter[str] = Counter()
        open_study(self.url, self.config)
        self.drivers = [self.start(), self.start()]

    def start(self, shift: float = 0.0) -> Any:
        """Start a driver in a new process."""
        arguments = (self.url, self.config.model_dump_json(), str(self.place), shift)
        process = chaos.FORK.Process(target=drive, args=arguments)
        process.start()
        return process

    def replace(self, victim: int, shift: float = 0.0) -> None:
        """Kill a driver and start another one."""
        self.drivers[victim].kill()
        self.drivers[victim].join()
        self.drivers[victim] = self.start(shift)

    def frozen(self) -> None:
        """The server does not answer for a while; once in a while for longer than any deadline."""
        with frozen(self.server):
            time.sleep(40.0 if self.made["frozen"] % 20 == 10 else self.draw.uniform(0.1, 1.5))
        self.made["frozen"] += 1

    def dropped(self) -> None:
        """The server ends all connections."""
        self.server.server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        self.made["dropped"] += 1

    def damaged(self) -> None:
        """A committed checkpoint is damaged while both drivers stand still, and both are killed."""
        for _ in range(100):
            for driver in self.drivers:
                os.kill(driver.pid, signal.SIGSTOP)
            places = [checkpoint for _, checkpoint in unfinished(self.url)]
            if places:
                way = WAYS[self.made["damaged"] % len(WAYS)]
                damage(self.draw.choice(places), way, self.draw)
                self.made["damaged"] += 1
                self.made[way] += 1
            for driver in self.drivers:
                os.kill(driver.pid, signal.SIGKILL if places else signal.SIGCONT)
            if places or not any(driver.is_alive() for driver in self.drivers):
                break
            time.sleep(self.draw.uniform(0.02, 0.1))
        for victim, driver in enumerate(self.drivers):
            if places:
                driver.join()
                self.drivers[victim] = self.start()

    def clock(self) -> None:
        """A driver's clock is wrong; nobody may delete the study while a driver works on it."""
        victim = self.draw.randrange(2)
        self.replace(victim, self.draw.choice([-3600.0, -300.0, 300.0, 3600.0]))
        other = self.drivers[1 - victim]
        while other.is_alive() and not persistently(lambda: self.has_joined(other.pid)):
            time.sleep(0.1)
        if other.is_alive():
            try:
                persistently(lambda: delete_study(self.url, "chaos"))
                self.broken["deleted under a driver"] += 1
            except StoreError as refused:
                chaos.note(self.place / "refused", str(refused))
        self.made["clock"] += 1

    def has_joined(self, pid: int) -> bool:
        """Return whether a driver has registered in the study."""
        return pid in [record.get("pid") for record in attach(self.url, "chaos").drivers().values()]

    def killed(self) -> None:
        """A driver is killed."""
        self.replace(self.draw.randrange(2))
        self.made["killed"] += 1

    def terminated(self) -> None:
        """A driver gets SIGTERM, every other time while the server is frozen."""
        victim = self.draw.randrange(2)
        driver, begun = self.drivers[victim], 0.0
        if self.made["terminated"] % 2:
            with frozen(self.server):
                time.sleep(self.draw.uniform(0.0, 2.0))
                begun = time.monotonic()
                driver.terminate()
                driver.join(4 * ANSWER_SECONDS)
                self.answers.append(time.monotonic() - begun)
            self.made["terminated under a frozen server"] += 1
        else:
            begun = time.monotonic()
            driver.terminate()
            driver.join(4 * ANSWER_SECONDS)
            self.answers.append(time.monotonic() - begun)
        self.made["terminated"] += 1
        self.broken["late answers to SIGTERM"] += self.answers[-1] > ANSWER_SECONDS
        self.replace(victim)

    def run(self) -> dict[str, Any]:
        """Make all faults, and return what happened and how many invariants were broken."""
        seen: dict[tuple[int, int], Any] = {}
        for number in range(self.count):
            self.wait_for_work()
            time.sleep(self.draw.uniform(0.0, 0.3))
            getattr(self, KINDS[number % len(KINDS)])()
            now = persistently(lambda: chaos.committed(attach(self.url, "chaos")))
            self.broken["committed values changed"] += sum(now.get(key) != value for key, value in seen.items())
            seen |= now
            if number % 20 == 19:
                print(f"  {number + 1} faults, {len(seen)} reports committed", flush=True)
        trials = self.finish()
        for name in ("ends", "work", "noticed"):
            (self.place / name).touch()
        found = chaos.judge(attach(self.url, "chaos"), self.place, trials, sum(self.broken.values()), self.drivers)
        late = sorted(self.answers)
        return {
            "made": dict(self.made),
            "damage noticed": len((self.place / "noticed").read_text().splitlines()),
            "SIGTERM answered after": f"{late[0]:.1f} to {late[-1]:.1f} s" if late else "none sent",
            "broken": found["broken"],
            "what": dict(+self.broken),
            "finished": found["finished"],
        }

    def wait_for_work(self) -> None:
        """Wait until somebody has trained a step since the last fault, but not for ever: both may be busy starting."""
        work, end = self.place / "work", time.monotonic() + WORK_SECONDS
        before = work.stat().st_size if work.exists() else 0
        while time.monotonic() < end and (work.stat().st_size if work.exists() else 0) == before:
            time.sleep(0.05)

    def finish(self) -> int:
        """Let two drivers bring the study to a number of trials, and return it."""
        for driver in self.drivers:
            driver.kill()
            driver.join()
        trials = persistently(lambda: attach(self.url, "chaos").finished) + MORE
        self.config = chaos.make_config(trials)
        self.drivers = [self.start(), self.start()]
        for driver in self.drivers:
            driver.join(600)
        return int(trials)


def persistently(act: Callable[[], Any]) -> Any:
    """Do something again while the store is away."""
    while True:
        try:
            return act()
        except StoreUnavailable:
            time.sleep(0.1)


def faults(count: int, draw: random.Random) -> dict[str, Any]:
    """Make so many faults, and return what happened and how many invariants were broken."""
    return Torment(count, draw).run()
