"""One launch of a search: open the study, place its trials, leave nothing running.

A launch is always fresh: no `Tuner.restore`, no Ray state of an earlier one (docs/traps.md). It opens the study, adopts
what a dead driver left, and lets Tune run until the store says that the study is done. Whatever happens, what this
driver still owned is released at the end, so that the next launch, here or elsewhere, resumes at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from rankray.checkpoints import places
from rankray.checkpoints.retention import CheckpointRetention
from rankray.cluster.environment import prepare_environment
from rankray.cluster.own_ray import servers_here, watching_own_ray
from rankray.cluster.scratch import own_directory
from rankray.cluster.session import ray_session
from rankray.contracts import Observer
from rankray.environment import seconds_of
from rankray.errors import RankrayError, SearchFailed, StoreError, StoreUnavailable, StudyGone
from rankray.search.control import Control, interruptible
from rankray.search.delivery import patience_seconds_default
from rankray.search.silence import Process, ProcessWatch, silence_seconds_default
from rankray.store import StudyStore
from rankray.store.stored import reading

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""How long a search waits before it asks a store again that did not answer."""
NEEDED_NEXT = ("rankray.search.actor", "rankray.search.scheduler", "rankray.search.searcher", "rankray.search.stopper")
"""What a search imports once Ray runs, Ray Tune among it: a second of work, done while Ray starts."""
HEARD_SECONDS = 2.0
"""How long the thread that hears signals may take to be told of one."""
STOPPING = "stopping: trials are given back and resume from their last checkpoints; Ctrl-C again stops at once"
SAVING = (
    "stopping: each running trial saves a checkpoint after its present step, for at most {seconds:.0f} s; one that "
    "cannot resumes from its last one; Ctrl-C again stops at once"
)
SAVE_SECONDS = {signal.SIGINT: 60.0, signal.SIGTERM: 5.0, signal.SIGHUP: 5.0}
"""How long the trials of an interrupted search may take to save a checkpoint; RANKRAY_LEAVE_SECONDS says otherwise."""
GRACE_SECONDS = 14.0
"""How long an interrupted search may take to end by itself; then its process is ended. With `LEAVE_SECONDS` that is
within 20 s of a SIGTERM, whatever the store does."""
ENDING_SECONDS = 9.0
"""How long it may take once its trials have had their time to save, where that is longer."""
FLAG_SECONDS = 2.0
"""How long Ray may take to take a flag; where it has ended, it takes none."""
LAG_SECONDS = 0.5
"""How much later than Ray's servers this process may learn of a signal that all of them got."""
INTERRUPTED = "interrupted; run the same command again to resume"
LEAVE_SECONDS = 4.0
"""How long a process that is ended may take to give back its trials: not at all, where the store is frozen."""


def run_search(study: StudyStore, observer: Observer, *, verbose: bool = False) -> bool:
    """Search until the study holds `study.trials` finished trials or a limit of `study.budget` is reached.

    A study that has ended already starts nothing.

    Args:
        study: the study, opened to work on it and not joined yet; the search runs with its configuration.
        observer: who watches.
        verbose: show Ray's own messages.

    Returns:
        Whether the study is done; False when somebody interrupted the search, which can be resumed.

    Raises:
        StoreUnavailable: the store cannot be reached.
        ConfigError: a trial fits on no node, or an environment variable gives no duration.
        StorageError: some node cannot write to the storage.
        SearchFailed: too many trials failed, or the store stayed unreachable; what is finished stays finished.
    """
    patience = patience_seconds_default()
    places.patience_seconds()  # its processes read it, too late to refuse it
    prepare_environment()
    study.note_end()
    if study.done:
        study.give_back_orphans()
        return True
    control = Control(lost=lambda: study.lost, processes=ProcessWatch(silence_seconds_default(), _end_process))
    interrupt = interrupter(study, control, observer)

    def ray_ended(server: str) -> None:
        time.sleep(LAG_SECONDS)
        if control.interrupted:
            _give_up(study)
        _give_up(
            study,
            1,
            f"error: study {study.name}: {server}, a server of the Ray that this search started, has ended (killed, or "
            "out of memory); what was committed is safe; run the same command again to resume",
        )

    with study, interruptible(interrupt):
        observer.phase("starting Ray")
        others = servers_here()
        try:
            with ray_session(verbose, *NEEDED_NEXT), interruptible(interrupt), watching_own_ray(ray_ended, others):
                _run_until_done(study, control, observer, patience)
        except SystemExit:  # while Ray starts, SIGTERM has a handler of Ray's own (docs/traps.md)
            logger.debug("interrupted while Ray started", exc_info=True)
            end = time.monotonic() + HEARD_SECONDS
            while not control.interrupted and time.monotonic() < end:
                time.sleep(0.05)
            if not control.interrupted:
                raise
        if control.error:
            raise SearchFailed(f"study {study.name}: {control.error}")
        study.note_end()
        if control.ended and (study.ended is None or study.ended.by != "trials"):
            observer.phase(f"ended by its budget: {control.ended}")
    return bool(study.done)


def interrupter(study: StudyStore, control: Control, observer: Observer) -> Callable[[int], None]:
    """Return what interrupts a search at a signal: its trials save, it is asked to stop, and ended where it does not.

    Raises:
        ConfigError: RANKRAY_LEAVE_SECONDS is no number of 0 or more.
    """
    patience = save_seconds()

    def interrupt(number: int) -> None:
        if control.interrupted:
            return
        seconds = patience[number] if control.live else 0.0
        control.leave_by = time.monotonic() + seconds
        control.interrupted = True
        observer.phase(SAVING.format(seconds=seconds) if seconds else STOPPING)
        timer = threading.Timer(max(GRACE_SECONDS, seconds + ENDING_SECONDS), _give_up, args=(study,))
        timer.daemon = True
        timer.start()
        if seconds:
            from rankray.cluster.ray_private import raise_flag

            _in_the_cluster(raise_flag, control.launch)

    return interrupt


