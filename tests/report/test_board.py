"""What is known of a running search."""

import heapq
import random

import pytest

from rankray.contracts import Report
from rankray.report.board import Board, duration, short_params
from rankray.report.live import view_lines


def test_progress_and_estimate_count_this_launch_only():
    """One trial at a time, 10 seconds each: after three of them, one is left of the twelve."""
    now = [100.0]
    board = Board("s", "eval/nll", maximize=False, budget=12, max_steps=30, finished=8, clock=lambda: now[0])
    for number in range(8, 11):
        assert board.seconds_left() is None
        board.started(number, {"loss.temperature": 1.5}, "sampler", 0)
        now[0] += 10
        board.reported(number, Report(30, {"eval/nll": 2.0}))
        board.ended(number, "complete", 2.0, "")
    assert board.finished == 11
    assert board.seconds_left() == pytest.approx(10.0)
    now[0] += 4
    assert board.seconds_left() == pytest.approx(6.0), "it counts down between events"
    assert board.best == (8, 2.0, {"loss.temperature": 1.5})


@pytest.mark.parametrize(("left", "seconds"), [(None, 90.0), (2, 20.0), (0, 0.0), (50, 90.0)])
def test_the_estimate_ends_where_a_finite_space_does(left, seconds):
    now = [100.0]
    board = Board("s", "eval/nll", maximize=False, budget=12, max_steps=30, clock=lambda: now[0])
    board.points_left = lambda: left
    for number in range(3):
        board.started(number, {}, "sampler", 0)
        now[0] += 10
        board.reported(number, Report(30, {"eval/nll": 2.0}))
        board.ended(number, "complete", 2.0, "")
    assert board.seconds_left() == pytest.approx(seconds)


def test_a_trial_whose_steps_are_searched_is_as_long_as_it_says():
    now = [100.0]
    board = Board("s", "eval/nll", maximize=False, budget=4, max_steps=30, seeds=2, clock=lambda: now[0])
    for number in range(3):
        board.started(number, {"train.max_steps": 50}, "sampler", 0)
        now[0] += 10
        board.reported(number, Report(100, {"eval/nll": 2.0}))
        board.ended(number, "complete", 2.0, "")
    assert board.seconds_left() == pytest.approx(10.0)
    board.started(3, {"train.max_steps": 50}, "sampler", 0)
    board.reported(3, Report(50, {"eval/nll": 2.0}))
    assert any("50/100" in line.plain for line in view_lines(board, 80, 24))
    board.started(4, {}, "sampler", 0)
    assert any("0/30" in line.plain for line in view_lines(board, 80, 24))


def test_what_other_drivers_have_finished_counts():
    board = Board("s", "eval/nll", maximize=False, budget=12, max_steps=30, finished=1)
    board.counts["complete"] = 1
    theirs = {"complete": 1, "pruned": 0, "failed": 0}
    board.seen = lambda: (theirs, (4, 1.5, {"a": 1}))
    board.started(1, {}, "sampler", 0)
    assert (board.finished, board.best) == (1, (4, 1.5, {"a": 1}))
    theirs |= {"complete": 3, "pruned": 2, "failed": 4}
    board.ended(1, "complete", 2.0, "")
    assert (board.finished, board.counts, board.best[0]) == (5, theirs, 4), "this one is among the three by now"
    theirs |= {"complete": 2}
    board.started(2, {}, "sampler", 0)
    assert board.finished == 5, "what is read later than what was done here takes nothing back"


def test_the_estimate_is_within_a_factor_of_two():
    """Searches in virtual time, of 1 to 8 slots, that prune two of three trials, and of the rest two of three again.

    Of all moments from the third finished trial on, but for the last tenth of the time, nine of ten are within it.
    """
    searches = [estimates(seed, slots) for slots in (1, 2, 4, 8) for seed in range(16)]
    ratios = [estimate / left for search in searches for left, estimate in search]
    assert len(ratios) > 2000
    assert sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios) > 0.9


def estimates(seed, slots, budget=48, steps=200, every=25):
    """Run a search in virtual time; return (seconds really left, estimate) after each end of a trial."""
    chance, now, events = random.Random(seed), [0.0], []
    board = Board("s", "m", maximize=False, budget=budget, max_steps=steps, clock=lambda: now[0])

    def next_report(number, step):
        heapq.heappush(events, (now[0] + every * chance.uniform(0.2, 0.3), number, step))

    for number in range(slots):
        board.started(number, {}, "sampler", 0)
        next_report(number, every)
    placed, seen = slots, []
    while board.finished < budget:
        now[0], number, step = heapq.heappop(events)
        board.reported(number, Report(step, {"m": 1.0}))
        if step < steps and not (step in (25, 75) and chance.random() < 2 / 3):
            next_report(number, step + every)
            continue
        board.ended(number, "complete" if step == steps else "pruned", 1.0, "")
        if placed < budget:
            board.started(placed, {}, "sampler", 0)
            next_report(placed, every)
            placed += 1
        seen.append((now[0], board.seconds_left()))
    return [(now[0] - at, left) for at, left in seen if left is not None and at < 0.9 * now[0]]


def test_events_are_sentences():
    board = Board("s", "eval/nll", maximize=False, budget=9, max_steps=1)
    board.ended(1, "complete", 0.25, "")
    board.ended(2, "pruned", 0.5, "0.5 at step 10 is above the cut-off 0.34")
    board.ended(3, "lost", None, "its node is gone")
    assert list(board.events) == [
        "trial 1 is complete with eval/nll 0.25",
        "trial 2 was pruned: 0.5 at step 10 is above the cut-off 0.34",
        "trial 3 was interrupted: its node is gone",
    ]


def test_the_best_follows_the_direction_and_is_complete():
    for maximize, expected in ((True, 3.0), (False, 1.0)):
        board = Board("s", "m", maximize=maximize, budget=9, max_steps=1)
        for number, value in enumerate((2.0, 1.0, 3.0)):
            board.started(number, {}, "sampler", 0)
            board.ended(number, "complete", value, "")
        board.ended(4, "pruned", 0.0 if not maximize else 9.0, "behind")
        assert board.best is not None
        assert board.best[1] == expected
        assert board.finished == 4


def test_a_metric_that_tells_nothing_is_said_once_there_are_enough_trials():
    board = Board("s", "eval/accuracy", maximize=True, budget=9, max_steps=1)
    for number in range(4):
        board.ended(number, "complete", 0.0, "")
        board.ended(number + 10, "pruned", 0.5, "behind")
    assert board.warning == ""
    board.ended(4, "complete", 0.0, "")
    assert board.warning.startswith("all 5 complete trials have eval/accuracy 0: it does not tell settings apart")
    board.ended(5, "complete", 0.25, "")
    for number in range(6, 12):
        board.ended(number, "complete", 0.25, "")
        assert board.warning == "", "one was different"


def test_lost_and_failed_trials_are_not_finished():
    board = Board("s", "m", maximize=True, budget=9, max_steps=1)
    board.ended(1, "lost", None, "its process died")
    board.ended(2, "failed", None, "ValueError")
    assert board.finished == 0
    assert board.counts["failed"] == 1
    assert board.last == "trial 2 failed: ValueError"


def test_words():
    assert duration(None) == "--:--"
    assert duration(65) == "1:05"
    assert duration(3661) == "1:01:01"
    assert short_params({"loss.temperature": 1.23456, "loss.form": "bound"}) == "temperature=1.23 form=bound"
