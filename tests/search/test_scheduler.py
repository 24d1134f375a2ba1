"""Searcher and scheduler between Tune and a store, without Ray running."""

import json
import pickle
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from rankray.contracts import TrialSpec, Verdict
from rankray.errors import ConfigError, StoreError, StoreUnavailable
from rankray.search import scheduler
from rankray.search import searcher as searcher_module
from rankray.search.actor import EVENT
from rankray.search.control import REFUSED, Control
from rankray.search.delivery import StoreOutbox
from rankray.search.news import News
from rankray.search.scheduler import MAX_DEATHS, StoreScheduler
from rankray.search.searcher import StoreSearcher
from rankray.search.silence import ProcessWatch
from rankray.search.stopper import ControlStopper


class Study:
    """A store with a few trials to give."""

    name = "s"

    def __init__(self, trials=3):
        self.left = list(range(trials))
        self.told = []
        self.done = False
        self.verdict = Verdict(stop=False)

    def next_trial(self):
        if not self.left:
            return None
        return SimpleNamespace(number=self.left.pop(0), params={}, history=[], origin="sampler", checkpoint=None)

    def report(self, number, report):
        self.told.append(("report", number, report.step))
        return self.verdict

    def complete(self, number, metrics):
        self.told.append(("complete", number, metrics))

    def fail(self, number, reason, traceback, retry=True):
        self.told.append(("fail", number, reason))
        return False

    def release(self, number, lost=None):
        self.told.append(("release", number))


class Ends:
    """An observer that remembers starts and ends."""

    def __init__(self):
        self.begun, self.seen = [], []

    def started(self, number, params, origin, step, checkpoint):
        self.begun.append((number, origin, step))

    def reported(self, number, report): ...

    def ended(self, number, state, value, reason):
        self.seen.append((number, state, value))


