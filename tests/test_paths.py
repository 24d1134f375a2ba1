"""One rule for paths."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rankray.paths import (
    cache_home,
    delete_left_over,
    file_in_url,
    resolved,
    resolved_url,
    same_path,
    temporary_directory,
)


def test_a_path_is_relative_to_its_base_and_to_the_current_directory_without_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolved("a/b", "/base") == "/base/a/b"
    assert resolved("./a//b/", "/base") == "/base/a/b"
    assert resolved("a", "sub") == resolved("sub/a") == f"{tmp_path}/sub/a"
    assert resolved("/a", "/base") == "/a"
    assert resolved("~/a", "/base") == str(Path.home() / "a")


def test_two_dots_behind_a_link_are_the_directory_behind_it(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/deep")
    assert resolved("link/../x", tmp_path) == str(tmp_path / "real" / "x")
    assert same_path(f"{tmp_path}/link", f"{tmp_path}/real/./deep/")
    assert not same_path("~nobody-here", "x")


@pytest.mark.parametrize(
    ("path", "said"), [("~nobody-here/x", "no user 'nobody-here' here"), ("a\0b", "null character")]
)
def test_what_is_no_path_says_so(path, said):
    with pytest.raises(ValueError, match=said):
        resolved(path)


@pytest.mark.parametrize("scheme", ["sqlite", "journal"])
def test_a_stores_url_keeps_its_meaning_when_it_is_made_absolute(scheme, tmp_path):
    for written in ("a.db", "a%20b.db", "a%3Fb%23c%2525.db", "../x/a.db"):
        url = f"{scheme}:///{written}"
        absolute = resolved_url(url, tmp_path)
        assert file_in_url(absolute) == resolved(file_in_url(url), tmp_path)
        assert resolved_url(absolute, "/elsewhere") == absolute
    assert resolved_url(f"{scheme}:///~/a.db", tmp_path) == f"{scheme}:///{Path.home()}/a.db"


@pytest.mark.parametrize(
    "url", ["postgresql://u@h/d", "sqlite:///:memory:", "sqlite:///", "sqlite://x", "grpc://h:1", "x"]
)
def test_other_urls_are_left(url):
    assert resolved_url(url, "/base") == url


def test_the_caches_place_follows_the_rule(monkeypatch):
    monkeypatch.setenv("RANKRAY_CACHE", "~/c")
    assert cache_home() == Path.home() / "c"
    monkeypatch.setenv("RANKRAY_CACHE", "c")
    assert cache_home() == Path(os.getcwd(), "c")


HOLDS = """
import sys, time
from rankray.paths import temporary_directory
with temporary_directory("mine-", sys.argv[1]) as directory:
    (directory / "file").touch()
    print(directory, flush=True)
    time.sleep(3600)
"""


def test_what_a_killed_process_left_is_deleted_by_the_next_one_and_nothing_else(tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    left = Path(held.stdout.readline().strip())
    other = tmp_path / "mine-link"
    other.symlink_to(tmp_path)
    with temporary_directory("mine-", tmp_path) as mine:
        assert left.is_dir(), "its process lives"
        held.kill()
        held.wait()
        assert delete_left_over(tmp_path, "mine-") == [left]
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert list(tmp_path.iterdir()) == [other]
