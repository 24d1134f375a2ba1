"""One trial in the terminal."""

import io

import pytest
from rich.console import Console

from rankray.report.trial import TrialView

NAMES = ["eval/nll", "eval/accuracy", "train/nll", "train/loss", "train/effective_tokens", "train/scale_near_one_share"]


def make_trial(steps=8):
    return {
        "number": 7, "state": "pruned", "origin": "baseline:paper", "reason": "0.297 at step 50 is below 0.34",
        "params": {"loss.temperature": 0.75, "loss.form": "exact"},
        "steps": [
            {"step": 25 * n, "metrics": {name: n + index / 10 for index, name in enumerate(NAMES)}}
            for n in range(1, steps + 1)
        ],
        "checkpoint": "runs/7/checkpoint-50", "checkpoint_exists": False, "traceback": "",
        "work_lost": [{"steps": 3, "wall_seconds": 12.0, "reason": "its process died"}],
    }  # fmt: skip


def shown(trial, width, **options):
    console = Console(file=io.StringIO(), width=width)
    console.print(TrialView(trial, **options))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_every_metric_is_readable(width):
    text = shown(make_trial(), width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    for index, name in enumerate(NAMES):
        row = next(line for line in lines if line.startswith(f"{name} "))
        assert row.split()[1] == f"{1 + index / 10:.5g}"
        assert row.split()[-1] == f"{8 + index / 10:.5g}"
    assert next(line for line in lines if line.startswith("step")).split()[-1] == "200"
    assert "0.297 at step 50 is below 0.34" in text
    assert "checkpoint: runs/7/checkpoint-50 (not there)" in text
    assert "lost and trained again: 3 reported steps, 12 s (its process died)" in " ".join(text.split())


def test_steps_that_do_not_fit_are_left_out_or_all_shown():
    trial = make_trial(40)
    text = shown(trial, 80)
    assert " of 40 reports; all of them with --all-steps" in text
    whole = shown(trial, 80, all_steps=True)
    assert "--all-steps" not in whole
    steps = [word for line in whole.splitlines() if line.startswith("step") for word in line.split()[1:]]
    assert steps == [str(25 * n) for n in range(1, 41)]


def test_settings_say_where_they_come_from():
    given = [("loss.temperature", 9.0, "f.yaml:9"), ("train.max_steps", 50, "f.yaml:7")]
    given.append(("train.seed", 3, "--set train.seed"))
    given.append(("data.prompt", "{question}\n", "f.yaml:3"))
    lines = [line.split() for line in shown(make_trial(), 80, settings=given).splitlines()]
    assert ["data.prompt", '"{question}\\n"', "f.yaml:3"] in lines
    assert ["loss.temperature", "0.75", "searched"] in lines
    assert ["train.max_steps", "50", "f.yaml:7"] in lines
    assert ["train.seed", "3", "--set", "train.seed"] in lines
    assert not [line for line in lines if "f.yaml:9" in line]


def test_a_trial_that_has_reported_nothing():
    trial = make_trial(0) | {"state": "failed", "traceback": "Traceback\n[bold]not markup[/]", "params": {}}
    text = shown(trial, 80)
    assert "[bold]not markup[/]" in text
    assert "step" not in text.splitlines()[0]


def test_failed_attempts_and_the_command_that_trains_it_again():
    trial = make_trial() | {"failures": [{"reason": "RuntimeError: no", "traceback": "..."}]}
    assert "attempt 1 failed, and it was tried again: RuntimeError: no" in shown(trial, 120)
    assert "train it again" not in shown(trial, 120, again="rankray train f.yaml"), "it was pruned"
    assert "train it again: rankray train f.yaml" in shown(
        trial | {"state": "complete"}, 120, again="rankray train f.yaml"
    )


def test_a_command_is_not_broken_where_the_terminal_ends():
    again = "rankray train f.yaml " + " ".join(f"--set loss.temperature={n}" for n in range(20))
    console = Console(file=io.StringIO(), width=60)
    console.print(TrialView(make_trial() | {"state": "complete"}, again=again), crop=False)
    assert f"train it again: {again}\n" in console.file.getvalue()


def test_metrics_of_a_study_of_several_say_which_way_is_better():
    ways = {"eval/nll": "minimize", "eval/accuracy": "maximize"}
    assert "eval/nll: lower is better; eval/accuracy: higher is better" in shown(make_trial(), 80, directions=ways)
