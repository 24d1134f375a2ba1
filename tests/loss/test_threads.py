"""Rows divided among threads."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from rankray.loss import threads
from rankray.loss.threads import over_rows


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    monkeypatch.setattr(threads, "WORTH_A_THREAD", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    threads._pool.cache_clear()
    yield
    threads._pool.cache_clear()


def test_an_error_in_a_thread_is_raised():
    def fails(rows):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        over_rows(fails, np.ones((6, 4)))


def test_a_forked_process_has_threads_of_its_own():
    numbers = np.arange(24.0).reshape(6, 4)
    assert over_rows(lambda part: part.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
    child = os.fork()
    if child == 0:
        right = over_rows(lambda part: part.sum(-1), numbers).tolist() == numbers.sum(-1).tolist()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
