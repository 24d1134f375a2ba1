"""`rankray status`, `show` and `best`: for people, and as JSON for programs."""

import json
import math

import pytest
import yaml
from store.helpers import begin, drive, make_config

from rankray.store import open_study


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"model": {"path": "m", "trust_remote_code": True}}, "model.trust_remote_code"),
        ({"evaluate": {"every_steps": 10, "functions": ["a:b"]}}, "evaluate.functions"),
        ({"evaluate": {"every_steps": 10, "allow_code_execution": True}}, "evaluate.allow_code_execution"),
    ],
)
def test_no_file_from_a_store_runs_code_unasked(rankray, tmp_path, changed, named):
    url = f"sqlite:///{tmp_path}/code.db"
    drive(open_study(url, make_config(study={"trials": 1}, **changed)))
    assert f"best: {named} in the store" in rankray("best", "s", "--yaml", "--store", url, expect=2)
    assert named.split(".")[-1] in rankray("best", "s", "--yaml", "--code", "--store", url)


def test_status(rankray, url):
    shown = json.loads(rankray("status", "s", "--store", url, "--json"))
    assert shown["study"] == "s"
    assert shown["state"] == "complete"
    assert shown["budget"] == {"trials": 3, "finished": 3}
    assert shown["trials"].keys() == {"complete", "pruned", "failed", "running", "waiting"}
    assert sum(shown["trials"].values()) == 3
    assert shown["best"].keys() == {"number", "value", "params"}
    assert "eval/nll" in rankray("status", "s", "--store", url)


def test_show(rankray, url):
    trial = json.loads(rankray("show", "s", "1", "--store", url, "--json"))
    assert trial["number"] == 1
    assert math.isfinite(trial["value"])
    assert "train.learning_rate" in trial["params"]
    assert "learning_rate" in rankray("show", "s", "1", "--store", url)
    assert "error: " in rankray("show", "s", "7", "--store", url, expect=2)


@pytest.mark.parametrize("given", ["best", "1.0", "١", "9" * 30, ""])
def test_show_takes_a_number_and_says_what_shows_the_best(rankray, url, given):
    said = rankray("show", "s", given, "--store", url, expect=2)
    assert said.startswith("error: show: got '")
    assert "allowed: a trial's number, 0 or more, as rankray status s lists them; give one, or rankray best s" in said


def test_status_watches_until_the_search_ends(rankray, url, monkeypatch):
    """Running twice, then complete; nobody waits, and a pipe gets each look as lines."""
    from rankray.cli import look
    from rankray.store import views

    real, states, waits = views.status, ["running", "running", "complete"], []
    monkeypatch.setattr(views, "status", lambda study: real(study) | {"state": states.pop(0)})
    monkeypatch.setattr(look, "sleep", waits.append)
    said = rankray("status", "s", "--store", url, "--watch")
    assert [said.count(f"s  {state}  3/3 finished") for state in ("running", "complete")] == [2, 1]
    assert waits == [look.PIPED_SECONDS] * 2