class Clock:
    """The searcher's clock: it stands still unless a test moves it, however slow the machine is."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def world(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(searcher_module, "time", clock)
    study, control, ends = Study(), Control(), Ends()
    outbox, news = StoreOutbox(study), News(ends)
    searcher = StoreSearcher(study, outbox, control, lambda: 2, lambda ticket: TrialSpec({}, "d", ticket.number), news)
    scheduler = StoreScheduler(outbox, control, news, "eval/nll")
    return SimpleNamespace(clock=clock, study=study, control=control, ends=ends, searcher=searcher, scheduler=scheduler)


def trial(number, holder=""):
    return SimpleNamespace(
        config={"number": number},
        trial_id=holder,
        run_metadata=SimpleNamespace(start_time=None),
        pickled_error_file=None,
    )


def tell(world, number, holder="a", **event):
    return world.scheduler.on_trial_result(None, trial(number, holder), {EVENT: json.dumps(event)})


def outcome(**fields):
    return {"metrics": {"eval/nll": 1.0}, "steps": 1, "checkpoint": None, "stopped": "", "preempted": "", **fields}


@pytest.mark.parametrize("error", [StoreError("store: line 3 is malformed"), KeyError("metrics")])
def test_what_is_malformed_in_the_store_ends_the_search_in_one_line(world, monkeypatch, error):
    def malformed():
        raise error

    monkeypatch.setattr(world.study, "next_trial", malformed)
    assert world.searcher.suggest("a") == StoreSearcher.FINISHED
    assert "malformed" in world.control.error


def test_no_more_trials_than_slots(world):
    first, second = world.searcher.suggest("a"), world.searcher.suggest("b")
    assert (first["number"], second["number"]) == (0, 1)
    assert world.ends.begun == [(0, "sampler", 0), (1, "sampler", 0)]
    assert TrialSpec.from_json(first["spec"]).number == 0
    assert world.searcher.suggest("c") is None
    tell(world, 0, outcome=outcome())
    assert world.searcher.suggest("d")["number"] == 2


def test_a_point_that_is_refused_fails_its_trial_and_the_search_continues(world):
    def make_spec(ticket):
        if ticket.number != 2:
            raise ConfigError("train.micro_batch_size: does not divide")
        return TrialSpec(config={}, directory="")

    world.searcher._make_spec = make_spec
    assert world.searcher.suggest("a") is None
    assert world.searcher.suggest("a") is None
    assert world.searcher.suggest("a")["number"] == 2
    said = "refused: train.micro_batch_size: does not divide"
    assert world.study.told == [("fail", 0, said), ("fail", 1, said)]
    assert world.ends.seen == [(0, "failed", None), (1, "failed", None)]
    assert (list(world.control.live), world.control.refused, world.control.failed) == ([2], 0, 0)


def test_a_search_whose_points_are_all_refused_ends(world):
    world.study.left = list(range(200))

    def make_spec(ticket):
        raise ConfigError("no")

    world.searcher._make_spec = make_spec
    while world.searcher.suggest("a") is None:
        assert len(world.study.told) <= REFUSED
    assert world.control.error == f"the last {REFUSED} points were all refused; trial {REFUSED - 1}: refused: no"


def test_finished_only_when_the_study_is_done(world):
    world.study.left = []
    assert world.searcher.suggest("a") is None, "another driver may fail a trial yet"
    world.study.done = True
    assert world.searcher.suggest("b") is None, "the store is not asked in every step of Tune's loop"
    world.clock.now += searcher_module.POLL_SECONDS
    assert world.searcher.suggest("b") == Searcher.FINISHED


def test_an_absent_store_is_waited_for(world):
    def away_for_three_seconds():
        world.clock.now += 3.0
        raise StoreUnavailable("away")

    answers, world.study.next_trial = world.study.next_trial, away_for_three_seconds
    assert world.searcher.suggest("a") is None
    world.study.next_trial = answers
    world.clock.now += 2.9
    assert world.searcher.suggest("b") is None, "as long as the vain try took"
    world.clock.now += 0.2
    assert world.searcher.suggest("b")["number"] == 0


def test_a_stop_request_ends_the_search(world):
    world.control.interrupted = True
    assert world.searcher.suggest("a") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("verdict", "decision", "end"),
    [
        (Verdict(stop=False), TrialScheduler.CONTINUE, []),
        (Verdict(stop=True, reason="behind"), TrialScheduler.STOP, [(0, "pruned", 2.0)]),
        (Verdict(stop=True, reason="nan", failed=True), TrialScheduler.STOP, [(0, "failed", None)]),
    ],
)
def test_verdicts_become_decisions(world, verdict, decision, end):
    world.searcher.suggest("a")
    world.study.verdict = verdict
    report = {"step": 5, "metrics": {"eval/nll": 2.0}, "checkpoint": None}
    assert tell(world, 0, report=report) == decision
    assert world.ends.seen == end
    assert (0 in world.control.live) == (not end)


def test_the_next_suggestions_carry_why_trials_were_stopped(world):
    """A process learns of a stop only by being given its next trial."""
    world.study.left = list(range(9))
    world.study.verdict = Verdict(stop=True, reason="behind")
    report = {"step": 5, "metrics": {"eval/nll": 2.0}, "checkpoint": None}
    for number in range(6):
        suggested = world.searcher.suggest("a")
        assert json.loads(suggested["stops"]) == {str(each): "behind" for each in range(max(0, number - 4), number)}
        tell(world, number, report=report)


def test_a_failure_is_told_with_its_traceback(world):
    world.searcher.suggest("a")
    assert tell(world, 0, failure={"reason": "ValueError: x", "traceback": "T"}) == TrialScheduler.STOP
    assert world.study.told == [("fail", 0, "ValueError: x")]
    assert "T" in world.control.first_error


def test_a_dead_process_gives_its_trial_back_but_not_for_ever(world):
    for _ in range(MAX_DEATHS - 1):
        world.control.live[0] = "a"
        world.scheduler.on_trial_error(None, trial(0, "a"))
    assert world.study.told == [("release", 0)] * (MAX_DEATHS - 1)
    world.control.live[0] = "a"
    world.scheduler.on_trial_error(None, trial(0, "a"))
    assert world.study.told[-1] == ("fail", 0, f"the trial's process died {MAX_DEATHS} times without getting further")


def report_of(step):
    return {"step": step, "metrics": {"eval/nll": 2.0}, "checkpoint": None}


def test_a_trial_that_advances_between_the_deaths_of_its_processes_is_not_their_cause(world):
    """As on spot machines whose processes are killed while Ray takes their nodes for alive."""
    for step in range(5, 5 * (3 * MAX_DEATHS), 5):
        world.control.begin(0, step - 5, "a")
        tell(world, 0, report=report_of(step))
        world.scheduler.on_trial_error(None, trial(0, "a"))
    assert {each[0] for each in world.study.told} == {"release", "report"}


@pytest.mark.parametrize("silent", [False, True])
def test_a_trial_that_ends_its_process_at_the_same_step_again_and_again_fails(world, silent):
    """Its last checkpoint lies before its last report, which it makes again each time; so does another driver's."""
    world.control.deaths[0] = [[], []]
    world.control.silences[0] = 2
    for _ in range(MAX_DEATHS):
        world.control.begin(0, 10, "a")
        for step in (6, 8, 10, 12):
            tell(world, 0, report=report_of(step))
        if silent:
            tell(world, 0, lost={"reason": "silent", "blameless": False, "nodes": [], "silent": True})
        else:
            world.scheduler.on_trial_error(None, trial(0, "a"))
    ends = [each for each in world.study.told if each[0] != "report"]
    assert [each[0] for each in ends] == ["release"] * (MAX_DEATHS - 1) + ["fail"]
    assert ends[-1][2].endswith(f"{MAX_DEATHS} times without getting further")


