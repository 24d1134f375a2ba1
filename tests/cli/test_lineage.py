"""Where a study comes from."""

import json
import subprocess

import pytest

from rankray.cli import lineage as lineage_file
from rankray.cli.lineage import lineage
from rankray.config import load_config

FILE = """\
model: {path: m}
data: {train: a.jsonl, eval: b.jsonl}
train:
  learning_rate: 0.001
store: postgresql://user:secret@host/db
space:
  loss.temperature: {float: [0.5, 2.0]}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text(FILE)
    return path


def git(directory, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", *identity, *words], cwd=directory, check=True, capture_output=True, text=True).stdout


def test_every_given_value_has_its_place_and_no_secret(file):
    found = lineage(load_config(file, ["train.seed=3", "loss.form=exact"]))
    assert found["file"] == str(file)
    assert found["places"] == {
        "model.path": f"{file}:1",
        "data.train": f"{file}:2",
        "data.eval": f"{file}:2",
        "train.learning_rate": f"{file}:4",
        "train.seed": "--set train.seed",
        "loss.form": "--set loss.form",
    }
    assert "secret" not in json.dumps(found)


def test_the_commit_and_whether_files_have_changed_since(file):
    assert "git" not in lineage(load_config(file)), "no repository"
    for words in (("init", "-q"), ("add", "f.yaml"), ("commit", "-qm", "x")):
        git(file.parent, *words)
    commit = git(file.parent, "rev-parse", "HEAD").strip()
    (file.parent / "untracked").touch()
    assert lineage(load_config(file))["git"] == commit
    file.write_text(FILE + "name: other\n")
    assert lineage(load_config(file))["git"] == f"{commit} with changes"


def test_without_git_nothing_is_said(file, monkeypatch):
    def missing(*words, **options):
        raise FileNotFoundError("git")

    monkeypatch.setattr(lineage_file.subprocess, "run", missing)
    assert "git" not in lineage(load_config(file))
