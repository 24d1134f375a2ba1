"""When failures and signals stop a search."""

import signal
import subprocess
import sys
import threading
import time

import pytest
from fixtures.waiting import ended

from rankray.search.control import MANY, SIGNALS, SYSTEMATIC, Control, interruptible


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
    """No trial starts from then on; those that run may save until a moment, and the last that left ends the search."""
    control = Control()
    control.begin(3, 0)
    assert (control.stopping, control.over) == (False, False)
    control.interrupted, control.leave_by = True, time.monotonic() + 3600
    assert control.stopping
    assert not control.over
    control.live.pop(3)
    assert control.over
    control.begin(4, 0)
    assert not control.over
    control.leave_by = time.monotonic()
    assert control.over


def test_what_cannot_go_on_waits_for_no_trial_to_save():
    control = Control(lost=lambda: "the study was deleted")
    control.begin(3, 0)
    assert control.over
    assert control.error == "the study was deleted"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noticed_while_the_main_thread_waits_in_c(number):
    """As for a frozen database: `select` in a loop that goes on after a signal stands in for its client library."""
    waits = (
        "import ctypes, os, signal\n"
        "from rankray.search.control import interruptible\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a test run under nohup has it ignored\n"
        "library = ctypes.CDLL(None)\n"
        "with interruptible(lambda number: os._exit(77)):\n"
        "    print('waiting', flush=True)\n"
        "    while library.pause():\n"
        "        library.pause(); library.pause(); library.sleep(3600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", waits], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(number)
    assert ended(process) == 77


def test_a_lost_driver_stops():
    reasons = [""]
    control = Control(lost=lambda: reasons[-1])
    assert not control.stopping
    reasons.append("its study was deleted")
    assert control.stopping
    assert control.error == "its study was deleted"


def test_a_signal_that_is_ignored_stays_ignored():
    """As by `nohup`, whose command outlives its terminal."""
    other = signal.getsignal(signal.SIGTERM)  # Ray's, where it has run in this process
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(lambda number: None):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not other
        assert signal.getsignal(signal.SIGTERM) is other
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def inside():
        with interruptible(lambda number: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [before]
