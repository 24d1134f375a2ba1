"""Records of the base model's statistics: positions, one computation for all processes, kills in the middle."""

import errno
import multiprocessing
import os
import signal as signals

import datasets
import numpy as np
import pytest

from rankray.data import signal
from rankray.data.cache import FEATURES, directory, shared_table
from rankray.data.signal import RECORD, fingerprint, positions, shared_records, weight_records

LENGTHS = [3, 0, 4, 2]


def table(rows=((5, 1), (6, 0), (4, 2))):
    """Examples of `length` tokens whose completion starts at `start`."""
    ids = [list(range(10, 10 + length)) for length, _ in rows]
    labels = [[-100] * start + each[start:] for (_, start), each in zip(rows, ids, strict=True)]
    columns = filled({"input_ids": ids, "labels": labels, "start": [start for _, start in rows]})
    return datasets.Dataset.from_dict(columns, features=FEATURES).select_columns(["input_ids", "labels"])


def filled(columns):
    """Columns with the others that a table of three examples has."""
    return {name: columns.get(name, [True] * 3 if name == "supervised" else [0] * 3) for name in FEATURES}


def block(number):
    records = np.zeros(LENGTHS[number], RECORD)
    records["token"], records["log_prob"] = number, -number
    return records


def test_a_position_stands_where_the_label_stood():
    found = positions(table())
    assert found["labels"][:] == [
        [-100, 0, 1, 2, 3],
        [-100, 4, 5, 6, 7, 8],  # nothing predicts a first token
        [-100, -100, 9, 10],
    ]
    assert found["input_ids"][:] == table()["input_ids"][:]
    assert found.column_names == ["input_ids", "labels"]
    assert found.cache_files  # mapped


