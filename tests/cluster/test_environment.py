"""What processes of Ray see: their import path."""

import sys

import pytest

from rankray.cluster.environment import libraries_first


@pytest.fixture
def path(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/script", "", "/usr/lib/python"])
    return sys.path


def test_the_current_directory_comes_after_the_libraries(path, tmp_path):
    libraries_first()
    assert path == ["/script", "/usr/lib/python", str(tmp_path)]
    libraries_first()
    assert path == ["/script", "/usr/lib/python", str(tmp_path)]


def test_what_pythonpath_names_stays_where_it_is(path, tmp_path, monkeypatch):
    before = list(path)
    monkeypatch.setenv("PYTHONPATH", f"/other:{tmp_path}")
    libraries_first()
    assert path == before


def test_a_directory_that_is_gone_is_left_alone(path, tmp_path):
    before = list(path)
    tmp_path.rmdir()
    libraries_first()
    assert path == before