def test_a_process_that_was_ended_for_its_silence_is_no_death_of_its_trial_unless_it_gets_no_further(world):
    ended = []
    now = [0.0]
    world.control.processes = ProcessWatch(40.0, ended.append, lambda: now[0])

    def freeze():
        world.control.begin(0, 0, "a")
        assert tell(world, 0, beat={"pid": 7}) == TrialScheduler.CONTINUE
        for _ in range(10):
            now[0] += 10.0
            ControlStopper(world.control).stop_all()
        world.scheduler.on_trial_error(None, trial(0, "a"))

    for step in range(1, 2 * MAX_DEATHS + 1):
        freeze()
        world.control.begin(0, 0, "a")
        tell(world, 0, report=report_of(step))
    assert ended
    assert {each[0] for each in world.study.told} == {"release", "report"}
    for _ in range(MAX_DEATHS):
        freeze()
    assert world.study.told[-1] == (
        "fail",
        0,
        "the trial's process did not answer for 40 s (RANKRAY_SILENCE_SECONDS), 3 times without getting further",
    )
    assert world.control.deaths == {}


def test_workers_lost_with_their_node_are_held_against_no_trial(world):
    for _ in range(2 * MAX_DEATHS):
        world.control.live[0] = "a"
        assert tell(world, 0, lost={"reason": "gone", "blameless": True, "nodes": ["n"]}) == TrialScheduler.STOP
    assert world.study.told == [("release", 0)] * 2 * MAX_DEATHS


def test_a_trial_handed_back_by_a_broken_process_is_charged_with_nothing(world):
    for _ in range(MAX_DEATHS + 1):
        world.control.begin(1, 0, "a")
        lost = {"reason": "its process could not train it", "blameless": True, "nodes": [], "ends": True}
        assert tell(world, 1, lost=lost) == TrialScheduler.CONTINUE, "the next step ends the process"
        world.scheduler.on_trial_error(None, trial(1, "a"))
    assert world.study.told == [("release", 1)] * (MAX_DEATHS + 1)
    assert world.control.deaths == {}


