"""One launch of a search: open the study, place its trials, leave nothing running.

A launch is always fresh: no `Tuner.restore`, no Ray state of an earlier one (trap 1). It opens the study, adopts what a
dead driver left, and lets Tune run until the store says that the study is done. Whatever happens, what this driver
still owned is released at the end, so that the next launch, here or elsewhere, goes on at once.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rankray.checkpoints import places
from rankray.checkpoints.retention import CheckpointRetention
from rankray.cluster.environment import prepare_environment
from rankray.cluster.session import ray_session
from rankray.config import Config, trial_tree
from rankray.contracts import Observer, Report, TrialSpec, Verdict
from rankray.errors import SearchFailed, StoreUnavailable
from rankray.search.control import Control, interruptible
from rankray.store import StudyStore, Ticket
from rankray.store.views import retention as kept_checkpoints

NEEDED_NEXT = ("rankray.search.actor", "rankray.search.scheduler", "rankray.search.searcher", "rankray.search.stopper")
"""What a search imports once Ray runs: with Ray Tune a second of work, done while Ray starts."""
GRACE_SECONDS = 20.0
"""How long an interrupted search may take to end well before it is ended."""


def run_search(study: StudyStore, config: Config, observer: Observer, *, verbose: bool = False) -> bool:
    """Search until the study holds `study.trials` finished trials; a study that does already starts nothing.

    Args:
        study: the study, opened with `config` and not joined yet.
        config: the resolved configuration with its space.
        observer: who watches.
        verbose: let Ray print what it has to say.

    Returns:
        Whether the study is done; False when somebody interrupted the search, which can be resumed.

    Raises:
        StoreUnavailable: the store cannot be reached.
        ConfigError: a trial fits on no node.
        StorageError: some node cannot write to the storage.
        SearchFailed: too many trials failed, or the store stayed away; what is finished stays finished.
    """
    prepare_environment()
    if study.done:
        return True
    control = Control()

    def interrupt() -> None:
        control.interrupted = True
        timer = threading.Timer(GRACE_SECONDS, _give_up, args=(study,))
        timer.daemon = True
        timer.start()

    with study, interruptible(interrupt):
        observer.phase("starting Ray")
        with ray_session(verbose, *NEEDED_NEXT), interruptible(interrupt):
            _run_until_done(study, config, control, observer)
        if control.error:
            raise SearchFailed(f"study {config.name}: {control.error}")
    return study.done


def _give_up(study: StudyStore) -> None:
    """End an interrupted driver that cannot end by itself, as when its raylet got the signal too and is gone.

    What it owned is released first; Ray's processes end with it.
    """
    try:
        study.leave()
    finally:
        print("interrupted; run the same command again to go on", file=sys.stderr, flush=True)
        os._exit(130)


def _run_until_done(study: StudyStore, config: Config, control: Control, observer: Observer) -> None:
    from rankray.cluster.nodes import check_storage
    from rankray.cluster.ray_private import memory_bytes
    from rankray.search.delivery import Delivery, patience_seconds_default
    from rankray.search.packing import Packing, worth_measuring
    from rankray.search.placement import place
    from rankray.search.scheduler import StoreScheduler
    from rankray.search.searcher import StoreSearcher

    placement = place(config)
    observer.phase("writing to the storage from every node")
    check_storage(config.storage)
    packing = Packing(placement.slots, observer, measures=worth_measuring(config, placement.slots), memory=memory_bytes)
    with CheckpointRetention(config.storage, config.name, study.identity) as retention:
        delivery = Delivery(study, patience_seconds_default(), on_verdict=_note_verdict(retention, packing))
        watched = _Watched(study, packing, retention)
        watched.tidy()
        make_spec = _spec_maker(config, retention, watched)
        observer.phase(f"starting {placement.slots} trial slot{'s' * (placement.slots > 1)} ({placement.reason})")
        while not (control.stopping or study.done):
            _tune(
                StoreSearcher(study, delivery, control, lambda: packing.slots, make_spec),
                StoreScheduler(delivery, control, watched, config.study.metric),
                placement,
                control,
            )
        if not delivery.flush() and not control.error:
            control.error = (
                delivery.lost or "store: not reachable, some reports are not delivered; run the same command again"
            )


def _tune(searcher: Any, scheduler: Any, placement: Any, control: Control) -> None:
    """Let Tune run until the searcher has nothing more, or somebody stops it."""
    from ray import tune

    from rankray.search.actor import TrialActor
    from rankray.search.stopper import ControlStopper

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(placement.slots)
    with tempfile.TemporaryDirectory(prefix="rankray-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, placement.factory()),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="launch",
                storage_path=scratch,
                verbose=0,
                stop=ControlStopper(control),
                callbacks=[],
                # Without a word Tune saves a trial that ends, asks for the next one meanwhile, and starts a process
                # for it that trains beside the one it then gets.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    for number in sorted(control.live):
        scheduler.swept(number)


def _trial_name(trial: Any) -> str:
    return f"trial-{int(trial.config['number']):05d}"


class _Watched:
    """Passes the scheduler's news to the observer and tidies the retention."""

    def __init__(self, study: StudyStore, observer: Observer, retention: CheckpointRetention) -> None:
        self._study, self._observer, self._retention = study, observer, retention
        self.phase, self.started, self.reported = observer.phase, observer.started, observer.reported

    def ended(self, number: int, state: str, value: float | None, reason: str) -> None:
        self._retention.ended(number)
        if state != "lost":
            self.tidy()
        self._observer.ended(number, state, value, reason)

    def tidy(self) -> None:
        """Delete the checkpoints that nobody wants any more; while the store is away, nothing is known to be one."""
        with suppress(StoreUnavailable):
            self._retention.tidy(*kept_checkpoints(self._study))


def _note_verdict(retention: CheckpointRetention, observer: Observer) -> Callable[[int, Report, Verdict], None]:
    def note(number: int, report: Report, _verdict: Verdict) -> None:
        if report.checkpoint:
            retention.committed(number, report.checkpoint)
        observer.reported(number, report.step, report.metrics)

    return note


def _spec_maker(config: Config, retention: CheckpointRetention, observer: Observer) -> Callable[[Ticket], TrialSpec]:
    def make(ticket: Ticket) -> TrialSpec:
        retention.begin(ticket.number, ticket.checkpoint)
        step = int(ticket.history[-1]["step"]) if ticket.history else 0
        observer.started(ticket.number, ticket.params, ticket.origin, step)
        return TrialSpec(
            config=worker_config(config, ticket.params),
            directory=retention.directory(ticket.number),
            number=ticket.number,
            checkpoint=ticket.checkpoint,
            history=ticket.history,
        )

    return make


def worker_config(config: Config, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker needs of a trial's configuration: parameters applied, local paths absolute, no store.

    `finetune.run` validates it, so that a combination that is refused fails its trial and not the search.
    """
    tree = trial_tree(config, params)
    tree["store"] = "worker://"
    tree["storage"] = places.absolute(config.storage)
    tree["train"]["threads"] = config.train.threads or max(1, int(config.resources.cpus_per_worker))
    for section, key in (("data", "train"), ("data", "eval"), ("model", "path")):
        if Path(tree[section][key]).exists():
            tree[section][key] = str(Path(tree[section][key]).absolute())
    return tree