def test_show_says_where_settings_come_from(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    places = {"train.max_steps": "f.yaml:7", "train.gone": "f.yaml:8"}
    drive(open_study(url, make_config(study={"trials": 1}), provenance={"places": places}))
    lines = [line.split() for line in rankray("show", "s", "0", "--store", url).splitlines()]
    assert ["train.max_steps", "40", "f.yaml:7"] in lines
    shown = json.loads(rankray("show", "s", "0", "--store", url, "--json"))
    assert shown["settings"] == {"train.max_steps": {"value": 40, "from": "f.yaml:7"}}


def test_show_of_a_mixture_says_what_its_entries_give(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    mixture = [{"path": "a.jsonl", "weight": 2.0}, {"path": "b.jsonl", "weight": 1.0}]
    config = make_config(study={"trials": 1}, data={"train": mixture, "eval": "e.jsonl"})
    drive(open_study(url, config, provenance={"places": {"data.train": "f.yaml:3"}}))
    shown = json.loads(rankray("show", "s", "0", "--store", url, "--json"))["settings"]
    assert shown["data.train"]["value"] == mixture
    assert "SourceSection" not in rankray("show", "s", "0", "--store", url)


def test_best(rankray, url):
    best = json.loads(rankray("best", "s", "--store", url, "--json"))
    shown = json.loads(rankray("show", "s", str(best["number"]), "--store", url, "--json"))
    assert {"number", "value", "params"} <= best.keys()
    assert {key: shown[key] for key in ("number", "value", "params")} == {
        key: best[key] for key in ("number", "value", "params")
    }
    made = yaml.safe_load(rankray("best", "s", "--store", url, "--yaml"))
    assert made["train"]["learning_rate"] == best["params"]["train.learning_rate"]
    assert "rankray train" in rankray("best", "s", "--store", url)


def test_a_study_that_is_not_there_is_named_with_those_that_are(rankray, url):
    said = rankray("status", "t", "--store", url, expect=2)
    assert "t" in said
    assert "s" in said


def test_explain(rankray):
    assert "loss.temperature" in rankray("explain", "loss.temperature")
    assert "did you mean 'loss.temperature'" in rankray("explain", "loss.temprature", expect=2)


def test_printed_commands_name_the_store_s_whole_path(rankray, url, monkeypatch, tmp_path):
    """A report is kept or sent, and a terminal changes its directory."""
    monkeypatch.chdir(tmp_path)
    for given in ("sqlite:///store.db", "sqlite:///./store.db", f"sqlite:///{tmp_path}/store.db"):
        for words in (("best", "s"), ("report", "s", "-o", "-", "--format", "md")):
            said = rankray(*words, "--store", given)
            assert f"--store sqlite:///{tmp_path}/store.db" in said
            assert "sqlite:///store.db" not in said


def test_each_of_several_metrics_says_which_way_is_better(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/several.db"
    study = {"metrics": ["eval/accuracy", "eval/nll"], "trials": 3, "pruner": "none"}
    with open_study(url, make_config(study=study, evaluate={"metrics": ["accuracy"], "every_steps": 10})) as held:
        for accuracy, value in ((0.5, 1.0), (0.7, 2.5), (0.4, 0.5)):
            held.complete(begin(held).number, {"eval/accuracy": accuracy, "eval/nll": value})
    ways = "eval/accuracy: higher is better; eval/nll: lower is better"
    for verb in (["status", "s"], ["best", "s"]):
        assert ways in rankray(*verb, "--store", url)
    assert json.loads(rankray("status", "s", "--store", url, "--json"))["directions"] == {
        "eval/accuracy": "maximize",
        "eval/nll": "minimize",
    }
    page = tmp_path / "page.html"
    rankray("report", "s", "--store", url, "-o", str(page))
    assert f"<p>{ways}</p>" in page.read_text()
    text = tmp_path / "page.md"
    rankray("report", "s", "--store", url, "--format", "md", "-o", str(text))
    assert ways in text.read_text().replace("\\", "")


def test_one_metric_needs_no_line_of_its_own(rankray, url):
    assert "is better" not in rankray("status", "s", "--store", url)


def test_the_command_of_a_trial_is_one_line_however_long(rankray, url):
    shown = rankray("show", "s", "0", "--store", url)
    commands = [line for line in shown.splitlines() if line.startswith("train it again:")]
    trial = json.loads(rankray("show", "s", "0", "--store", url, "--json"))
    for path in trial["params"]:
        assert all(f" --set {path}=" in line for line in commands)
    assert len(commands) == (trial["state"] == "complete")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "--json", "--watch"), "status: --json and --watch ask for different outputs"),
        (("best", "--json", "--yaml"), "best: --json and --yaml ask for different outputs"),
        (("best", "--code"), "best: --code without --yaml changes nothing"),
    ],
)
def test_options_that_exclude_each_other(rankray, url, words, said):
    verb, *options = words
    assert said in rankray(verb, "s", *options, "--store", url, expect=2)
