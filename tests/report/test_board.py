"""What is known of a running search."""

from rankray.report.board import Board, duration, short_params


def test_progress_and_estimate_count_this_launch_only():
    now = [100.0]
    board = Board("s", "eval/nll", maximize=False, budget=12, max_steps=30, finished=8, clock=lambda: now[0])
    assert board.seconds_left() is None
    board.started(8, {"loss.temperature": 1.5}, "sampler", 0)
    now[0] = 110.0
    board.ended(8, "complete", 2.0, "")
    assert board.finished == 9
    assert board.seconds_left() == 30.0
    assert board.best == (8, 2.0, {"loss.temperature": 1.5})


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
