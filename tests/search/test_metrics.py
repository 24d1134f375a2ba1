"""Whole: searches that maximise what is generated, through the command line, one of them with two workers."""

import json
import subprocess
import sys

import pytest

ANSWERS = [
    *("--set", "evaluate.max_new_tokens=4", "--set", "evaluate.max_examples=9", "--set", "evaluate.every_steps=1"),
    *("--set", "train.max_steps=2", "--set", "study.trials=2", "--set", "study.known=[]"),
]


def searched(place, metric, *words):
    name = metric.removeprefix("eval/")
    place.search("--set", f"study.metric={metric}", "--set", f"evaluate.metrics=[nll, {name}]", *ANSWERS, *words)
    status = place.status()
    assert status["budget"] == {"trials": 2, "finished": 2}
    assert status["direction"] == "maximize"
    before = status["untrained"]["metrics"]
    for trial in place.trials().values():
        for record in trial["steps"]:
            figures = record["metrics"]
            assert 0 <= figures[metric] <= 1
            assert figures[f"{metric}_n"] == 9
            assert figures[f"{metric}_stderr"] >= 0
        assert trial["worse_than_untrained"] is (trial["value"] < before[metric])
    assert before.keys() == {f"{name}{end}" for name in ("eval/nll", metric) for end in ("", "_stderr", "_n")}
    return status


def test_right_answers_over_two_seeds(place):
    status = searched(place, "eval/accuracy", "--set", "study.seeds=2", "--set", "evaluate.rungs={answers: 9}")
    words = [sys.executable, "-m", "rankray", "status", "tiny", "--store", place.store]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert f"the untrained model: eval/accuracy {status['untrained']['value']:.5g}" in shown
    assert len(place.trials()[0]["steps"]) == 4


@pytest.mark.slow  # avg@4 of two ranks: evaluate/test_ranks.py; a search of groups: test_group.py
def test_the_mean_over_samples_with_two_workers(place):
    status = searched(place, "eval/avg@4", "--set", "resources.workers=2")
    best = place.trials()[status["best"]["number"]]
    words = [sys.executable, "-m", "rankray", "evaluate", best["checkpoint"], "--json"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = json.loads(shown.splitlines()[-1])["metrics"]
    assert found["eval/avg@4"]["value"] == pytest.approx(best["value"], abs=1e-9), "alone as together"


@pytest.mark.slow
def test_one_of_four_samples(place):
    searched(place, "eval/pass@4", "--set", "evaluate.samples=6", "--set", "evaluate.rungs={sampled: true}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("eval/accuracy", ()),
        ("eval/avg@4", ("--set", "resources.workers=2")),
        ("eval/pass@4", ("--set", "evaluate.samples=6", "--set", "evaluate.rungs={sampled: true}")),
    ],
)
def test_a_pretrained_model_on_real_problems(place, assets, metric, words):
    """stories260K on GSM8K: it answers nothing right, and every number is there and counted all the same."""
    gsm8k = assets / "data" / "gsm8k"
    real = {
        "model.path": assets / "models" / "stories260K",
        "data.train": gsm8k / "train.jsonl",
        "data.eval": gsm8k / "test.jsonl",
        "data.max_length": 192,
        "train.batch_size": 4,
    }
    sets = [word for path, value in real.items() for word in ("--set", f"{path}={value}")]
    searched(place, metric, *sets, *words)
