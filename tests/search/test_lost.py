"""Whole: a driver that can work no more says why in one line, and ends."""

import pytest
from fixtures.waiting import ended, until

from rankray.store.backend import connect

SLOW = ("--set", "evaluate.functions=[pause:briefly]")
BREAKS = """
from rankray.store import leases
renew = leases.Lease._renew
def _renew(self):
    if self.begun:
        raise ZeroDivisionError("by the test")
    renew(self)
leases.Lease._renew = _renew
"""


def delete(place):
    storage = connect(place.store)
    for name in ("tiny", "tiny/claims"):
        storage.delete_study(storage.get_study_id_from_name(name))


def no_act(place):
    """The lease breaks by itself at its first renewal."""


@pytest.mark.parametrize(
    ("first", "act", "said"),
    [
        ("pass", delete, "the study was deleted while it was worked on"),
        pytest.param(
            BREAKS, no_act, "cannot be renewed any more (ZeroDivisionError: by the test)", marks=pytest.mark.slow
        ),
    ],
    ids=["the study is deleted", "the lease breaks"],
)
def test_a_driver_that_can_work_no_more_ends_with_one_line(place, monkeypatch, first, act, said):
    environment = place.environment()
    monkeypatch.setattr(type(place), "environment", lambda self: environment | {"RANKRAY_LEASE_SECONDS": "3"})
    process = place.begin(*SLOW, "--set", "study.trials=50", first=f"exec({first!r})")
    until(lambda: bool(place.recorded()) or process.poll() is not None, log=place.log)
    act(place)
    assert ended(process) == 1, place.log.read_text()
    log = place.log.read_text()
    assert said in log
    assert "Traceback" not in log
    errors = [line for line in log.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "run the same command again" in errors[0]