def test_the_fingerprint_is_that_of_the_tokens():
    assert fingerprint(table()) == fingerprint(table())
    assert fingerprint(table()) != fingerprint(table(((5, 1), (6, 0), (4, 3))))
    columns = {name: column[:] for name, column in table().to_dict().items()}
    parts = [filled(columns | {"start": [1, 0, 2]})]
    mapped = shared_table(["one"], lambda: parts)
    assert fingerprint(mapped) == fingerprint(shared_table(["one"], lambda: parts))
    assert fingerprint(mapped) != fingerprint(shared_table(["two"], lambda: parts))
    assert fingerprint(mapped) != fingerprint(mapped.select(range(2)))


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_numbers_and_weights_do_not_depend_on_how_many_rows_are_read_at_once(rows, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path))
    monkeypatch.setattr(signal, "ROWS_PER_PART", rows)
    columns = {name: column[:] for name, column in table().to_dict().items()}
    given = {"weights": [None, [0.25, 0.5, -1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 6.0]]}
    weighted = datasets.Dataset.from_dict(columns | given)
    numbers, records = positions(weighted)["labels"][:], weight_records(weighted)
    assert numbers == [[-100, 0, 1, 2, 3], [-100, 4, 5, 6, 7, 8], [-100, -100, 9, 10]]
    assert records["weight"].tolist() == [1.0, 1.0, 1.0, 1.0, 0.5, -1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert records["token"].tolist() == [11, 12, 13, 14, 11, 12, 13, 14, 15, 12, 13]


def test_records_are_computed_once_and_mapped():
    made = []
    for _ in range(2):
        found = shared_records("once", LENGTHS, lambda number: made.append(number) or block(number))
        assert isinstance(found, np.memmap)
        assert found["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2
    assert made == [0, 1, 2, 3]
    assert found.itemsize == 32


def test_other_data_get_other_records():
    one = shared_records(["data", 1], [1], lambda number: np.full(1, 7, RECORD))
    other = shared_records(["data", 2], [1], lambda number: np.full(1, 8, RECORD))
    assert (one["token"].item(), other["token"].item()) == (7, 8)


def test_a_failure_leaves_the_blocks_before_it():
    made = []

    def failing(number):
        made.append(number)
        if number == 2 and made.count(2) == 1:
            raise RuntimeError("out of memory")
        return block(number)

    with pytest.raises(RuntimeError, match="out of memory"):
        shared_records("failing", LENGTHS, failing)
    assert shared_records("failing", LENGTHS, failing)["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2
    assert made.count(0) == 1
    assert made[3:] == [2, 3]


def test_a_block_that_was_cut_short_is_computed_again():
    def dying(number):
        if number < 2:
            return block(number)
        newest = max(directory().glob("*.partial"), key=lambda path: path.stat().st_mtime_ns)
        with newest.open("ab") as file:
            file.write(b"half a record")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        shared_records("cut", LENGTHS, dying)
    made = []
    found = shared_records("cut", LENGTHS, lambda number: made.append(number) or block(number))
    assert found["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2
    assert made == [2, 3]


def compute(log, die_at):
    """What a process does: note each block; die without a word at one of them."""

    def make(number):
        if number == die_at:
            os.kill(os.getpid(), signals.SIGKILL)
        with open(log, "a") as file:
            file.write(f"{number}\n")
        return block(number)

    assert len(shared_records("processes", LENGTHS, make)) == 9


def test_two_processes_and_a_kill_compute_each_block_once(tmp_path):
    log = str(tmp_path / "log")
    context = multiprocessing.get_context("fork")
    killed = context.Process(target=compute, args=(log, 2))
    killed.start()
    killed.join()
    assert killed.exitcode == -signals.SIGKILL
    both = [context.Process(target=compute, args=(log, None)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    with open(log) as file:
        assert file.read().split() == ["0", "1", "2", "3"]


def test_where_nothing_can_be_written_each_process_computes_its_own(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RANKRAY_CACHE", str(tmp_path / "file" / "cache"))
    found = shared_records("nowhere", LENGTHS, block)
    assert not isinstance(found, np.memmap)
    assert found["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fits", [0, 2])
def test_on_a_full_disk_what_does_not_fit_stays_in_memory(monkeypatch, code, fits):
    made, synced, sync = [], [], os.fsync

    def full(file):
        synced.append(file)
        if len(synced) > fits:
            os.ftruncate(file, os.fstat(file).st_size - 5)  # half of the last record did not fit
            raise OSError(code, os.strerror(code))
        sync(file)

    with monkeypatch.context() as while_full:
        while_full.setattr(signal.os, "fsync", full)
        found = shared_records(["full", code, fits], LENGTHS, lambda number: made.append(number) or block(number))
    assert not isinstance(found, np.memmap)
    assert found["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2
    del made[:]
    again = shared_records(["full", code, fits], LENGTHS, lambda number: made.append(number) or block(number))
    assert isinstance(again, np.memmap), "where there is room again, the file is completed"
    assert (again["token"].tolist(), made) == (found["token"].tolist(), [0, 1, 2, 3][fits:])


def test_of_a_disk_that_fails_nothing_is_read_back(monkeypatch):
    def broken(file):
        os.write(file, bytes(1000))
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as while_broken:
        while_broken.setattr(signal.os, "fsync", broken)
        found = shared_records("broken", LENGTHS, block)
    assert not isinstance(found, np.memmap)
    assert found["token"].tolist() == [0] * 3 + [2] * 4 + [3] * 2
    assert shared_records("broken", LENGTHS, block)["token"].tolist() == found["token"].tolist()


def test_no_tokens_at_all():
    assert len(shared_records("none", [0, 0], lambda number: np.empty(0, RECORD))) == 0


def test_more_tokens_than_a_label_can_count_are_refused(monkeypatch):
    monkeypatch.setattr(signal, "MOST_TOKENS", 10)
    with pytest.raises(signal.DataError, match=r"^data.train: more than 10 supervised tokens.*loss.signal online"):
        positions(table(((5, 1), (6, 0), (4, 1))))
