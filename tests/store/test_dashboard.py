"""optuna-dashboard on a store: what it shows, and that it changes nothing."""

import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from rankray.errors import StoreError
from rankray.report.browser import Browser, find_browser
from rankray.store import attach, open_study, views
from rankray.store import dashboard as dashboard_file
from rankray.store.dashboard import ShownStorage, serve_dashboard
from store.helpers import drive, make_config

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    drive(open_study(url, make_config(study={"trials": 4, "metric": "eval/nll"})))
    return url


@contextmanager
def serving(url):
    with serve_dashboard(url, "s", 0) as (server, address):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield address
        server.shutdown()
        thread.join()


@pytest.fixture
def served(url):
    """The address of a dashboard that answers while the test runs."""
    with serving(url) as address:
        yield address


def ask(address, path, method="GET", body=None):
    root = address.split("/dashboard")[0]
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(root + path, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def test_it_lists_the_study_without_its_claims_and_names_the_metric(served):
    [study] = ask(served, "/api/studies")["study_summaries"]
    assert study["study_name"] == "s"
    assert served.endswith(f"/{study['study_id']}")
    detail = ask(served, f"/api/studies/{study['study_id']}")
    assert detail["objective_names"] == ["eval/nll"]
    assert len(detail["trials"]) == 4
    attributes = {item["key"] for trial in detail["trials"] for item in trial["user_attrs"]}
    assert {"origin", "eval/nll"} <= attributes
    assert not [key for key in attributes if key.startswith("rankray:")]


def test_it_can_change_nothing(served, url):
    before = views.trials(attach(url, "s"))
    number = served.rpartition("/")[2]
    for method, path, body in (
        ("DELETE", f"/api/studies/{number}", None),
        ("POST", f"/api/studies/{number}/rename", {"study_name": "t"}),
        ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
        ("POST", "/api/trials/1/tell", {"state": "Complete", "values": [0.0]}),
        ("PUT", f"/api/studies/{number}/note", {"body": "x", "version": 1}),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(served, path, method, body)
        assert refused.value.code == 405
        assert refused.value.headers["Allow"] == "GET, HEAD"
        assert "changes nothing; allowed: looking" in json.loads(refused.value.read())["reason"]
    assert views.trials(attach(url, "s")) == before
    assert [each["study_name"] for each in ask(served, "/api/studies")["study_summaries"]] == ["s"]


def test_every_method_that_writes_is_refused():
    """A new one in Optuna's interface would be passed on: this names all that there are."""
    from optuna.storages import BaseStorage

    writing = {name for name in vars(BaseStorage) if name.startswith(("set_", "create_", "delete_"))}
    refused = {name for name in writing if vars(ShownStorage).get(name) is ShownStorage._refuse}
    assert writing == refused


def test_what_cannot_be_served_is_named(url, served, monkeypatch):
    port = int(served.split(":")[2].split("/")[0])
    with pytest.raises(StoreError, match=rf"port {port} cannot be listened on"), serve_dashboard(url, "s", port):
        pass
    with pytest.raises(StoreError, match="there is none of this name"), serve_dashboard(url, "t", 0):
        pass
    monkeypatch.setattr(dashboard_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StoreError, match=r"pip install 'rankray\[dashboard\]'"), serve_dashboard(url, "s", 0):
        pass


@pytest.mark.skipif(find_browser() is None, reason="no Chromium or Chrome on PATH")
@pytest.mark.parametrize("trials", [0, 4, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_browser_draws_it_and_asks_nobody_else(tmp_path, trials):
    url = f"sqlite:///{tmp_path}/store.db"
    study = open_study(url, make_config(study={"trials": trials or 1, "metric": "eval/nll", "sampler": "random"}))
    if trials:
        drive(study)
    with serving(url) as served, Browser() as browser:
        browser.call("Page.navigate", url=served)
        browser.wait_for("document.body.innerText.includes('History')")
        if trials:
            browser.wait_for("document.querySelectorAll('.js-plotly-plot path').length > 3")
            browser.wait_for("document.body.innerText.includes('eval/nll')")
        events = browser.events
    bad = [event for event in events if event["method"] == "Runtime.exceptionThrown"]
    logged = [event["params"]["entry"] for event in events if event["method"] == "Log.entryAdded"]
    bad += [entry for entry in logged if entry["level"] == "error"]
    assert not bad, json.dumps(bad)[:2000]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    root = served.split("/dashboard")[0]
    assert [url for url in asked if not url.startswith((root, "data:", "blob:"))] == []
