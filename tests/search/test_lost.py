"""Whole: a driver that can work no more says why in one line, and ends."""

import psutil
import pytest
from fixtures.waiting import ended, until

from rankray.store import attach
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


def kill_server(name):
    """Return what kills a server of the Ray that a search has started."""

    def act(place):
        [driver] = attach(place.store, "tiny").drivers().values()
        [server] = [each for each in psutil.Process(driver["pid"]).children() if each.name() == name]
        server.kill()

    return act


def no_act(place):
    """The lease breaks by itself at its first renewal."""


@pytest.mark.parametrize(
    ("first", "act", "said"),
    [
        ("pass", delete, "the study was deleted while it was worked on"),
        ("pass", kill_server("gcs_server"), "gcs_server, a server of the Ray that this search started, has ended"),
        pytest.param("pass", kill_server("raylet"), "raylet, a server of the Ray that this", marks=pytest.mark.slow),
        pytest.param(
            BREAKS, no_act, "cannot be renewed any more (ZeroDivisionError: by the test)", marks=pytest.mark.slow
        ),
    ],
    ids=["the study is deleted", "gcs is killed", "the raylet is killed", "the lease breaks"],
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
