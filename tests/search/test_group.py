"""Worker groups of Ray Train that stay: real workers on gloo, killed and failing for real."""

import json
import os
import signal
import subprocess
from contextlib import suppress

import psutil
import pytest
from fixtures.searches import modules_and
from fixtures.training import ROWS, build_model
from fixtures.waiting import until

from rankray.cluster.scratch import OWNER
from rankray.contracts import TrialSpec, Verdict
from rankray.store.leases import this_process

pytestmark = pytest.mark.ray

TROUBLE = """\
import os
from pathlib import Path


def trouble(model, tokenizer, rows):
    place = Path(__file__).parent
    if os.environ.get("RANK") == "1" and (place / "fail").exists():
        raise ValueError("the second worker's own")
    if os.environ.get("RANK") == "1" and (place / "fail-once").exists():
        (place / "fail-once").unlink()
        raise ValueError("once")
    (place / f"worker-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
    return {"pid": 0.0}
"""
RESOURCES = {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0}


class Recorder:
    def __init__(self, stop_at=None, at_step=None):
        self.reports, self._stop_at, self._at_step = {}, stop_at, at_step or {}

    def report(self, report):
        self.reports[report.step] = report
        self._at_step.get(report.step, lambda: None)()
        return Verdict(stop=report.step == self._stop_at, reason="as asked")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("group")
    build_model(place / "model")
    (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (place / "trouble.py").write_text(TROUBLE)
    return place


@pytest.fixture(scope="module")
def session(place, modules):
    """A Ray of two CPUs whose processes find `trouble`."""
    from rankray.cluster.environment import prepare_environment

    prepare_environment()
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", modules_and(place))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def standing(session, place):
    """The group that trials share until a test needs the CPUs for its own."""
    from rankray.search.group import Group

    group = Group(RESOURCES, str(place))
    yield group
    group.close()


@pytest.fixture
def group(standing):
    return standing


@pytest.fixture
def alone_with_ray(standing, session):
    standing.close()
    assert all_free(session)
    return session


@pytest.fixture
def spec(place, tmp_path):
    def make(name="trial", **train):
        config = {
            "name": "test",
            "model": {"path": str(place / "model")},
            "data": {
                "train": str(place / "sums.jsonl"),
                "eval": str(place / "sums.jsonl"),
                "prompt": "{question}\n",
                "completion": "{answer}",
                "max_length": 48,
            },
            "train": {"max_steps": 4, "batch_size": 8, "learning_rate": 5e-3, "threads": 1, **train},
            "evaluate": {"every_steps": 2, "max_examples": 8, "functions": ["trouble:trouble"]},
            "resources": RESOURCES,
            "storage": str(place),
        }
        return TrialSpec(config=config, directory=str(tmp_path / name))

    return make


def alone(spec, monkeypatch, place):
    """Train in this process."""
    from rankray.finetune import run

    monkeypatch.syspath_prepend(str(place))
    recorder = Recorder()
    run(spec, recorder)
    return recorder.reports


def all_free(ray, cpus=2.0):
    """Wait for Ray to have all its CPUs back, and no placement group."""
    from ray.util import placement_group_table

    def free():
        groups = [table["state"] for table in placement_group_table().values() if table["state"] != "REMOVED"]
        return ray.available_resources().get("CPU") == cpus and not groups

    return until(free)


def trains(pid):
    """Return whether a process is a worker of Ray Train."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).name().startswith("ray::RayTrain")
    return False


def pids(place):
    return {int((place / f"worker-{rank}").read_text()) for rank in (0, 1)}


def test_two_workers_train_what_one_does_with_and_without_accumulation(group, spec, place, monkeypatch):
    together = Recorder()
    outcome = group.run(spec("together", max_steps=6), together)
    assert outcome.steps == 6
    assert outcome.checkpoint.endswith("step-000006")
    for name, micro in (("whole", 8), ("accumulated", 4)):
        for step, report in alone(spec(name, max_steps=6, micro_batch_size=micro), monkeypatch, place).items():
            for metric in ("eval/nll", "train/loss", "train/nll", "train/mean_weight"):
                assert together.reports[step].metrics[metric] == pytest.approx(report.metrics[metric], rel=1e-5)


def test_a_group_trains_one_trial_after_another_in_the_same_processes(group, spec, place):
    first, second = Recorder(), Recorder()
    group.run(spec("first"), first)
    before = pids(place)
    stopped = group.run(spec("stopped", learning_rate=1e-2), Recorder(stop_at=2))
    assert (stopped.steps, stopped.stopped) == (2, "as asked")
    group.run(spec("second"), second)
    assert pids(place) == before
    assert os.getpid() not in before
    metrics = [[r.metrics for r in recorder.reports.values()] for recorder in (first, second)]
    assert metrics[0] == metrics[1]


def test_a_trial_resumes_from_its_checkpoint(group, spec):
    whole = Recorder()
    outcome = group.run(spec("whole", checkpoint_every_steps=2), whole)
    again = Recorder()
    half = spec("half")
    group.run(TrialSpec(config=half.config, directory=half.directory, checkpoint=whole.reports[2].checkpoint), again)
    assert list(again.reports) == [2, 4]
    assert dict(again.reports[4].metrics) == outcome.metrics


def test_closing_gives_everything_back(group, session, place):
    workers = pids(place)
    assert all(map(trains, workers))
    group.close()
    assert all_free(session)
    until(lambda: not any(map(trains, workers)))  # Ray has the resources back before the processes have ended


def test_one_workers_failure_is_the_trials_and_the_next_group_is_sound(alone_with_ray, spec, place):
    from rankray.search.group import Group, TrialFailed

    (place / "fail").touch()
    group = Group(RESOURCES, str(place))
    try:
        with pytest.raises(TrialFailed, match="ValueError: the second worker's own") as caught:
            group.run(spec("fails"), Recorder())
        assert 'raise ValueError("the second worker\'s own")' in caught.value.worker_traceback
    finally:
        (place / "fail").unlink()
        group.close()
    assert not group.alive
    assert all_free(alone_with_ray)


def test_the_death_of_a_worker_is_not_the_trials_fault(alone_with_ray, spec, place):
    from rankray.search.group import Group, WorkersLost

    group = Group(RESOURCES, str(place))
    recorder = Recorder(at_step={2: lambda: os.kill(max(pids(place)), signal.SIGKILL)})
    with pytest.raises(WorkersLost, match="worker group is gone"):
        group.run(spec("killed"), recorder)
    group.close()
    assert list(recorder.reports) == [2]
    assert all_free(alone_with_ray)
    assert not [path for path in place.iterdir() if path.name.startswith(".group")]


def test_a_group_whose_storage_fails_says_that_and_not_that_its_workers_died(alone_with_ray, spec, place, tmp_path):
    """Ray Train writes there too: three such deaths would fail the trial."""
    from rankray.errors import StorageError
    from rankray.search.group import Group

    storage = tmp_path / "storage"
    group = Group(RESOURCES, str(storage))

    def fail():
        storage.rename(tmp_path / "away")
        storage.touch()
        os.kill(max(pids(place)), signal.SIGKILL)

    with pytest.raises(StorageError, match=f"^storage: {storage} cannot be written or read here"):
        group.run(spec("failing"), Recorder(at_step={2: fail}))
    group.close()
    assert all_free(alone_with_ray)
    with pytest.raises(StorageError, match=f"^storage: {storage} cannot be written or read here"):
        Group(RESOURCES, str(storage))


@pytest.mark.slow  # of a process alone: test_frozen.py; of a group's dead worker: above
@pytest.mark.parametrize("which", ["worker", "mailbox"])
def test_a_frozen_process_of_a_group_is_not_the_trials_fault(alone_with_ray, spec, place, monkeypatch, which):
    from rankray.search import group as groups

    monkeypatch.setenv(groups.HEALTH_CHECK, "15")
    left = place / f"{groups.GROUP}dead"
    left.mkdir()
    (left / OWNER).write_text(json.dumps(this_process() | {"start": "another"}))
    group = groups.Group(RESOURCES, str(place), silence_seconds=15.0)
    assert not left.exists(), "its process is dead"
    frozen = []

    def freeze():
        frozen.append(max(pids(place)) if which == "worker" else group._process["pid"])
        os.kill(frozen[0], signal.SIGSTOP)

    with pytest.raises(groups.WorkersLost) as lost:
        group.run(spec("frozen"), Recorder(at_step={2: freeze}))
    assert lost.value.silent, lost.value.__cause__
    assert not group.alive
    group.close()
    assert all_free(alone_with_ray)
    until(lambda: not psutil.pid_exists(frozen[0]))


def test_a_search_of_groups_with_pruned_and_failed_trials_leaves_nothing_held(alone_with_ray, place, make_place):
    """Six trials where one group has room: they outnumber what there is all the time."""
    searched = make_place()
    (place / "fail-once").touch()
    address = alone_with_ray.get_runtime_context().gcs_address
    words = ["study.trials=6", "resources.workers=2", "evaluate.functions=[trouble:trouble]"]
    words.append("study.pruner=successive_halving")
    done = subprocess.run(
        searched.command(*(word for change in words for word in ("--set", change))),
        capture_output=True,
        text=True,
        env=searched.environment() | {"RAY_ADDRESS": address, "PYTHONPATH": modules_and(place)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    status = searched.status()
    assert status["budget"] == {"trials": 6, "finished": 6}
    assert (status["trials"]["failed"], status["trials"]["running"]) == (1, 0)
    assert status["trials"]["pruned"] > 0
    assert all_free(alone_with_ray)
