"""Endless comparisons are killed, counted as wrong, and do not disturb the others."""

import signal
from threading import Timer

import pytest

from rankray.errors import ConfigError
from rankray.evaluate import math_pool
from rankray.evaluate.math_pool import MathPool

pytest.importorskip("math_verify", reason="the algebra of answers needs the extra rankray[math]")


def test_what_takes_too_long_is_wrong_and_counted():
    pool = MathPool(processes=2, limit_seconds=0.5)
    try:
        pairs = [("9^{9^{9^{9}}}", "1"), (r"\frac{1}{2}", "0.5"), ("x+y", "y+x"), (r"\frac{1}{2}", "0.5")]
        assert pool.same([pairs[1]]) == [True]  # the process is warm
        assert pool.same(pairs)[0] is False
        assert pool.timeouts == 1
        assert pool.same([("a+b", "b+a")]) == [True]
        assert pool.timeouts == 1
    finally:
        pool.close()


def test_a_process_that_waits_for_the_cpu_is_not_given_up(monkeypatch):
    """A stopped process uses no CPU time, as on a machine that is busy with other things."""
    monkeypatch.setattr(math_pool, "PATIENCE", 1000)
    pool = MathPool(processes=1, limit_seconds=0.5)
    try:
        assert pool.same([("x+1", "1+x")]) == [True]
        child = pool._idle.get()
        child._process.send_signal(signal.SIGSTOP)
        Timer(0.8, lambda: child._process.send_signal(signal.SIGCONT)).start()
        pool._idle.put(child)
        assert pool.same([("x+2", "2+x")]) == [True]
        child._process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(math_pool, "PATIENCE", 1)
        assert pool.same([("x+3", "3+x")]) == [False], "nor waited for without end"
    finally:
        pool.close()


def test_a_process_that_dies_is_replaced():
    pool = MathPool(processes=1)
    try:
        assert pool.same([("x+1", "1+x")]) == [True]
        child = pool._idle.get()
        child._process.kill()
        child._process.wait()
        pool._idle.put(child)
        assert pool.same([("x+2", "2+x")]) == [False]
        assert pool.timeouts == 1
        assert pool.same([("x+3", "3+x")]) == [True]
    finally:
        pool.close()


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(math_pool.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"answer: math needs the package math-verify.*pip install 'rankray\[math\]'"):
        math_pool.require_math_verify()
