"""When failures stop a search."""

from rankray.search.control import MANY, SYSTEMATIC, Control


def test_three_failures_before_any_success_stop_with_the_first_error():
    control = Control()
    for number in range(SYSTEMATIC):
        assert not control.stopping
        control.failure(number, f"ValueError: {number}", "Traceback ...")
    assert control.stopping
    assert "trial 0: ValueError: 0" in control.error
    assert "ValueError: 1" not in control.error


def test_failures_after_a_success_are_borne_until_they_prevail():
    control = Control()
    control.success()
    for number in range(MANY - 1):
        control.failure(number, "x", "")
    assert not control.stopping
    control.failure(MANY, "x", "")
    assert control.stopping


def test_failures_among_many_successes_are_borne():
    control = Control()
    for number in range(2 * MANY):
        control.success()
        control.failure(number, "x", "")
    assert not control.stopping


def test_an_interruption_stops():
    assert Control(interrupted=True).stopping