def save_seconds() -> dict[int, float]:
    """Return how long trials may take to save, by the signal that interrupts their search.

    Raises:
        ConfigError: RANKRAY_LEAVE_SECONDS is no number of 0 or more.
    """
    return {
        int(number): seconds_of("RANKRAY_LEAVE_SECONDS", seconds, zero=True) for number, seconds in SAVE_SECONDS.items()
    }


def _in_the_cluster(act: Callable[[str], None], launch: str) -> None:
    """Raise or lower the flag that tells processes on all nodes to save and leave; Ray may have ended meanwhile."""

    def try_it() -> None:
        try:
            act(launch)
        except Exception:
            logger.debug("Ray does not answer, and its trials are not told that they are to save", exc_info=True)

    acting = threading.Thread(target=try_it, name="rankray-flag", daemon=True)
    acting.start()
    acting.join(FLAG_SECONDS)


def _end_process(process: Process) -> None:
    from rankray.cluster.processes import end_process  # imports Ray

    end_process(process)


def _give_up(study: StudyStore, code: int = 130, said: str = INTERRUPTED) -> None:
    """End the process of a search that cannot end by itself, as when its raylet was ended too.

    The trials it owned are released first, if the store answers; Ray's processes end with it. A store that does not
    answer may hold the study's lock in another thread, so this is done in one that nobody waits for.
    """

    def leave() -> None:
        nonlocal code
        try:
            study.leave()
            code = 0 if study.done else code
        except RankrayError:
            logger.debug(
                "the trials of this driver are not given back; others take them after its lease", exc_info=True
            )

    leaving = threading.Thread(target=leave, name="rankray-leave", daemon=True)
    leaving.start()
    leaving.join(LEAVE_SECONDS)
    print(said if code else "interrupted at its end: it is complete", file=sys.stderr, flush=True)
    os._exit(code)


def _run_until_done(study: StudyStore, control: Control, observer: Observer, patience: float) -> None:
    from rankray.cluster.nodes import check_storage, typed_nodes
    from rankray.cluster.ray_private import lower_flag, memory_bytes
    from rankray.search.delivery import StoreOutbox
    from rankray.search.meter import Meter
    from rankray.search.news import CheckpointObserver, News
    from rankray.search.packing import Packing, worth_measuring
    from rankray.search.placement import place
    from rankray.search.scheduler import StoreScheduler
    from rankray.search.searcher import StoreSearcher
    from rankray.search.specs import spec_maker

    config = study.config
    placement = place(config)
    observer.phase("writing to the storage from every node")
    check_storage(config.storage)
    news = News(observer)
    packing = Packing(
        placement.slots, news.phase, measures=worth_measuring(config, placement.slots), memory=memory_bytes
    )
    news.add(packing)
    meter = Meter(study, control, typed_nodes)
    news.add(meter)
    owner, copied = study.copied or study.identity, bool(study.copied)
    with CheckpointRetention(config.storage, config.name, owner, copied=copied) as retention, meter:
        news.add(CheckpointObserver(study, retention))
        outbox = StoreOutbox(study, patience, news)
        make_spec = spec_maker(config, retention.directory, retention.usable)
        news.phase(f"starting {placement.slots} trial slot{'s' * (placement.slots > 1)} ({placement.reason})")
        while not (control.stopping or _is_done(study, outbox, control)):
            _tune(
                StoreSearcher(study, outbox, control, lambda: packing.slots, make_spec, news),
                StoreScheduler(outbox, control, news, config.study.metric),
                placement,
                control,
            )
        if not outbox.flush() and not control.error:
            control.error = (
                outbox.lost or "store: unreachable, some reports are not written; run the same command again to resume"
            )
    if control.interrupted:
        _in_the_cluster(lower_flag, control.launch)


def _is_done(study: StudyStore, outbox: Any, control: Control) -> bool:
    """Return whether the study is done; False where the store does not say, which ends the search after a while."""
    try:
        with reading(study.name):
            done = bool(study.done)
    except StoreUnavailable as error:
        logger.debug("the store does not say whether the study is done", exc_info=True)
        outbox.unanswered(error)
        time.sleep(POLL_SECONDS)
        control.error = control.error or outbox.lost
        return False
    except (StudyGone, StoreError) as error:
        logger.debug("the study was deleted, or is damaged", exc_info=True)
        control.error = control.error or str(error)
        return False
    outbox.answered()
    return done


def _tune(searcher: Any, scheduler: Any, placement: Any, control: Control) -> None:
    """Let Tune run until the searcher has nothing more, or somebody stops it."""
    from ray import tune

    from rankray.search.actor import TrialActor
    from rankray.search.stopper import ControlStopper

    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(placement.slots)
    with tempfile.TemporaryDirectory(prefix="tune-", dir=own_directory()) as scratch:
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
                # By default Tune saves a trial that ends, asks for the next one meanwhile, and starts a process for
                # that one, which trains beside the process that is free by then.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    for number in sorted(control.live):
        scheduler.dropped(number)


def _trial_name(trial: Any) -> str:
    return f"trial-{int(trial.config['number']):05d}"