@pytest.mark.parametrize("kind", ["StorageFull", "StorageError"])
def test_a_storage_that_fails_stops_the_search_and_blames_no_trial(world, kind):
    world.control.begin(1, 0, "a")
    failure = {"reason": f"{kind}: storage: /disk is full; free some space", "traceback": "..."}
    assert tell(world, 1, failure=failure) == TrialScheduler.STOP
    assert world.study.told == [("release", 1)]
    assert world.control.failed == 0
    assert world.control.error.startswith("storage: /disk is full; free some space; then run the same command again")


def test_a_death_whose_node_turns_out_to_be_gone_counts_no_more(world, monkeypatch):
    """Ray says that a process is gone long before it says that its node is."""
    asked = []

    def gone_nodes(nodes, patience_seconds):
        asked.append((sorted(nodes), patience_seconds > 0))
        return {"gone"}.intersection(asked[-1][0])

    monkeypatch.setattr(scheduler, "gone_nodes", gone_nodes)
    for node in ["here", "gone", "gone", "here", "gone", "here"]:
        world.control.live[0] = "a"
        tell(world, 0, lost={"reason": "died", "blameless": False, "nodes": [node]})
    assert world.study.told == [("release", 0)] * 5 + [
        ("fail", 0, f"the trial's process died {MAX_DEATHS} times without getting further")
    ]
    assert asked[:2] == [(["gone", "here"], False), (["gone"], True)]


def test_a_trial_that_left_is_given_back_and_its_process_goes(world):
    """Its process then ends itself; by that time another may have the trial, which has not ended with that process."""
    world.searcher.suggest("a")
    left = outcome(preempted="its node is being taken away", steps=3)
    assert tell(world, 0, outcome=left) == TrialScheduler.CONTINUE
    assert world.study.told == [("release", 0)]
    world.study.left.insert(0, 0)
    assert world.searcher.suggest("b")["number"] == 0
    world.scheduler.on_trial_error(None, trial(0, "a"))
    world.scheduler.on_trial_remove(None, trial(0, "a"))
    assert tell(world, 0, outcome=outcome()) == TrialScheduler.STOP
    assert world.study.told == [("release", 0)]
    assert world.control.live == {0: "b"}


def test_a_trial_of_an_interrupted_search_takes_no_further_step(world):
    world.searcher.suggest("a")
    world.control.interrupted = True
    left = outcome(preempted="its search was interrupted", steps=3)
    assert tell(world, 0, outcome=left) == TrialScheduler.STOP
    assert world.study.told == [("release", 0)]


def test_work_lost_is_what_was_reported_since_the_last_checkpoint(world):
    from rankray.contracts import Report

    control = world.control
    control.begin(0, 10)
    assert control.work_lost(0, None, "not started") is None
    assert control.work_lost(0, 1.0, "gone").steps == 0
    control.reported(0, Report(20, {}, "place"))
    control.reported(0, Report(30, {}))
    lost = control.work_lost(0, 1.0, "gone")
    assert (lost.reason, lost.steps) == ("gone", 10)
    assert 0 <= lost.wall_seconds < 60
    control.begin(0, 20)
    assert control.work_lost(0, 1.0, "gone").steps == 0


def test_what_tune_drops_is_given_back(world):
    world.searcher.suggest("a")
    world.scheduler.dropped(0)
    assert world.study.told == [("release", 0)]
    assert not world.control.live


def test_nothing_of_ours_is_pickled(world):
    """Tune pickles searcher, scheduler and stopper with its experiment (docs/traps.md): they must hold nothing."""
    world.study.url = "postgresql://user:planted-password@host/db"
    for piece in (world.searcher, world.scheduler, ControlStopper(world.control)):
        assert b"planted-password" not in pickle.dumps(piece)
        assert len(pickle.dumps(piece)) < 300
