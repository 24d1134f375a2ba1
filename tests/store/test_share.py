from __future__ import annotations

import random
import time

import pytest

from rankray.errors import StoreError, StoreUnavailable
from rankray.store import attach, open_study, views
from rankray.store.share import serve
from store.helpers import Driver, drive, make_config

pytest.importorskip("grpc", reason="grpcio is not installed")


def test_what_is_written_through_the_proxy_is_in_the_store(sqlite_url: str, dice: random.Random) -> None:
    with serve(sqlite_url, port=0) as url:
        assert url.startswith("grpc://127.0.0.1:")
        config = make_config(study={"trials": 6})
        killed = Driver(url, config)
        time.sleep(dice.uniform(0.0, 0.2))
        killed.kill()
        drive(open_study(url, config))
        through = attach(url, "s")
        assert through.finished == 6
        shown = [views.trial(through, row["number"]) for row in views.trials(through)]
    direct = attach(sqlite_url, "s")
    assert [views.trial(direct, row["number"]) for row in views.trials(direct)] == shown
    assert direct.counts().finished == 6


def test_a_taken_port_is_named(sqlite_url: str) -> None:
    with serve(sqlite_url, port=0) as url:
        port = int(url.rpartition(":")[2])
        with pytest.raises(StoreError, match=f"127.0.0.1:{port} cannot be listened on"), serve(sqlite_url, port=port):
            pass


def test_a_journal_is_not_shared(journal_url: str) -> None:
    with pytest.raises(StoreError, match="allowed: sqlite, postgresql, mysql"), serve(journal_url):
        pass


@pytest.mark.usefixtures("impatient")
def test_a_proxy_that_is_gone_is_an_outage(sqlite_url: str) -> None:
    with serve(sqlite_url, port=0) as url:
        store = open_study(url, make_config())
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.counts()
