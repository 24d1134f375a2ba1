from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest

from rankray.store import journal
from rankray.store.backend import connect
from rankray.store.journal import KernelLock, journal_lock

MINIMIZE = [optuna.study.StudyDirection.MINIMIZE]


def test_local_disks_get_the_kernel_s_lock_and_network_ones_optuna_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(journal_lock(tmp_path / "j"), KernelLock)
    monkeypatch.setattr(journal, "network_file_system", lambda path: "nfs4")
    assert not isinstance(journal_lock(tmp_path / "j"), KernelLock)


def test_the_lock_excludes_and_passes_on(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b"")
    one, two = KernelLock(path), KernelLock(path)
    got = threading.Event()

    def second() -> None:
        two.acquire()
        got.set()
        two.release()

    one.acquire()
    thread = threading.Thread(target=second)
    thread.start()
    assert not got.wait(0.1)
    one.release()
    thread.join(10)
    assert got.is_set()


def test_a_torn_last_line_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    url, path = f"journal:///{tmp_path}/j", tmp_path / "j"
    connect(url).create_new_study(MINIMIZE, "one")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":0,"worker')
    assert [study.study_name for study in connect(url).get_all_studies()] == ["one"]
    connect(url).create_new_study(MINIMIZE, "two")
    assert path.read_bytes().startswith(whole + b'{"op_code":0,"worker_id"')
    assert [study.study_name for study in connect(url).get_all_studies()] == ["one", "two"]


def test_a_journal_that_holds_nothing_but_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(b'{"op_')
    lock = KernelLock(path)
    lock.acquire()
    lock.release()
    assert path.read_bytes() == b""


def test_a_link_to_a_journal_has_the_lock_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else who names the link and who names the file write at once, and one cuts off the other's line."""
    monkeypatch.setattr("rankray.store.journal.LOCK_SECONDS", 0.1)
    (tmp_path / "elsewhere").mkdir()
    path, link = tmp_path / "elsewhere" / "store.log", tmp_path / "link.log"
    path.touch()
    link.symlink_to(path)
    one, two = journal_lock(path), journal_lock(link)
    one.acquire()
    with pytest.raises(TimeoutError):
        two.acquire()
    one.release()
    two.acquire()
    two.release()
    assert sorted(each.name for each in tmp_path.rglob("*.flock")) == ["store.log.flock"]
