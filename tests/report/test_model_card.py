"""The card of an exported model."""

import pytest
from fixtures.overviews import NASTY, add_verdict, make_overview
from huggingface_hub import ModelCard

from rankray.report.model_card import model_card


def make(nasty="", **changes):
    overview = make_overview(20, nasty=nasty)
    overview["config"] |= {
        "model": {"path": "Qwen/Qwen2.5-0.5B"},
        "data": {"train": "openai/gsm8k:main:train[:100]", "eval": "/private/place/held_out.jsonl"},
    }
    best = overview["best"]
    best["metrics"] = {"eval/accuracy": 0.5, "eval/accuracy_stderr": 0.031, "eval/nll": None, "train/nll": 1.0}
    return overview, best | changes


def test_the_metadata_are_what_the_hub_reads():
    overview, trial = make()
    card = ModelCard(model_card(overview, trial, adapter=True, name="someone/model"))
    assert card.data.base_model == "Qwen/Qwen2.5-0.5B"
    assert card.data.datasets == ["openai/gsm8k"]
    assert card.data.library_name == "peft"
    [result] = card.data.eval_results
    assert (result.metric_name, result.metric_value) == ("eval/accuracy", 0.5)


def test_the_text_has_metrics_with_errors_settings_verdict_and_lineage():
    overview, trial = make()
    text = model_card(overview, trial, adapter=False, name="m")
    for words in (
        "0.5 ± 0.031",
        "loss.objective",
        "**not confirmed**",
        "sha256:1",
        "held\\_out.jsonl",
        "python",
        "1234",
    ):
        assert words in text, words
    assert "/private/place" not in text, "where files lay is nobody's business"
    assert "needs its base" not in text


def test_weights_that_were_rounded_after_their_evaluation_are_said():
    overview, trial = make()
    text = model_card(overview, trial, adapter=False, name="m", rounded="bfloat16")
    assert "added to the base model's weights and rounded to bfloat16." in text
    assert "rounded" not in model_card(overview, trial, adapter=False, name="m")


def test_a_mixture_is_named_by_its_entries():
    overview, trial = make()
    mixture = [{"path": "/private/place/a.jsonl", "weight": 2.0}, {"path": "openai/gsm8k:main:train", "weight": 1.0}]
    overview["config"]["data"] = {"train": mixture, "eval": mixture[:1]}
    text = model_card(overview, trial, adapter=False, name="m")
    card = ModelCard(text)
    assert card.data.datasets == ["openai/gsm8k"]
    assert card.data.eval_results[0].dataset_name == "a.jsonl"
    assert "| train | a.jsonl, openai/gsm8k:main:train |" in text
    assert "/private" not in text


def test_another_trial_than_the_best_says_so():
    overview, trial = make()
    other = next(each for each in overview["trials"] if each["number"] != trial["number"])
    assert "This is not the best trial of its search." in model_card(overview, other, adapter=False, name="m")


@pytest.mark.parametrize("word", ["better", "under-powered"])
def test_the_verdict_stands_in_the_card_of_the_trial_that_it_is_about(word):
    overview, best = make()
    other = next(each for each in overview["trials"] if each["number"] != best["number"])
    add_verdict(overview, other, word)
    assert f"**{word}**: eval/accuracy 0.7" in model_card(overview, other, adapter=False, name="m")
    text = model_card(overview, best, adapter=False, name="m")
    assert f"The verdict of `rankray confirm`, {word}, is on trial {other['number']}, not on this one." in text
    assert "eval/accuracy 0.7" not in text


@pytest.mark.parametrize("path", ["/models/base", "./base", "base"])
def test_a_local_base_model_is_no_hub_id(path):
    overview, trial = make()
    overview["config"]["model"]["path"] = path
    text = model_card(overview, trial, adapter=False, name="m")
    assert ModelCard(text).data.base_model is None
    assert "/models" not in text


def test_what_the_store_holds_is_text():
    overview, trial = make(NASTY)
    text = model_card(overview, trial, adapter=False, name="m").split("---\n", 2)[2]
    assert "<script" not in text
    assert "<img" not in text
