"""`rankray store`, as it is typed."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from fixtures.waiting import ended

from rankray.store import attach, list_studies, open_study


@pytest.fixture
def store(rankray):
    return lambda *words, expect=0: rankray("store", *words, expect=expect)


def test_a_study_s_life(store, url, tmp_path):
    other = f"journal:///{tmp_path}/other.log"
    assert re.match(r"s: complete, 3 of 3 trials, best [\d.]+\n", store("list", "--store", url))
    said = store("copy", url, other, "--name", "s")
    assert "copied s, 3 trials" in said
    assert re.search(rf"to continue there: rankray search \S+ .*--store {re.escape(other)}\n", said)
    assert "nothing is overwritten" in store("copy", url, other, "--name", "s", expect=2)
    table = tmp_path / "t.csv"
    assert "wrote 3 rows" in store("export", "s", "--store", other, "--csv", str(table))
    with open(table, newline="") as file:
        assert [row["number"] for row in csv.DictReader(file)] == ["0", "1", "2"]
    assert "nothing to repair" in store("repair", "--store", other)
    assert "add --yes" in store("delete", "s", "--store", other, expect=2)
    assert list_studies(other) == ["s"]
    assert "it had no checkpoints of its own" in store("delete", "s", "--store", other, "--yes"), (
        "they are the original's"
    )
    assert "none of this name" in store("delete", "s", "--store", other, expect=2)
    assert store("list", "--store", other) == "no studies yet\n"
    assert json.loads(store("list", "--store", other, "--json")) == {"studies": []}
    (listed,) = json.loads(store("list", "--store", url, "--json"))["studies"]
    assert (listed["study"], listed["state"], listed["budget"]["finished"]) == ("s", "complete", 3)


def test_a_deletion_names_the_confirmations_that_stay(store, url):
    config = attach(url, "s").config
    for name in ("s.confirm", "s.confirm-again", "s.confirmed"):
        open_study(url, config.model_copy(update={"name": name}))
    said = store("delete", "s", "--store", url, "--yes")
    assert said.endswith("say nothing of another study of this name: s.confirm, s.confirm-again\n")


def test_an_export_needs_a_file(store, url):
    assert "--csv FILE" in store("export", "s", "--store", url, expect=2)


def test_sharing_warns_serves_and_stops(url):
    pytest.importorskip("grpc", reason="grpcio is not installed")
    words = [sys.executable, "-m", "rankray", "store", "share", "--store", url, "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    shared = re.search(r"as (grpc://\S+)", process.stdout.readline())
    assert shared is not None
    warning = "".join(process.stdout.readline() for _ in range(3))
    assert "neither encrypted" in warning
    assert "ssh -N -L" in warning
    assert attach(shared[1], "s").finished == 3
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 0


WRITING = {
    "store export s --csv FILE": "store export: --csv",
    "store export s --parquet FILE": "store export: --parquet",
    "report s -o FILE --format html": "report: -o",
    "rehearse s.yaml --plot FILE": "rehearse: --plot",
    "diagnose s.yaml -o FILE": "diagnose: -o",
}


@pytest.mark.parametrize("command", [*WRITING, "import tool.yaml -o FILE", "init --model m --data t.jsonl -o FILE"])
def test_no_verb_writes_over_another_file_or_fails_after_its_work(rankray, url, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKRAY_STORE", url)
    (tmp_path / "s.yaml").write_text("model: {path: m}\ndata: {train: t, eval: e, prompt: x, completion: y}\n")
    (tmp_path / "tool.yaml").write_text("base_model: m\ndatasets: [{path: t.jsonl, type: alpaca}]\n")
    before = (tmp_path / "store.db").read_bytes()
    said = rankray(*command.replace("FILE", "nowhere/x.csv").split(), expect=2)
    assert f"{WRITING.get(command, '')} nowhere/x.csv: there is no directory nowhere; allowed: a file in a dir" in said
    said = rankray(*command.replace("FILE", "store.db").split(), expect=2)
    if command in WRITING:
        assert (
            f"{WRITING[command]} store.db: another file is there, and would be overwritten; allowed: a new file" in said
        )
    else:
        assert "'store.db' exists; allowed is a new file" in said
    assert (tmp_path / "store.db").read_bytes() == before


def test_a_table_may_be_written_again_and_to_no_plain_file(store, url, tmp_path):
    for _ in range(2):
        assert "wrote 3 rows" in store("export", "s", "--store", url, "--csv", str(tmp_path / "t.csv"))
    assert "wrote 3 rows to /dev/stdout" in store("export", "s", "--store", url, "--csv", "/dev/stdout")
    assert "is a directory" in store("export", "s", "--store", url, "--csv", str(tmp_path), expect=2)
