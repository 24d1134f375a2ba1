"""Everybody who watches hears everything, the checkpoints first."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rankray.checkpoints.retention import CheckpointRetention
from rankray.contracts import Report
from rankray.errors import StoreUnavailable
from rankray.search import news as news_module
from rankray.search.news import CheckpointObserver, News


class Watcher:
    def __init__(self, name, heard):
        self.name, self.heard = name, heard

    def __getattr__(self, event):
        return lambda *args: self.heard.append((self.name, event, *args))


def test_every_observer_hears_everything_and_the_newest_hears_it_first():
    heard = []
    news = News(Watcher("view", heard))
    news.add(Watcher("checkpoints", heard))
    report = Report(5, {"eval/nll": 2.0}, "place")
    events = [
        ("phase", "starting Ray"),
        ("started", 3, {"train.learning_rate": 1e-4}, "sampler", 5, "place"),
        ("reported", 3, report),
        ("ended", 3, "pruned", 2.0, "behind"),
    ]
    for event, *args in events:
        getattr(news, event)(*args)
    assert heard == [(name, *event) for event in events for name in ("checkpoints", "view")]


@pytest.fixture
def retention(tmp_path):
    return CheckpointRetention(str(tmp_path), "study")


def checkpoint(retention, number, step):
    path = Path(retention.directory(number)) / f"step-{step}"
    path.mkdir(parents=True)
    return path


def test_checkpoints_are_deleted_as_the_store_commits_and_ends(retention, monkeypatch):
    ended = set()
    monkeypatch.setattr(news_module, "kept_checkpoints", lambda study: (ended, set()))
    observer = CheckpointObserver(SimpleNamespace(name="study"), retention)
    first, second, third, fourth = (checkpoint(retention, 0, step) for step in (1, 2, 3, 4))
    observer.started(0, {}, "sampler", 1, str(first))
    observer.reported(0, Report(2, {}))
    assert first.exists(), "a report without a checkpoint replaces none"
    observer.reported(0, Report(2, {}, str(second)))
    assert first.exists(), "the one before is kept, should the last one be damaged"
    observer.reported(0, Report(3, {}, str(third)))
    assert not first.exists()
    ended.add(0)
    observer.ended(0, "lost", None, "its process died")
    assert third.exists(), "it will be resumed from there"
    observer.started(0, {}, "sampler", 2, str(third))
    observer.ended(0, "pruned", 2.0, "behind")
    assert not fourth.exists()
    assert not third.exists()
    assert not second.exists()


def test_while_the_store_is_unreachable_nothing_is_deleted(retention, monkeypatch):
    def unreachable(study):
        raise StoreUnavailable("away")

    path = checkpoint(retention, 0, 1)
    monkeypatch.setattr(news_module, "kept_checkpoints", unreachable)
    CheckpointObserver(SimpleNamespace(name="study"), retention).ended(0, "pruned", 1.0, "behind")
    assert path.exists()
