from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest
from fixtures.waiting import instead_of_sleep

from rankray.errors import StoreError, StoreUnavailable
from rankray.store import attach, list_studies, open_study
from rankray.store.records import STEP, steps_of
from rankray.store.repair import repair
from store.helpers import Driver, begin, begin_and_die, drive, make_config, said, states, stored, wait_for


def test_a_store_that_needs_nothing_is_left_alone(url: str) -> None:
    drive(open_study(url, make_config(study={"trials": 2})))
    with open_study(url, make_config(name="other", study={"trials": 2})) as store:
        begin(store)
        assert repair(url) == []
        assert store.counts().running == 1


def test_what_a_killed_driver_left_is_put_right(url: str) -> None:
    config = make_config(study={"trials": 4})
    killed = open_study(url, config).join()
    given_back, ended = begin(killed), begin(killed)
    killed.report(given_back.number, said(given_back.params, 10))
    end = {"metrics": {"eval/nll": 9.0}, "checkpoint": None, "stop": True, "reason": "behind"}
    killed.storage.set_trial_user_attr(stored(killed, ended.number)._trial_id, f"{STEP}10", end)
    begin_and_die(killed)
    killed._lease.drop()
    done = "\n".join(repair(url))
    for line in ("trial 0 was given back", "trial 1 was ended as PRUNED", "trial 2 was voided"):
        assert f"study s: {line}" in done
    assert states(killed) == ["WAITING", "PRUNED", "FAIL"]
    assert repair(url) == []
    with open_study(url, config) as store:
        ticket = begin(store)
        assert (ticket.number, ticket.checkpoint, ticket.adopted) == (0, "checkpoint-10", True)


def test_a_dead_driver_is_removed(url: str) -> None:
    config = make_config(study={"trials": 8, "pruner": "none"}, train={"max_steps": 400})
    store = open_study(url, config)
    driver = Driver(url, config, step_seconds=3600)
    wait_for(lambda: [trial for trial in store.trials() if steps_of(trial)])
    driver.kill()
    removed, *others = repair(url)
    assert re.fullmatch(f"study s: removed dead driver [0-9a-f]+, process {driver.process.pid}", removed)
    assert others == ["study s: trial 0 was given back: the next search resumes it"]
    assert states(store) == ["WAITING"]
    assert attach(url, "s").drivers() == {}


def test_the_next_driver_removes_dead_ones_of_its_machine(url: str) -> None:
    """From another machine their processes cannot be seen, and they would count as alive."""
    config = make_config()
    driver = Driver(url, config, step_seconds=3600)
    store = open_study(url, config)
    wait_for(lambda: [trial for trial in store.trials() if steps_of(trial)])
    driver.kill()
    with store:
        assert [each for each in store._drivers().values() if each] == [store._drivers()[store.driver]]


def test_one_study_that_cannot_be_worked_on_does_not_keep_others_from_being_repaired(url: str) -> None:
    for name in ("a", "b"):
        store = open_study(url, make_config(name=name)).join()
        begin(store)
        store._lease.drop()
    config = store.storage.get_study_user_attrs(store.study_id)["rankray:config"]
    first = open_study(url, make_config(name="a"))
    config = config | {"name": "a", "study": config["study"] | {"sampler": "gone"}}
    first.storage.set_study_user_attr(first.study_id, "rankray:config", config)
    refused, repaired = repair(url)
    assert refused.startswith("study a: left as it is: study.sampler: got 'gone'; allowed: auto")
    assert repaired == "study b: trial 0 was given back: the next search resumes it"


@pytest.mark.parametrize("seconds", [1.0, 4e9], ids=["old", "from the future"])
def test_a_lock_that_is_taken_again_and_again_stays_whatever_its_date(
    journal_url: str, tmp_path: Path, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(open_study(journal_url, make_config(study={"trials": 1})))
    lock, looked = tmp_path / "store.log.lock", []

    def take_again(_: float) -> None:
        """A holder that lives takes it again while it is watched; its clock is wrong."""
        looked.append(1)
        lock.unlink(missing_ok=True)
        lock.symlink_to(f"{tmp_path}/{len(looked)}")
        os.utime(lock, (seconds, seconds + len(looked)), follow_symlinks=False)

    take_again(0.0)
    instead_of_sleep(monkeypatch, take_again)
    assert repair(journal_url) == []
    assert lock.is_symlink()
    assert len(looked) > 1


def test_a_journal_s_torn_line_and_stale_lock_are_removed(
    journal_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankray.store.repair.STALE_SECONDS", 0.2)
    said: list[str] = []
    drive(open_study(journal_url, make_config(study={"trials": 1})))
    path, lock = tmp_path / "store.log", tmp_path / "store.log.lock"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":5,"wor')
    lock.symlink_to(path)
    assert repair(journal_url, said.append) == [
        f"journal: removed the stale lock {lock}",
        "journal: cut off a torn last line of 17 bytes",
    ]
    assert said == [f"journal: watching its lock {lock} for up to 0 s: does somebody hold it?"]
    assert not lock.is_symlink()
    assert path.read_bytes().startswith(whole)
    assert attach(journal_url, "s").finished == 1


def test_there_must_be_something_to_repair(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        repair(f"journal:///{tmp_path}/none.log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"SQLite format 3\x00" + b"\x10" * 9000, b"notes\nnot finished", b'\x08\x00{"a": 1}', b"{}"],
    ids=["sqlite", "text", "weights", "json"],
)
@pytest.mark.parametrize("act", [repair, list_studies, lambda url: open_study(url, make_config())])
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_is(tmp_path: Path, content: bytes, act: Any) -> None:
    """A torn last line is cut off: of another file, that is its end."""
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"file: the file is no journal; allowed: one that rankray or Optuna made"):
        act(f"journal:///{file}")
    assert file.read_bytes() == content


def test_a_journal_with_nothing_but_a_torn_line_is_repaired(tmp_path: Path) -> None:
    for cut in (1, 8, 40):
        file = tmp_path / f"{cut}.log"
        file.write_bytes(b'{"op_code":0,"worker_id":"a","study_name":"s"}'[:cut])
        assert repair(f"journal:///{file}") == [f"journal: cut off a torn last line of {cut} bytes"]


def test_a_journal_that_may_not_be_written_is_refused_in_one_line(
    tmp_path: Path, journal_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive(open_study(journal_url, make_config(study={"trials": 1})))

    def refused(self: Any) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("rankray.store.journal.KernelLock.acquire", refused)
    with pytest.raises(StoreUnavailable, match="may not be written here"):
        repair(journal_url)
