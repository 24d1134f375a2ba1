"""`rankray confirm` through the command line: it trains for real, is killed, and finishes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures.searches import kill
from fixtures.waiting import until
from search.confirming import run_all
from store.helpers import drive, make_config

from rankray.config import load_config
from rankray.contracts import Report
from rankray.store import attach, list_studies, open_study
from rankray.store.records import steps_of

ACCURACY = "eval/accuracy"
WORDS = ("--finalists", "1", "--seeds", "2", "--set", "resources.concurrency=1")


def command(place: Any, *words: str) -> list[str]:
    return [sys.executable, "-m", "rankray", "confirm", "tiny", "--store", place.store, *WORDS, *words]


@pytest.mark.slow
def test_a_killed_confirmation_finishes_and_leaves_the_search_alone(place, seed):
    """Killed with all that belongs to it after some report, drawn from the seed."""
    search = load_config(place.file, ["study.trials=2", "study.known=[paper]"]).config
    run_all(lambda params: 1.0, 0.1, "eval/nll")(open_study(place.store, search), None)
    before = place.status(), place.trials()
    reports = random.Random(seed).randrange(1, 11)

    def reported() -> int:
        try:
            trials = attach(place.store, "tiny.confirm").trials()
        except ValueError:
            return 0
        return sum(len(steps_of(trial)) for trial in trials)

    with open(place.log, "ab") as log:
        running = subprocess.Popen(
            command(place), stdout=log, stderr=log, start_new_session=True, env=place.environment()
        )
    until(lambda: reported() >= reports or running.poll() is not None)
    assert kill(running, signal.SIGKILL) != 2, place.log.read_text()
    done = subprocess.run(command(place, "--json"), capture_output=True, text=True, env=place.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["study"], found["metric"], found["seeds"]) == ("tiny", "eval/nll", 2)
    assert found["verdict"]["word"] in ("better", "worse", "indistinguishable", "under-powered")
    assert [len(side["values"]) for side in (found["finalists"][0], found["baseline"])] == [2, 2]
    assert found["baseline"]["params"]["loss.objective"] == "sft"
    assert (place.status(), place.trials()) == before
    runs = place.trials("tiny.confirm").values()
    assert [run["state"] for run in runs] == ["complete"] * 4
    assert len({run["params"]["train.seed"] for run in runs}) == 4


def test_a_plan_is_printed_without_torch_or_ray_and_writes_nothing(tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    study = {"trials": 3, "sampler": "random", "pruner": "none", "known": ["paper", "sft"]}
    drive(open_study(url, make_config(study=study)))
    words = ["rankray", "confirm", "s", "--store", url, "--plan", "--json", "--looks", "4,8"]
    probe = f"import sys; sys.argv = {words!r}\nfrom rankray.cli.app import main\ntry:\n    main()\n"
    probe += "except SystemExit as end:\n    print(end.code)\nprint([m for m in ('torch', 'ray') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    plan, code, heavy = done.stdout.splitlines()
    assert (code, heavy) == ("0", "[]")
    found = json.loads(plan)
    assert found["runs"]["decide"] == 16
    assert [row["seeds"] for row in found["looks"]] == [4, 8]
    assert {row["seeds"]: round(row["half_width_sd"], 2) for row in found["tells"]}[8] == 1.07
    assert list_studies(url) == ["s"]


def test_a_plan_is_of_the_metric_that_is_asked_for(tmp_path):
    """Plain NLL and accuracy disagree on which trial is best, and each plan is of its own."""
    made = make_config(
        study={"trials": 3, "sampler": "random", "pruner": "none", "metrics": ["eval/nll", ACCURACY]},
        loss={"objective": "rri"},
        space={"train.learning_rate": {"float": [1e-5, 1e-2], "log": True}},
        evaluate={"every_steps": 10, "metrics": ["accuracy"]},
    )
    with open_study(f"sqlite:///{tmp_path}/store.db", made) as study:
        for accuracy in (0.1, 0.2, 0.3):
            ticket = study.next_trial()
            figures = {"eval/nll": 1 + accuracy, ACCURACY: accuracy}
            study.report(ticket.number, Report(made.full_steps, figures))
            study.complete(ticket.number, figures)
    done = [run(tmp_path, "s", "--plan", "--json", *words) for words in ((), ("--metric", ACCURACY))]
    plans = [json.loads(each.stdout or each.stderr) for each in done]
    assert [plan["metric"] for plan in plans] == ["eval/nll", ACCURACY]
    assert [plan["confirmation"] for plan in plans] == ["s.confirm", "s.confirm-accuracy"]
    assert [plan["finalists"][0]["value"] for plan in plans] == [1.1, 0.3]
    refused = run(tmp_path, "s", "--plan", "--metric", "eval/acuracy")
    assert refused.returncode == 2
    assert "--metric eval/acuracy: s was not selected by it (did you mean 'eval/accuracy'?)" in refused.stderr


def run(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RANKRAY_STORE": f"sqlite:///{directory}/store.db"}
    done = [sys.executable, "-m", "rankray", "confirm", *words]
    return subprocess.run(done, capture_output=True, text=True, env=environment, cwd=directory)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("s", "--looks", "4,x"), "--looks 4,x; allowed: numbers of seeds, as in 4,8,12,16"),
        (("s", "--seeds", "1"), "--seeds 1; allowed: 2 or more"),
        (("s",), "there is no such file"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(words, says, tmp_path):
    done = run(tmp_path, *words)
    assert (done.returncode, done.stderr.startswith("error: ")) == (2, True), done.stderr
    assert says in done.stderr


def test_how_looks_share_the_level_is_refused_without_looks(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    drive(open_study(url, make_config(study={"trials": 6, "pruner": "none"})))
    words = ["confirm", "s", "--plan", "--spending", "pocock", "--store", url]
    assert "--spending without --looks changes nothing; allowed: beside it" in rankray(*words, expect=2)
    assert "its level" in rankray(*words, "--looks", "4,8")


def test_more_finalists_than_there_are_settings_are_those_there_are(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    study = {"trials": 3, "sampler": "random", "pruner": "none", "known": ["paper", "sft"]}
    drive(open_study(url, make_config(study=study)))
    words = ["confirm", "s", "--plan", "--json", "--store", url]
    plan, *said = rankray(*words, "--finalists", "99").splitlines()
    there = len(json.loads(plan)["finalists"])
    assert 0 < there < 5
    assert any(
        f"99 finalists are asked for; settings with a complete trial, other than plain SFT: {there}" in each
        for each in said
    )
    assert "are asked for" not in rankray(*words), "five are the default, which nobody asked for"


def test_what_is_refused_is_named_as_it_was_typed(rankray, tmp_path):
    url = f"sqlite:///{tmp_path}/store.db"
    drive(open_study(url, make_config(study={"trials": 3, "pruner": "none"})))
    for given in ("resources.workers=0", "train.max_steps=7", "resources.wrkers=2"):
        said = rankray("confirm", "s", "--plan", "--store", url, "--set", given, expect=2)
        assert said.startswith(f"error: --set {given.partition('=')[0]}: ")
