"""What is shown of a study at the end."""

import io

import pytest
from rich.console import Console

from rankray.report.tables import question, summary

ORIGIN = {"study": "s", "store": "sqlite:///s.db", "file": "f.yaml", "overrides": {}, "confirms": None}


def test_the_summary_shows_the_best_beside_the_baselines():
    out = io.StringIO()
    rows = [
        {"what": "rri", "number": 5, "value": 0.75, "params": {"loss.objective": "rri"}, "state": "complete"},
        {"what": "baseline:sft", "number": 0, "value": 0.5, "params": {}, "state": "pruned", "step": 20},
    ]
    best = {"number": 5, "value": 0.75, "params": {"loss.objective": "rri"}, "checkpoint": "runs/x"}
    counts = {"complete": 3, "pruned": 2, "failed": 0}
    summary(
        Console(file=out, width=120),
        origin=ORIGIN,
        metric="eval/accuracy",
        best=best,
        objectives=rows,
        status={"study": "s", "trials": counts, "store": "sqlite:///s.db"},
    )
    text = out.getvalue()
    assert "plain SFT, fixed (pruned at step 20)" in text
    assert "eval/accuracy = 0.75 (trial 5; 3 complete, 2 pruned, 0 failed)" in text
    assert "rankray show s 5 --store sqlite:///s.db" in text
    assert "rankray train f.yaml --set loss.objective=rri" in text
    assert "rankray confirm s --plan --store sqlite:///s.db" in text


def summed_up(trials, by="trials", value=0.5, **views):
    """Return the summary of a search with so many complete trials, the first of them the best."""
    out = io.StringIO()
    summary(
        Console(file=out, width=120),
        origin=ORIGIN,
        metric="eval/accuracy",
        best={"number": 0, "value": value, "params": {}},
        objectives=[],
        status={
            "study": "s",
            "trials": {"complete": trials, "pruned": 0, "failed": 0},
            "store": "sqlite:///s.db",
            "ended": by and {"by": by},
        },
        **views,
    )
    return out.getvalue()


SFT, RRI = {"what": "sft", "number": 1, "plain_sft": True}, {"what": "rri", "number": 2, "plain_sft": False}


@pytest.mark.parametrize(
    ("best", "rows", "asked"),
    [
        (RRI, [RRI, SFT], "is it really better than plain SFT?"),
        (RRI, [RRI], "is it really better than plain SFT?"),
        (SFT, [RRI, SFT], "it is plain SFT; is any other setting better on new seeds?"),
        (SFT, [{**RRI, "state": "pruned"}, SFT], ""),
        (SFT, [SFT], ""),
    ],
)
def test_what_confirm_would_answer_depends_on_whether_the_best_is_plain_sft(best, rows, asked):
    assert question(best, rows) == asked


@pytest.mark.parametrize(("trials", "said"), [(4, False), (5, True)])
def test_the_summary_says_where_the_metric_tells_nothing(trials, said):
    text = summed_up(trials, value=0.0, alike={"trials": trials, "value": 0.0})
    assert (f"warning: all {trials} complete trials have eval/accuracy 0: it does not" in text) == said


@pytest.mark.parametrize("untried", [{}, {"loss.objective": ["dft", "talr"], "loss.base": ["prob"]}])
@pytest.mark.parametrize(
    ("by", "how"),
    [
        ("trials", "a larger study.trials and the same command try more"),
        ("money", "a larger study.budget.money and the same command try more"),
        (None, "the search has not ended"),
    ],
)
def test_the_summary_says_which_choices_no_trial_has_had(untried, by, how):
    text = summed_up(8, by, untried=untried)
    said = f"not tried: objective dft, talr; base prob; {how}\n\n"
    assert text.startswith(said) == bool(untried)
    assert ("not tried" in text) == bool(untried)


@pytest.mark.parametrize("word", ["better", "worse"])
@pytest.mark.parametrize(("number", "rate"), [(5, 0.25), (3, 0.125)])
def test_the_summary_ends_with_what_was_confirmed(number, rate, word):
    out = io.StringIO()
    trials = {at: {"number": at, "value": 0.5, "params": {"r": r}} for at, r in ((5, 0.25), (3, 0.125))}
    said = {"confirmation": "s.confirm", "verdict": {"word": word, "text": f"{word}: 0.7 [b]against[/b] 0.6"}}
    said["baseline"] = {"params": {"loss.objective": "sft"}}
    summary(
        Console(file=out, width=120),
        origin=ORIGIN,
        metric="m",
        best=trials[5],
        objectives=[],
        status={
            "study": "s",
            "trials": {"complete": 3, "pruned": 2, "failed": 0},
            "store": "sqlite:///s.db",
            "budget": {"finished": 5},
        },
        confirmed=(
            confirmed := trials[number] | {"verdicts": [said | {"search_finished": 3}], "checkpoint": "runs/kept"}
        ),
        recommended=confirmed if word == "better" else trials[5],
    )
    text = out.getvalue()
    assert "rankray confirm" not in text
    assert "m = 0.5 (trial 5;" in text
    assert f"verdict (s.confirm): {word}: 0.7 [b]against[/b] 0.6" in text
    assert "2 trials have finished since then, and were not compared" in text
    if word == "worse":
        assert "rankray show s 5 --store" in text
        better = "train plain SFT at its best rate, which is better:\n  rankray train f.yaml --set loss.objective=sft\n"
        assert text.endswith(f"{better}train the search's best:\n  rankray train f.yaml --set r=0.25\n")
        return
    assert f"rankray show s {number} --store" in text
    assert text.endswith(f"rankray train f.yaml --set r={rate}\n")
    assert ("trial 3 was chosen" in text) == ("runs/kept" in text) == (number == 3)


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_best_trial_that_is_plain_sft_is_not_taken_for_the_one_of_the_verdict(is_plain):
    said = {"confirmation": "s.confirm", "verdict": {"word": "worse", "text": "worse: 0.4 (trial 1) against 0.6"}}
    said["baseline"] = {"params": {"loss.objective": "sft"}}
    best = {"number": 2, "value": 0.5, "params": {"loss.objective": "sft"}, "plain_sft": is_plain}
    out = io.StringIO()
    summary(
        Console(file=out, width=120),
        origin=ORIGIN,
        metric="m",
        best=best,
        objectives=[],
        status={"study": "s", "trials": {"complete": 3, "pruned": 2, "failed": 0}, "store": "sqlite:///s.db"},
        confirmed={"number": 1, "value": 0.4, "params": {}, "verdicts": [said]},
        recommended=best,
    )
    assert ("trial 2 is plain SFT; the verdict is on trial 1" in out.getvalue()) == is_plain
    assert out.getvalue().count("--set loss.objective=sft") == 1


def test_the_summary_of_nothing_says_so():
    out = io.StringIO()
    summary(Console(file=out), origin=ORIGIN, metric="m", best=None, objectives=[], status={"study": "s"})
    assert "no trial is complete yet" in out.getvalue()
