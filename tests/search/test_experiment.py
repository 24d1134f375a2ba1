"""Whole searches, through the command line, on a real Ray."""

import json
import math
import subprocess
import sys

import pytest
import yaml
from fixtures.searches import AT_ONCE


def test_a_search_is_exact_and_is_extended_by_the_same_command(place):
    first = place.search(*AT_ONCE)
    status = place.status()
    assert status["state"] == "complete"
    assert status["budget"] == {"trials": 4, "finished": 4}
    assert status["trials"]["running"] == status["trials"]["waiting"] == 0
    assert status["best"]["number"] in place.trials()
    assert "rankray train" in first.stdout
    assert "the paper's setting" in first.stdout
    assert "raylet" not in first.stdout + first.stderr, "Ray is silent"
    before = place.recorded()

    again = place.search(*AT_ONCE)
    assert place.recorded() == before, "a finished search starts nothing"
    assert "starting Ray" not in again.stdout

    place.search("--set", "study.trials=6", *AT_ONCE)
    assert place.status()["budget"] == {"trials": 6, "finished": 6}
    after = place.recorded()
    assert {key: after[key] for key in before} == before
    assert {number for number, _ in after} - {number for number, _ in before} == {4, 5}
    for trial in place.trials().values():
        assert trial["state"] in ("complete", "pruned")
        assert trial["reason"] or trial["state"] == "complete"
        assert math.isfinite(trial["value"])

    words = [sys.executable, "-m", "rankray", "best", "tiny", "--store", place.store]
    best = json.loads(subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout)
    made = yaml.safe_load(subprocess.run([*words, "--yaml"], capture_output=True, text=True, check=True).stdout)
    assert made["loss"]["temperature"] == best["params"]["loss.temperature"]
    again = place.file.with_name("best.yaml")
    again.write_text(yaml.safe_dump(made))
    words = [sys.executable, "-m", "rankray", "train", str(again), "--json", "--set", "train.threads=1"]
    trained = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(trained.stdout.splitlines()[-1])["metrics"]["eval/nll"] == best["value"]


@pytest.mark.parametrize("workers", [1, 2])
def test_trap_a_file_in_the_current_directory_hides_no_library(place, tmp_path, workers):
    """Ray puts that directory first on the path of its workers."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("trl", "accelerate", "peft", "random"):
        (elsewhere / f"{name}.py").write_text(f"raise RuntimeError('the {name} of the current directory')")
    words = place.command("--set", "study.trials=1", "--set", f"resources.workers={workers}", *AT_ONCE)
    command = [sys.executable, "-P", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, env=place.environment(), cwd=elsewhere)
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.status()["budget"] == {"trials": 1, "finished": 1}


ONCE = """
import os


def once(model, tokenizer, rows):
    try:
        os.close(os.open(__file__ + ".raised", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return {"fine": 1.0}
    raise OSError("disk on fire")
"""


def test_a_trial_that_raises_is_failed_and_the_search_goes_on(place):
    """So is one whose point is refused: most batch sizes are no multiple of the micro batch."""
    (place.file.parent / "raising.py").write_text(ONCE)
    batches = ("--set", "train.micro_batch_size=4", "--set", "space.train.batch_size={int: [4, 16]}")
    drawn = ("--set", "study.sampler=random", "--set", "study.known=[]", "--set", "study.seed=1")
    place.search("--set", "evaluate.functions=[raising:once]", *batches, *drawn)
    status = place.status()
    assert status["budget"]["finished"] == 4
    failed = [trial for trial in place.trials().values() if trial["state"] == "failed"]
    raised = [trial for trial in failed if "disk on fire" in trial["reason"]]
    refused = [trial for trial in failed if trial["reason"].startswith("refused: train: got micro_batch_size 4")]
    assert len(raised) == 1
    assert "Traceback" in raised[0]["traceback"]
    assert refused
    assert len(raised) + len(refused) == len(failed)
    assert all(trial["params"]["train.batch_size"] % 4 for trial in refused)


def test_a_limit_of_the_budget_ends_a_search_and_says_so(place):
    """Long before its trials are used up; what ran then waits to be resumed, and nothing is left running."""
    words = ("--set", "study.trials=500", "--set", "study.budget.wall_hours=0.0002")
    done = subprocess.run(place.command(*words), capture_output=True, text=True, env=place.environment())
    status = place.status()
    assert done.returncode == (0 if status["trials"]["complete"] else 1), "without a complete trial it has failed"
    assert status["state"] == "complete"
    assert status["ended"]["by"] == "wall_hours"
    assert status["ended"]["reason"] in done.stdout + done.stderr
    assert status["spent"]["wall_hours"] >= 0.0002
    assert status["budget"]["finished"] < 500
    assert status["trials"]["running"] == 0
    assert status["drivers"] == []


def test_three_failures_before_any_success_stop_the_search_with_the_first_error(place):
    (place.file.parent / "broken.py").write_text(
        "def always(model, tokenizer, rows):\n    raise OSError('disk on fire')\n"
    )
    done = place.search("--set", "evaluate.functions=[broken:always]", expect=1)
    assert "trials all failed" in done.stderr
    assert "disk on fire" in done.stderr
    trials = place.status()["trials"]
    assert trials["failed"] >= 3
    assert trials["running"] == trials["complete"] == 0


def test_tune_is_told_to_save_nothing(monkeypatch):
    """It would save a trial at its end, ask for the next one meanwhile, and start a second process for that."""
    from ray import tune

    from rankray.search import experiment
    from rankray.search.control import Control
    from rankray.search.placement import Placement

    made = []

    class Tuner:
        def __init__(self, trainable, tune_config, run_config):
            made.append((tune_config, run_config))

        def fit(self):
            pass

    monkeypatch.setattr(tune, "Tuner", Tuner)
    experiment._tune(None, None, Placement({"CPU": 1.0}, 1, ""), Control())
    assert made[0][1].checkpoint_config.checkpoint_at_end is False
    assert made[0][0].reuse_actors
